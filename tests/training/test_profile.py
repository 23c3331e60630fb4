import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from arada.training import profile


@pytest.fixture
def step():
    """Three programs whose names tell which call they are of."""
    calls = []

    def step(x):
        calls.append(x)

        def named(x):
            return jnp.sin(x) + 1

        named.__name__ = f"call_{len(calls)}"
        return jax.jit(named)(x)

    return step


def events(directory):
    """The names of all that was traced."""
    (file,) = directory.rglob("*.trace.json.gz")
    return " ".join(event.get("name", "") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"])


def test_only_the_named_number_of_steps_is_traced(step, tmp_path):
    with profile.traced(step, 2, tmp_path) as traced:
        outputs = [float(traced(jnp.float32(0))) for _ in range(6)]
    assert outputs == [1.0] * 6
    found = events(tmp_path)
    assert [number for number in range(1, 7) if f"call_{number}" in found] == [3, 4]


def test_a_shorter_run_ends_its_trace(step, tmp_path):
    with profile.traced(step, 10, tmp_path) as traced:
        for _ in range(3):
            traced(jnp.float32(0))
    assert "call_3" in events(tmp_path)


def test_nothing_is_traced_by_default(step, tmp_path):
    with profile.traced(step, 0, tmp_path) as traced:
        assert traced is step
    assert list(tmp_path.iterdir()) == []

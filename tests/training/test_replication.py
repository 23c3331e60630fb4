import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from arada.data.splits import Split
from arada.models import BATCH_AXIS
from arada.training import streaming
from arada.training.replication import MAPPINGS, Replicas

EVERY = [(mapping, devices) for mapping in MAPPINGS for devices in (1, 2, 4)]


def replicas_of(mapping, devices):
    return Replicas(jax.devices()[:devices], mapping)


@pytest.mark.parametrize(("mapping", "devices"), EVERY)
def test_outputs_come_in_the_order_of_the_batch(mapping, devices):
    replicas = replicas_of(mapping, devices)
    assert len(replicas) == devices
    shard_sizes = []

    def f(scale, batch):
        shard_sizes.append(len(batch["x"]))
        total = lax.psum(jnp.sum(batch["x"]), BATCH_AXIS)
        return {"scaled": scale * batch["x"], "nested": {"total": jnp.full(len(batch["x"]), total)}}

    mapped = replicas.map(f, in_axes=(None, 0), out_axes=0)
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    outputs = replicas.fetch(mapped(replicas.replicate(jnp.float32(2)), {"x": x}))
    assert set(shard_sizes) == {8 // devices}
    assert isinstance(outputs["scaled"], np.ndarray)
    np.testing.assert_array_equal(outputs["scaled"], 2 * x)
    np.testing.assert_array_equal(outputs["nested"]["total"], np.full(8, 276))


@pytest.mark.parametrize(("mapping", "devices"), EVERY)
def test_replicated_outputs_have_no_device_axis(mapping, devices):
    replicas = replicas_of(mapping, devices)

    def f(state, batch):
        return state + lax.pmean(jnp.mean(batch), BATCH_AXIS), {"count": lax.psum(len(batch), BATCH_AXIS)}

    mapped = replicas.map(f, in_axes=(None, 0), out_axes=(None, None))
    state, metrics = mapped(replicas.replicate(jnp.ones(3)), np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(state, np.full(3, 4.5))
    assert int(metrics["count"]) == 8
    # It goes in again as it came out.
    again, _ = mapped(state, np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(again, np.full(3, 8))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_replicate_places_on_every_device(devices):
    tree = replicas_of("pmap", devices).replicate({"a": np.arange(3), "b": (jnp.ones(2), jax.random.key(0))})
    for leaf in jax.tree.leaves(tree):
        assert leaf.sharding.device_set == set(jax.devices()[:devices])
        assert leaf.is_fully_replicated
    np.testing.assert_array_equal(tree["a"], np.arange(3))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_only_the_named_devices_are_used(mapping):
    replicas = Replicas(jax.devices()[2:], mapping)
    mapped = replicas.map(lambda x: x + 1, in_axes=(0,), out_axes=0)
    output = mapped(np.arange(4, dtype=np.float32))
    assert output.sharding.device_set == set(jax.devices()[2:])
    np.testing.assert_array_equal(replicas.fetch(output), [1, 2, 3, 4])


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_batch_that_cannot_be_cut(mapping):
    mapped = replicas_of(mapping, 4).map(lambda x: x, in_axes=(0,), out_axes=0)
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided among 4 devices"):
        mapped(np.zeros(6))


def test_unknown_mapping():
    with pytest.raises(ValueError, match="'vmap'"):
        replicas_of("vmap", 1)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("count", [3, 4, 5, 11, 12, 13])
def test_a_streamed_split_counts_every_example_once(mapping, count):
    replicas = replicas_of(mapping, 2)
    example_id = np.arange(50, 50 + count, dtype=np.int32)
    split = Split(np.ones((count, 2, 2, 1), np.float32), example_id % 3, example_id)
    traces = []

    def f(offset, batch):
        traces.append(None)
        return {"value": batch["example_id"] + offset}

    mapped = replicas.map(f, in_axes=(None, 0), out_axes=0)
    outputs = streaming.map_split(mapped, replicas.replicate(jnp.int32(1)), split, batch_size=4, replicas=replicas)
    np.testing.assert_array_equal(outputs["example_id"], example_id)
    np.testing.assert_array_equal(outputs["label"], example_id % 3)
    np.testing.assert_array_equal(outputs["value"], example_id + 1)
    assert len(traces) == 1

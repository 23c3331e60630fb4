"""The checks of arithmetic pass here, and find what is wrong where something is."""

import jax
import pytest
from jax import lax

from arada import attacks
from arada.machines import numbers


def test_this_machine_computes_rightly():
    found = {finding.subject: finding for finding in numbers.findings()}
    assert list(found) == ["precision", "convolution", "gradient", "fmn_l2", "cw_l2"]
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["precision"].values["default"] == "float32"  # of a CPU
    assert 0 < found["gradient"].values["relative_error"] < 1e-5


def test_a_convolution_of_fewer_bits_is_found(monkeypatch):
    def rounded(x, kernel):
        return numbers.stock_convolution(*(lax.reduce_precision(of, 8, 10) for of in (x, kernel)))  # TF32

    monkeypatch.setattr(numbers, "convolution", rounded)
    found = numbers._close("convolution", numbers._network, numbers.TOLERANCE)
    assert found.state == "wrong"
    assert 1e-4 < found.values["relative_error"] < 1e-2
    assert "update JAX and the driver" in found.remedy


@pytest.mark.parametrize(("bits", "name"), [(23, "float32"), (10, "TF32"), (7, "bfloat16")])
def test_the_precision_is_named_by_its_error(monkeypatch, bits, name):
    def product(a, b):
        return lax.dot(lax.reduce_precision(a, 8, bits), lax.reduce_precision(b, 8, bits))

    monkeypatch.setattr(jax.numpy, "matmul", product)
    assert numbers._precision().values["default"] == name


def test_an_attack_that_stops_short_is_found():
    def fmn_l2(logits_fn, images, **settings):
        found = attacks.fmn_l2(logits_fn, images, **settings)
        return found._replace(distance=0.9 * found.distance)

    assert numbers._attack(fmn_l2, steps=5).state == "wrong"

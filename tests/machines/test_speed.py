"""Which kernels the doctor measures with."""

import jax
import pytest

from arada.machines import speed
from arada.models import cpu
from arada.training.replication import Replicas
from configs import digits


@pytest.mark.usefixtures("one_convolution")
def test_training_and_attacks_have_the_chosen_kernels_and_predictions_stock_ones(monkeypatch):
    traced, measured = set(), []

    def noting(name, forward):
        def noted(*arrays, **options):
            traced.add(name)
            return forward(*arrays, **options)

        return noted

    forward, backward = cpu._ON_CPU["stock"]
    for name in cpu.KERNELS:
        monkeypatch.setitem(cpu._ON_CPU, name, (noting(name, forward), backward))

    def program(lowered, arguments, images):
        measured.append(set(traced))
        traced.clear()
        return speed.Program(images, *[1e-9] * 7)

    monkeypatch.setattr(speed, "_program", program)
    speeds = speed.measure(digits.get_config("ar_adals,testing"), Replicas(jax.devices()[:1], "shard_map"), 1, "onednn")
    # Training is lowered with stock kernels too, to count its operations.
    assert measured == [{"stock", "onednn"}, {"stock"}, {"stock"}, {"onednn"}]
    assert speeds.train.operations > 1e5

"""Passes over a split: batches of one device, as many together as there are devices."""

import functools

import jax
import numpy as np
import pytest

from arada.data.splits import Split
from arada.training import streaming
from arada.training.replication import MAPPINGS, Replicas


def split_of(count):
    ids = np.arange(count, dtype=np.int32)
    return Split((ids[:, None, None, None] * np.ones((1, 2, 2, 1))).astype(np.float32), ids % 3, ids)


class Counted:
    """A split that notes the batches that are read."""

    def __init__(self, split):
        self._split, self.read = split, []

    def __getattr__(self, name):
        return getattr(self._split, name)

    def __len__(self):
        return len(self._split)

    def in_order(self, batch_size, *, batches=None):
        for batch in self._split.in_order(batch_size, batches=batches):
            self.read.append(int(batch["example_id"][0]))
            yield batch


def step(weight, batch):
    return {"sum": weight * batch["image"].sum(axis=(1, 2, 3)), "of": 0 * batch["label"] + len(batch["label"])}


@functools.cache  # a program for all counts
def mapped_on(devices, mapping):
    replicas = Replicas(jax.devices()[:devices], mapping)
    return replicas, replicas.map(step, in_axes=(None, 0), out_axes=0)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 11, 16])
def test_every_example_once_whatever_the_devices(mapping, devices, count):
    replicas, mapped = mapped_on(devices, mapping)
    split = split_of(count)
    whole = streaming.map_split(mapped, np.float32(2), split, batch_size=3, replicas=replicas)
    np.testing.assert_array_equal(whole["sum"], 8.0 * np.arange(count))
    np.testing.assert_array_equal(whole["label"], split.label)
    assert set(whole["of"]) == {3}  # what each device sees at a time


def test_a_batch_keeps_its_number_on_other_devices():
    found = []
    for devices in (1, 4):
        replicas = Replicas(jax.devices()[:devices])
        mapped = replicas.map(step, in_axes=(None, 0), out_axes=0)
        batches = streaming.batches_over(
            mapped, np.float32(1), split_of(11), batch_size=2, replicas=replicas, batches=[1, 2, 5]
        )
        found.append([batch["example_id"].tolist() for batch in batches])
    assert found[0] == found[1] == [[2, 3], [4, 5], [10]]


def test_each_batch_is_read_once_for_all_runs():
    replicas, split = Replicas(jax.devices()[:2]), Counted(split_of(7))
    mapped = replicas.map(step, in_axes=(None, 0), out_axes=0)
    runs = [np.float32(weight) for weight in (1, 2, 3)]
    found = streaming.map_split_runs(mapped, runs, split, batch_size=2, replicas=replicas)
    assert split.read == [0, 2, 4, 6]
    for weight, outputs in zip(runs, found, strict=True):
        np.testing.assert_array_equal(outputs["sum"], 4 * weight * np.arange(7))

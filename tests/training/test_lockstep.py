"""Members in lockstep are the networks that each would have become alone."""

import functools

import jax
import numpy as np
import pytest

from arada import methods, models, soft_labels
from arada.data.splits import Share
from arada.training import lockstep, loop
from arada.training import step as steps
from arada.training.augmentation import augment
from arada.training.optimizers import l2_penalty
from arada.training.replication import Replicas
from arada.training.state import Supervision

EPS = float(np.finfo(np.float32).eps)
M, SEED, STEPS, BATCH = 2, 1, 3, 16
LABELS = soft_labels.SoftLabelState(np.array([0.9, 0.4], np.float32), 3)


def with_subsets(batches):
    return [batch | {"subset": batch["example_id"] % 2} for batch in batches]


@pytest.fixture(scope="module")
def alone(training, split):
    """(state, metrics of each step) of the runs with the members' seeds, each after three steps of its own."""
    found = []
    for seed in models.member_seeds(SEED, M):
        task = training(1, "pmap")
        batches = with_subsets(split.epoch(BATCH, seed=seed, epoch=0))[:STEPS]
        states, metrics = task.run(batches, state=task.fresh(seed), labels=LABELS, key=seed)
        found.append((states[-1], metrics))
    return found


@pytest.fixture(scope="module")
def together(training, split):
    """together(devices, unrolled): the same of both members in lockstep."""

    def run(devices, unrolled):
        task, replicas = training(1, "pmap"), Replicas(jax.devices()[:devices], "pmap")
        step = steps.train_step(
            task.model,
            methods.SoftLabels(num_subsets=2, num_classes=3),
            functools.partial(augment, "shift_and_flip"),
            task.optimizer,
            functools.partial(l2_penalty, coefficient=1e-3, targets="convolutions"),
        )
        mapped = replicas.map(
            lockstep.lockstep(step, M, unrolled=unrolled), in_axes=(None, 0, None, None), out_axes=(None, None)
        )
        seeds = models.member_seeds(SEED, M)
        state = lockstep.stack([task.fresh(seed) for seed in seeds])
        keys = jax.numpy.stack([jax.random.key(seed) for seed in seeds])
        state, labels, keys = replicas.replicate((state, LABELS, keys))
        metrics = []
        for batch in with_subsets(lockstep.MemberOrders(split, M).epoch(BATCH, seed=SEED, epoch=0))[:STEPS]:
            state, of_step = mapped(state, batch, labels, keys)
            metrics.append(jax.device_get(of_step))
        return jax.device_get(state), metrics

    return run


@pytest.mark.parametrize(("devices", "unrolled"), [(1, True), (1, False), (2, True), (2, False)])
def test_three_steps_in_lockstep_are_those_of_each_member_alone(alone, together, devices, unrolled):
    state, metrics = together(devices, unrolled)
    assert state.step == STEPS
    for m, (expected, _) in enumerate(alone):
        for name in ("params", "batch_stats", "opt_state"):
            member = jax.tree.map(lambda x, m=m: x[m], getattr(state, name))
            # Sums in another order: a few roundings of numbers up to 2, in each of three steps.
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=0, atol=16 * EPS), member, getattr(expected, name)
            )
    one, other = ([leaf[m] for leaf in jax.tree.leaves(state.params)] for m in range(M))
    assert max(np.abs(a - b).max() for a, b in zip(one, other, strict=True)) > 0.1
    for step, of_all in enumerate(metrics):
        for key, value in of_all.items():
            assert value == pytest.approx(np.mean([of_one[step][key] for _, of_one in alone]), rel=8 * EPS)


def test_orders_are_those_of_the_members_seeds(split):
    orders = lockstep.MemberOrders(split, M)
    assert len(orders) == len(split)
    np.testing.assert_array_equal(orders.example_id, split.example_id)
    together = list(orders.epoch(BATCH, seed=SEED, epoch=3, skip=1))
    assert len(together) == 3
    assert together[0]["image"].shape == (BATCH, M, 8, 8, 1)
    for m, seed in enumerate((2, 3)):
        for batch, expected in zip(together, split.epoch(BATCH, seed=seed, epoch=3, skip=1), strict=True):
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key][:, m], value)
    second_half = next(orders.epoch(BATCH, seed=SEED, epoch=3, skip=1, share=Share(1, 2)))
    np.testing.assert_array_equal(second_half["example_id"], together[0]["example_id"][BATCH // 2 :])


def test_a_member_has_the_subset_of_its_own_ranks():
    at = np.array([[0, 2], [1, 1]])  # the positions of two images for each of two members
    shared = Supervision(None, np.array([5, 6, 7]), None)
    np.testing.assert_array_equal(loop.subset_of(shared, at), [[5, 7], [6, 6]])
    own = Supervision(None, np.array([[5, 6, 7], [0, 1, 2]]), None)
    np.testing.assert_array_equal(loop.subset_of(own, at), [[5, 2], [6, 1]])


def test_one_alone_is_not_stacked(training):
    state = training(1, "pmap").fresh()
    assert lockstep.stack([state]) is state

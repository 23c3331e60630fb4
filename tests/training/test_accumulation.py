"""A step over the parts of a batch: the mean of steps over each, on any number of devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import methods, soft_labels
from arada.models.layers import Conv
from arada.training import lockstep
from arada.training import step as steps
from arada.training.replication import Replicas

EPS = float(np.finfo(np.float32).eps)


class Plain(nn.Module):
    """A convolution and a dense layer; no example sees another one."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(jnp.mean(nn.relu(Conv(8, use_bias=True)(x)), axis=(1, 2)))


def of_method(name):
    return getattr(methods, name)(num_subsets=2, num_classes=3)


def assert_close(actual, expected, atol):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=atol)


def weights_of(state):
    return state.params, state.batch_stats, state.opt_state


@pytest.mark.parametrize(("devices", "mapping", "parts"), [(1, "pmap", 4), (2, "shard_map", 2)])
def test_without_batch_norm_parts_change_nothing(training, batches, devices, mapping, parts):
    whole_states, whole_metrics = training(1, "pmap", model=Plain()).run(batches[:3])
    states, metrics = training(devices, mapping, model=Plain(), accumulate=parts).run(batches[:3])
    for actual, expected in zip(metrics, whole_metrics, strict=True):
        assert actual["accuracy"] == pytest.approx(expected["accuracy"], rel=EPS)
        assert actual["loss"] == pytest.approx(expected["loss"], rel=4 * EPS)
        assert actual["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=16 * EPS)
    assert_close(weights_of(states[3]), weights_of(whole_states[3]), atol=8 * EPS)
    assert [int(state.step) for state in states] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["SoftLabels", "Mixup", "CCAT"])
def test_a_step_is_the_mean_of_steps_over_every_second_example(training, batches, name):
    """With plain descent the mean of two steps' weights is a step along the mean of their gradients."""
    task, of_parts = (
        training(1, "pmap", "descent", method=of_method(name), accumulate=accumulate) for accumulate in (1, 2)
    )
    batch = batches[0]
    halves = [task.run([{key: value[part::2] for key, value in batch.items()}]) for part in range(2)]
    (_, state), (metrics,) = of_parts.run([batch])
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *((s[1].params, s[1].batch_stats) for s, _ in halves))
    assert_close((state.params, state.batch_stats), mean, atol=4 * EPS)
    for key in ("loss", "accuracy"):
        assert metrics[key] == pytest.approx(np.mean([of[0][key] for _, of in halves]), rel=4 * EPS)
    # Batch norm sees every part by itself, and mixup's partner is of the same part.
    assert abs(metrics["loss"] - task.run([batch])[1][0]["loss"]) > 1e-4


@pytest.mark.parametrize(("name", "devices", "mapping"), [("Mixup", 2, "pmap"), ("CCAT", 4, "shard_map")])
def test_device_counts_change_nothing(training, batches, name, devices, mapping):
    one, several = (
        training(count, of, "descent", method=of_method(name), accumulate=2).run(batches[:1])
        for count, of in ((1, "pmap"), (devices, mapping))
    )
    assert_close(weights_of(several[0][1]), weights_of(one[0][1]), atol=4 * EPS)
    assert several[1][0]["loss"] == pytest.approx(one[1][0]["loss"], rel=4 * EPS)


def test_parts_are_to_batch_norm_as_devices_are(training, batches):
    """Of `per_device` statistics: two parts on one device, or the same examples on two devices at once."""
    model = training().model.clone(batch_norm="per_device")
    batch = batches[0]
    halved = {key: np.concatenate([value[::2], value[1::2]]) for key, value in batch.items()}
    (_, at_once), _ = training(2, "pmap", model=model).run([halved])
    (_, in_turn), _ = training(1, "pmap", model=model, accumulate=2).run([batch])
    assert_close(weights_of(in_turn), weights_of(at_once), atol=4 * EPS)


def test_members_in_lockstep_have_parts_too(training, split):
    task = training(1, "pmap", "descent", method=of_method("SoftLabels"), accumulate=2)
    batch = next(lockstep.MemberOrders(split, 2).epoch(16, seed=0, epoch=0))
    batch = batch | {"subset": batch["example_id"] % 2}
    step = steps.train_step(
        task.model,
        of_method("SoftLabels"),
        lambda key, example_id, images, normalize: normalize(images),
        task.optimizer,
        lambda params: 0.0,
        accumulate=2,
    )
    replicas = Replicas(jax.devices()[:1])
    axes = {"in_axes": (None, 0, None, None), "out_axes": (None, None)}
    together = replicas.map(lockstep.lockstep(step, 2), **axes)
    single = replicas.map(step, **axes)
    states, keys, labels = (
        [task.fresh(m) for m in range(2)],
        jax.random.split(jax.random.key(0)),
        soft_labels.init(2, 3),
    )
    place = functools.partial(jax.tree.map, lambda x: replicas.replicate(jnp.array(x)))
    state, _ = together(place(lockstep.stack(states)), batch, labels, keys)
    for m in range(2):
        alone, _ = single(place(states[m]), {key: value[:, m] for key, value in batch.items()}, labels, keys[m])
        assert_close(jax.tree.map(lambda x, m=m: x[m], state.params), alone.params, atol=4 * EPS)


def test_parts_need_less_memory(training):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (512, 8, 8, 1)).astype(np.uint8),
        **{key: rng.integers(0, 2, 512).astype(np.int32) for key in ("label", "subset", "example_id")},
    }
    temporary = []
    for parts in (1, 8):
        task = training(1, "pmap", model=Plain(), accumulate=parts)
        arguments = task.fresh(), batch, soft_labels.init(2, 3), jax.random.key(0)
        temporary.append(task.step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes)
    # Activations are an eighth; what does not shrink is small.
    assert temporary[1] < temporary[0] / 4

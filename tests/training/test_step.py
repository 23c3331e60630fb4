import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from arada import methods, models, soft_labels
from arada.models import ResNetV2
from arada.training import step as steps
from arada.training.state import init_state

EPS = float(np.finfo(np.float32).eps)


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


def assert_close(actual, expected, atol):
    actual, expected = leaves(actual), leaves(expected)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=0, atol=atol, err_msg=path)


def variances(batch_stats):
    return {layer: stats["var"] for layer, stats in batch_stats.items()}


def assert_equal(actual, expected):
    assert_close(actual, expected, atol=0)


RESNET = ResNetV2(num_classes=3, depth=11, width=4)
OTHERS = [(2, "pmap"), (4, "pmap"), (2, "shard_map"), (4, "shard_map")]


@pytest.mark.parametrize(("devices", "mapping"), OTHERS)
def test_device_counts_change_nothing(training, batches, devices, mapping):
    expected_states, expected_metrics = training(1, "pmap").run(batches[:3])
    states, metrics = training(devices, mapping).run(batches[:3])
    for actual, expected in zip(metrics, expected_metrics, strict=True):
        assert actual["accuracy"] == expected["accuracy"]
        # One or two roundings of a loss between 1 and 2.
        assert actual["loss"] == pytest.approx(expected["loss"], rel=2 * EPS)
        # Of thousands of numbers that have a few roundings each.
        assert actual["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=8 * EPS)
    # The first momentum is the gradient: sums of 16 images in another order, a few roundings of the largest entry.
    gradient, expected = (s[1].opt_state[0].trace for s in (states, expected_states))
    assert largest(expected) > 0.05
    assert_close(gradient, expected, atol=8 * EPS * largest(expected))
    # Parameters and statistics are at most 2, rounded three times.
    for actual, expected in zip(states, expected_states, strict=True):
        assert_close((actual.params, actual.batch_stats), (expected.params, expected.batch_stats), atol=3 * EPS)
    assert largest(jax.tree.map(np.subtract, states[3].params, states[0].params)) > 0.05


@pytest.mark.parametrize(("method", "mapping"), [(methods.Mixup, "pmap"), (methods.CCAT, "shard_map")])
def test_device_counts_change_nothing_where_images_meet_or_are_attacked(training, batches, mapping, method):
    method = method(num_subsets=2, num_classes=3)
    (one, one_metrics), (four, four_metrics) = (
        training(devices, mapping, method=method).run(batches[:2]) for devices in (1, 4)
    )
    for actual, expected in zip(four_metrics, one_metrics, strict=True):
        assert actual["accuracy"] == expected["accuracy"]
        assert actual["loss"] == pytest.approx(expected["loss"], rel=4 * EPS)
    gradient, expected = (states[1].opt_state[0].trace for states in (four, one))
    assert_close(gradient, expected, atol=16 * EPS * largest(expected))
    assert_close((four[2].params, four[2].batch_stats), (one[2].params, one[2].batch_stats), atol=4 * EPS)


@pytest.mark.parametrize("model", [None, RESNET], ids=["small", "resnet"])
def test_device_counts_change_nothing_with_adam(training, batches, model):
    (one, one_metrics), (four, four_metrics) = (
        training(devices, "pmap", "adam", model, augmentation="none").run(batches[:3]) for devices in (1, 4)
    )
    for actual, expected in zip(four_metrics, one_metrics, strict=True):
        assert actual["accuracy"] == expected["accuracy"]
        assert actual["loss"] == pytest.approx(expected["loss"], rel=4 * EPS)
    # Adam's first moments are means of gradients: the same but for rounding.
    moments, expected = (states[3].opt_state[0].mu for states in (four, one))
    assert_close(moments, expected, atol=8 * EPS * largest(expected))
    actual, expected = leaves(four[3].params), leaves(one[3].params)
    # All convolutions feed batch norm in the end: the gradient of their biases is 0, and Adam blows up its rounding.
    biases = [path for path in expected if re.fullmatch(r"\['Conv_\d+'\]\['bias'\]", path)]
    assert len(biases) == (13 if model else 2)
    for path in expected.keys() - biases:
        # A gradient divided by its own size: one that is 1e-4 of the largest has a rounding of 1e-2, in steps of 1e-3.
        np.testing.assert_allclose(actual[path], expected[path], rtol=0, atol=1e-5, err_msg=path)
    # Running means carry the biases along; variances know nothing of them.
    assert_close(*(variances(states[3].batch_stats) for states in (four, one)), atol=4 * EPS)


@pytest.fixture(scope="module")
def per_device(training):
    model = training().model.clone(batch_norm="per_device")
    return lambda devices: training(devices, "pmap", "descent", model, augmentation="none", l2=0.0)


def test_per_device_batch_norm_is_the_mean_of_devices(per_device, batches):
    batch = batches[0]
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 8), slice(8, 16))]
    alone = [per_device(1).run([half]) for half in halves]
    (_, together), (metrics,) = per_device(2).run([batch])

    def mean(a, b):
        return (a + b) / 2

    expected = jax.tree.map(mean, *(states[1] for states, _ in alone))
    assert_close((together.params, together.batch_stats), (expected.params, expected.batch_stats), atol=3 * EPS)
    assert metrics["loss"] == pytest.approx(mean(*(of[0]["loss"] for _, of in alone)), rel=2 * EPS)
    assert metrics["accuracy"] == mean(*(of[0]["accuracy"] for _, of in alone))
    # The running variance of two halves is not that of the whole.
    (_, whole), _ = per_device(1).run([batch])
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), together.batch_stats, whole.batch_stats)
    assert difference["BatchNorm_0"]["var"] > 1e-4


def test_per_device_batch_norm_depends_on_devices(per_device, training, batches):
    one, two = (per_device(devices).run(batches[:1])[1][0]["loss"] for devices in (1, 2))
    assert abs(one - two) > 1e-3
    # On one device it is the global one.
    alone = training(1, "pmap", "descent", augmentation="none", l2=0.0)
    assert one == pytest.approx(alone.run(batches[:1])[1][0]["loss"], rel=2 * EPS)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_a_step_takes_the_old_states_buffers(training, batches, mapping):
    task = training(2, mapping)
    old = task.replicas.replicate(task.fresh())
    labels, key = task.replicas.replicate((soft_labels.init(2, 3, 0.1), jax.random.key(0)))
    new, _ = task.step(old, batches[0], labels, key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, labels, key)))


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_the_compiled_step_writes_the_new_state_over_the_old(training, batches, mapping):
    task = training(2, mapping)
    state = task.fresh()
    compiled = task.step.lower(state, batches[0], soft_labels.init(2, 3, 0.1), jax.random.key(0)).compile()
    memory, size = compiled.memory_analysis(), sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    # The normalization goes through untouched.
    assert memory.alias_size_in_bytes >= size
    assert memory.output_size_in_bytes < size + 64 * 8


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_compiles_once(training, batches, mapping, caplog):
    task = training(2, mapping)
    state, key = task.replicas.replicate((task.fresh(), jax.random.key(0)))
    start = task.replicas.replicate(soft_labels.init(2, 3, 0.1))
    state, _ = task.step(state, batches[0], start, key)
    traced = len(task.traces)
    assert traced >= 1
    losses = []
    with jax.log_compiles(), caplog.at_level("DEBUG", logger="jax"):
        for p_correct in ((1.0, 1.0), (0.9, 0.4), (0.5, 0.7)):
            labels = task.replicas.replicate(soft_labels.SoftLabelState(np.asarray(p_correct, np.float32), 3))
            for batch in batches:
                state, metrics = task.step(state, batch, labels, key)
            losses.append(metrics["loss"])
        assert len(task.traces) == traced
        assert [record.message for record in caplog.records if "Compiling" in record.message] == []
        jax.jit(lambda x: 3 * x)(losses[0])  # what a compilation would look like
        assert [record for record in caplog.records if "Compiling" in record.message]
    assert len({float(loss) for loss in losses}) == 3


def test_a_resumed_state_draws_the_same_augmentation(training, batches):
    task = training(2, "pmap")
    states, metrics = task.run(batches)
    resumed_states, resumed_metrics = task.run(batches[2:], state=states[2])
    assert resumed_metrics == metrics[2:]
    assert_equal(resumed_states, states[2:])


def test_every_step_and_run_draws_its_own_augmentation(training, batches):
    task = training(2, "pmap")
    state = task.fresh()
    losses = [
        task.run(batches[:1], state=jax.device_get(state.replace(step=np.int32(step))), key=key)[1][0]["loss"]
        for step, key in ((0, 0), (1, 0), (0, 1))
    ]
    assert len({float(loss) for loss in losses}) == 3


class Affine(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x)


def test_a_fresh_state_is_a_function_of_its_key():
    model, optimizer = Affine(), optax.sgd(0.1, momentum=0.9)
    normalization = {"mean": np.ones(4, np.float32), "scale": np.full(1, 2, np.float32)}
    first, again, other = (
        init_state(model, optimizer, normalization, (2, 4), jax.random.key(seed)) for seed in (0, 0, 1)
    )
    assert_equal(first, again)
    assert first.step == 0
    kernel, of_other = (state.params["Dense_0"]["kernel"] for state in (first, other))
    assert kernel.shape == (4, 3)
    assert not np.array_equal(kernel, of_other)
    assert_equal(first.opt_state, optimizer.init(first.params))
    assert_equal(first.variables, {"params": first.params, "batch_stats": {}, "normalization": normalization})


def test_the_step_counts(training, batches):
    states, _ = training(2, "pmap").run(batches[:3])
    assert [int(state.step) for state in states] == [0, 1, 2, 3]
    assert_equal(states[3].normalization, states[0].normalization)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_a_batch_that_cannot_be_cut(training, batches, mapping):
    task = training(4, mapping)
    with pytest.raises(ValueError, match="a batch of 14 cannot be divided among 4 devices"):
        task.run([{key: value[:14] for key, value in batches[0].items()}])


def test_loss_is_that_of_each_subsets_soft_label(training, batches):
    task = training(1, "pmap", "descent", augmentation="none", l2=0.0)
    batch, p_correct = batches[0], np.array([0.9, 0.4], np.float32)
    (state, after), (metrics,) = task.run(batches[:1], labels=soft_labels.SoftLabelState(p_correct, 3))
    axis = functools.partial(jax.vmap, axis_name=models.BATCH_AXIS)
    apply = axis(lambda images: task.model.apply(weights, images, train=True, mutable=["batch_stats"]))
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    logits = np.asarray(apply((batch["image"][None] / 255 - 0.5) / 0.25)[0][0], np.float64)
    p = p_correct[batch["subset"]].astype(np.float64)
    targets = np.repeat(((1 - p) / 2)[:, None], 3, axis=1)
    targets[np.arange(16), batch["label"]] = p
    losses = -np.sum(targets * scipy.special.log_softmax(logits, axis=-1), axis=-1)
    assert metrics["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    # A step of plain descent at rate 0.1 is as long as a tenth of the gradient.
    moved = jax.tree.map(lambda a, b: np.sum(np.square(a.astype(np.float64) - b)), after.params, state.params)
    assert metrics["gradient_norm"] == pytest.approx(10 * np.sqrt(sum(jax.tree.leaves(moved))), rel=1e-5)
    assert metrics["accuracy"] == np.mean(logits.argmax(axis=-1) == batch["label"])


def test_vanilla_is_plain_cross_entropy_training(training, batches):
    """R = 1 and epsilon = 0 against a loop of flax and optax alone, on one device without a named axis."""
    model = training().model.clone(batch_norm="per_device")
    task = training(2, "pmap", "adam", augmentation="none", l2=0.0)
    vanilla = [batch | {"subset": np.zeros_like(batch["subset"])} for batch in batches]
    states, metrics = task.run(vanilla, labels=soft_labels.init(1, 3, 0.0))

    optimizer = optax.adam(1e-3, b1=0.9, b2=0.999, eps=1e-7)

    @jax.jit
    def plain_step(params, stats, opt_state, image, label):
        def objective(params):
            logits, updated = model.apply(
                {"params": params, "batch_stats": stats},
                (image / 255 - 0.5) / 0.25,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean(), (jnp.mean(jnp.argmax(logits, -1) == label), updated["batch_stats"])

        (loss, (accuracy, stats)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, loss, accuracy

    params, stats = states[0].params, states[0].batch_stats
    opt_state = optimizer.init(params)
    for batch, of_step in zip(batches, metrics, strict=True):
        params, stats, opt_state, loss, accuracy = plain_step(params, stats, opt_state, batch["image"], batch["label"])
        assert of_step["loss"] == pytest.approx(float(loss), rel=4 * EPS)
        assert of_step["accuracy"] == accuracy
    expected, actual = leaves(params), leaves(states[-1].params)
    # As above: the biases' gradients are rounding, and Adam has few digits of the smallest others.
    biases = {"['Conv_0']['bias']", "['Conv_1']['bias']"}
    assert biases < expected.keys()
    for path in expected.keys() - biases:
        np.testing.assert_allclose(actual[path], expected[path], rtol=0, atol=1e-5, err_msg=path)
    assert_close(variances(states[-1].batch_stats), variances(stats), atol=4 * EPS)


@pytest.mark.parametrize("devices", [1, 4])
def test_validation_step_by_hand(training, batches, devices):
    task = training(devices, "pmap")
    variables = jax.device_get(task.fresh().variables)
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])
    mapped = task.replicas.map(steps.validation_step(models.logits_fn(task.model)), in_axes=(None, 0), out_axes=0)
    batch = batches[0] | {"mask": np.ones(16, bool)}
    outputs = task.replicas.fetch(mapped(task.replicas.replicate(variables), batch))
    weights = {name: variables[name] for name in ("params", "batch_stats")}
    logits = np.asarray(task.model.apply(weights, (batch["image"] / 255 - 0.5) / 0.25), np.float64)
    probabilities = scipy.special.softmax(logits, axis=-1)
    np.testing.assert_allclose(outputs["confidence"], probabilities.max(axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(outputs["correct"], probabilities.argmax(axis=-1) == batch["label"])
    np.testing.assert_allclose(outputs["loss"], -np.log(probabilities[np.arange(16), batch["label"]]), rtol=1e-5)

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arada import soft_labels

SUBSETS = st.integers(1, 4)
CLASSES = st.sampled_from([2, 3, 10, 1000])
EPSILON = st.floats(0, 1)


def example_batch(num_subsets, num_classes, size=16):
    rng = np.random.default_rng(0)
    subset = rng.integers(0, num_subsets, size).astype(np.int32)
    label = rng.integers(0, num_classes, size).astype(np.int32)
    logits = rng.normal(0, 5, (size, num_classes)).astype(np.float32)
    return subset, label, logits


def state_of(p_correct, num_classes):
    return soft_labels.SoftLabelState(jnp.asarray(p_correct, jnp.float32), num_classes)


@given(SUBSETS, CLASSES, EPSILON)
def test_smoothing_inverts_init(num_subsets, num_classes, epsilon):
    state = soft_labels.init(num_subsets, num_classes, epsilon)
    assert state.p_correct.dtype == jnp.float32
    # p_correct lies in [1/Z, 1], where float32 is spaced by 6e-8; eq. (4) multiplies that by Z / (Z - 1) <= 2.
    np.testing.assert_allclose(soft_labels.smoothing(state), np.full(num_subsets, epsilon), rtol=0, atol=2.5e-7)


@given(CLASSES, st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_targets_invert_smoothing(num_classes, position):
    p_correct = 1 / num_classes + np.asarray(position) * (1 - 1 / num_classes)
    label = np.asarray([0, 1, num_classes - 1])
    targets = np.asarray(soft_labels.targets(state_of(p_correct, num_classes), np.arange(3), label))
    np.testing.assert_allclose(targets[np.arange(3), label], p_correct, rtol=0, atol=2.5e-7)
    np.testing.assert_allclose(np.sum(targets, axis=-1, dtype=np.float64), 1, rtol=0, atol=3e-7)
    wrong = targets[~np.asarray(jax.nn.one_hot(label, num_classes, dtype=bool))].reshape(3, -1)
    expected = np.broadcast_to(((1 - p_correct) / (num_classes - 1))[:, None], wrong.shape)
    np.testing.assert_allclose(wrong, expected, rtol=0, atol=2.5e-7)


def test_one_hot_at_epsilon_0():
    label = np.asarray([0, 3, 9])
    targets = soft_labels.targets(soft_labels.init(2, 10), np.asarray([0, 1, 1]), label)
    np.testing.assert_array_equal(targets, np.eye(10)[label])


def test_uniform_at_epsilon_1():
    targets = soft_labels.targets(soft_labels.init(1, 4, epsilon=1), np.asarray([0]), np.asarray([2]))
    np.testing.assert_allclose(targets, np.full((1, 4), 0.25), rtol=0, atol=1e-7)


def test_update_by_hand():
    state = soft_labels.init(num_subsets=2, num_classes=3, epsilon=0.3)
    np.testing.assert_allclose(state.p_correct, [0.8, 0.8], rtol=1e-6)  # 1 - 0.3 + 0.3 / 3
    state = soft_labels.update(state, confidence=[0.9, 0.5], accuracy=[0.7, 0.6], learning_rate=0.5)
    # 0.8 - 0.5 * (0.9 - 0.7) and 0.8 - 0.5 * (0.5 - 0.6)
    np.testing.assert_allclose(state.p_correct, [0.7, 0.85], rtol=1e-6)
    # 0.3 * 3/2 and 0.15 * 3/2
    np.testing.assert_allclose(soft_labels.smoothing(state), [0.45, 0.225], rtol=1e-6)
    targets = soft_labels.targets(state, np.asarray([0, 1]), np.asarray([2, 0]))
    np.testing.assert_allclose(targets, [[0.15, 0.15, 0.7], [0.85, 0.075, 0.075]], rtol=1e-6)


@pytest.mark.parametrize(
    ("confidence", "accuracy", "expected"),
    [(1.0, 0.0, 1 / 3), (0.0, 1.0, 1.0), (0.6, 0.6, 0.5), (0.7, 0.6, 0.4), (0.5, 0.6, 0.6)],
)
def test_update_clips(confidence, accuracy, expected):
    state = soft_labels.update(state_of([0.5], 3), [confidence], [accuracy], learning_rate=1.0)
    np.testing.assert_allclose(state.p_correct, [expected], rtol=1e-6)
    assert state.num_classes == 3


@pytest.mark.parametrize("num_classes", [2, 10])
def test_cross_entropy_is_that_of_the_targets(num_classes):
    subset, label, logits = example_batch(3, num_classes)
    state = state_of(np.linspace(1 / num_classes, 1, 3), num_classes)
    targets = soft_labels.targets(state, subset, label)
    np.testing.assert_allclose(
        soft_labels.cross_entropy(state, subset, label, logits),
        optax.softmax_cross_entropy(logits, targets),
        rtol=1e-6,
    )


def test_vanilla_is_integer_label_cross_entropy():
    subset, label, logits = example_batch(1, 10)
    loss = soft_labels.cross_entropy(soft_labels.init(1, 10), subset, label, logits)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)


def test_cross_entropy_survives_huge_and_bfloat16_logits():
    state = soft_labels.init(1, 2, epsilon=0.1)
    loss = soft_labels.cross_entropy(state, np.asarray([0]), np.asarray([1]), jnp.asarray([[1e4, 0]], jnp.bfloat16))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [0.95 * float(jnp.bfloat16(1e4))], rtol=1e-6)


def test_pytree_round_trip():
    state = state_of([0.4, 1.0], 5)
    leaves, structure = jax.tree.flatten(state)
    assert len(leaves) == 1
    restored = jax.tree.unflatten(structure, leaves)
    assert restored.num_classes == 5
    np.testing.assert_array_equal(restored.p_correct, state.p_correct)
    assert jax.tree.structure(soft_labels.init(2, 6)) != structure


def test_serialisation_round_trip():
    state = state_of([0.4, 1.0], 5)
    restored = flax.serialization.from_bytes(soft_labels.init(2, 5), flax.serialization.to_bytes(state))
    np.testing.assert_array_equal(restored.p_correct, state.p_correct)
    assert restored.num_classes == 5


def test_jit_traces_once_for_all_states():
    subset, label, logits = example_batch(2, 3)
    traces = []

    @jax.jit
    def epoch(state, confidence, accuracy, learning_rate):
        traces.append(state.num_classes)
        return soft_labels.cross_entropy(state, subset, label, logits), soft_labels.update(
            state, confidence, accuracy, learning_rate
        )

    for epsilon in (0.0, 0.3):
        state = soft_labels.init(2, 3, epsilon)
        arguments = np.asarray([0.9, 0.5]), np.asarray([0.7, 0.6])
        loss, updated = epoch(state, *arguments, 0.5 + epsilon)
        np.testing.assert_allclose(loss, soft_labels.cross_entropy(state, subset, label, logits), rtol=1e-6)
        expected = soft_labels.update(state, *arguments, 0.5 + epsilon)
        np.testing.assert_allclose(updated.p_correct, expected.p_correct, rtol=1e-6)
        assert updated.num_classes == 3
    assert traces == [3]


@pytest.mark.parametrize(
    ("num_subsets", "num_classes", "epsilon"),
    [(0, 10, 0.0), (1, 1, 0.0), (1, 10, -0.1), (1, 10, 1.1), (1, 10, float("nan"))],
)
def test_bad_arguments_raise(num_subsets, num_classes, epsilon):
    with pytest.raises(ValueError, match=r"num_subsets must be|need num_classes >= 2"):
        soft_labels.init(num_subsets, num_classes, epsilon)


def test_gaps_keep_the_share_of_their_spread_that_sampling_does_not_explain():
    # Two subsets of two images. Errors 0.5, 0.3 and 0.1, -0.1: gaps 0.4 and 0, each with a variance of 0.02 among its
    # images and so of 0.01 of its mean. The gaps' own variance is 0.08: 1 - 0.01 / 0.08 is kept of 0.2 to either side.
    error, gap = np.array([0.5, 0.3, 0.1, -0.1]), np.array([0.4, 0.0])
    np.testing.assert_allclose(soft_labels.shrink(gap, error, images=2), [0.375, 0.025], rtol=1e-6)
    np.testing.assert_allclose(soft_labels.shrink(gap, error, images=2, strength=4), [0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(soft_labels.shrink(gap, error, images=2, strength=0), gap, atol=1e-12)


def test_gaps_that_sampling_explains_become_the_common_one():
    rng = np.random.default_rng(0)
    error = 0.1 + rng.uniform(-0.69, 0.69, (10, 50))  # a deviation of 0.4
    shrunk = soft_labels.shrink(error.mean(axis=1), error.ravel(), images=50, strength=10)
    np.testing.assert_allclose(shrunk, error.mean(), rtol=1e-6)


@pytest.mark.parametrize("gap", [[0.3], [0.3, 0.3]])
def test_where_no_gap_differs_none_is_shrunk(gap):
    error = np.repeat(gap, 2) + np.tile([0.1, -0.1], len(gap))
    np.testing.assert_allclose(soft_labels.shrink(np.array(gap), error, images=2), gap)


def test_shrunk_gaps_are_nearer_to_the_true_ones():
    # 400 draws of ten subsets of 50 images whose true gaps have a deviation of 0.05, about that of their samples.
    rng = np.random.default_rng(0)
    raw = shrunk = 0.0
    for _ in range(400):
        true = rng.normal(0.1, 0.05, 10)
        error = true[:, None] + rng.uniform(-0.69, 0.69, (10, 50))  # a deviation of 0.4
        gap = error.mean(axis=1)
        raw += np.sum((gap - true) ** 2)
        shrunk += np.sum((soft_labels.shrink(gap, error.ravel(), images=50) - true) ** 2)
    assert shrunk < 0.75 * raw

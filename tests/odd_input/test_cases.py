"""Reported cases of odd input, under jit and x64 too, with the values they should give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from odd import FAST, GREY, ROWS, WEIGHTS, base, two_logits

from arada import attacks, calibrators, metrics, models, soft_labels

# Under jit: shapes and dtypes; a label that is none gives NaN.

P, Y = (np.float32([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]), np.array([0, 0, 1, 0]))
OF_LABELS = {
    "accuracy": (metrics.accuracy, 0.75),
    "nll": (metrics.negative_log_likelihood, -np.log([0.9, 0.8, 0.7, 0.4]).mean()),
    "brier": (metrics.brier_score, 0.25),
    "ece": (functools.partial(metrics.expected_calibration_error, num_bins=10), 0.30),
    "classwise": (functools.partial(metrics.classwise_calibration_error, num_bins=10), 0.30),
    "cross_entropy": (
        lambda p, y: jnp.mean(soft_labels.cross_entropy(soft_labels.init(1, 2, 0.0), 0 * jnp.ravel(y), y, jnp.log(p))),
        -np.log([0.9, 0.8, 0.7, 0.4]).mean(),
    ),
}


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_column_of_labels_does_not_broadcast(name, jitted):
    function, expected = OF_LABELS[name]
    function = jax.jit(function) if jitted else function
    assert function(P, Y) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"must be \[4\].*float32\[4, 2\].*\[4, 1\]|must have the shape"):
        function(P, Y[:, None])
    for label in (-1, 2):
        wrong = np.where(np.arange(4) == 1, label, Y)
        if jitted:
            assert np.isnan(function(P, wrong))
        else:
            with pytest.raises(ValueError, match=r"must be in 0\.\.1"):
                function(P, wrong)


@pytest.mark.parametrize("attack", FAST, ids=lambda attack: attack.__name__)
def test_shapes_of_attacks_under_jit(attack):
    def attacked(images, labels, columns=2):
        return attack(lambda x: two_logits(x)[:, :columns], images, labels, **FAST[attack])

    labels = np.zeros(ROWS, int)
    for arguments in (
        ((255 * GREY).astype(np.uint8), labels),
        (GREY, labels[:, None]),
        (GREY, labels.astype(float)),
        (GREY, labels, 1),
    ):
        with pytest.raises(ValueError, match=r"must|attacks take"):
            jax.jit(attacked, static_argnums=2)(*arguments)
    # Of a label that is none there is no distance.
    found = jax.jit(attacked)(GREY, np.where(np.arange(ROWS) == 2, 2, labels))
    np.testing.assert_array_equal(found.success, np.arange(ROWS) != 2)
    np.testing.assert_array_equal(np.isinf(found.distance), np.arange(ROWS) == 2)


def test_masked_class():
    logits = np.float32([[2, 0, -np.inf], [0, 1, -np.inf], [1, 0, -np.inf]])
    labels = np.array([0, 1, 1])

    def loss(logits):
        return soft_labels.cross_entropy(soft_labels.init(1, 3), np.zeros(3, int), labels, logits)

    np.testing.assert_allclose(loss(logits), [0.1269, 0.3133, 1.3133], atol=5e-5)
    gradient = jax.grad(lambda logits: loss(logits).sum())(logits)
    expected = scipy.special.softmax(logits, axis=-1) - np.eye(3)[labels]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    for name, fit in calibrators.BY_NAME.items():
        found = fit(logits, labels)
        assert np.isfinite(found(logits)).all(), name
        with pytest.raises(ValueError, match="-inf"):
            fit(logits, np.array([0, 1, 2]))
    # The temperature is that of the two classes alone.
    assert calibrators.temperature_scaling(logits, labels) == calibrators.temperature_scaling(logits[:, :2], labels)


def test_an_empty_subset_keeps_its_soft_label():
    subset = np.array([0, 0, 3])
    means = [metrics.subset_means(of, subset, 4) for of in ([0.9, 0.8, 0.7], [1, 0, 1])]
    state = soft_labels.update(soft_labels.init(4, 3), *means, learning_rate=0.1)
    np.testing.assert_allclose(state.p_correct, [0.965, 1, 1, 1], rtol=1e-6)


def test_sums_of_a_million():
    count = 1_281_167
    correct = np.arange(count) % 5 != 0
    correct = np.random.default_rng(0).permutation(correct)
    expected = abs(np.float64(np.float32(0.9)) - correct.mean())
    p = np.full((count, 2), 0.1, np.float32)
    p[:, 0] = 0.9
    labels = np.where(correct, 0, 1)
    for found in (
        metrics.expected_calibration_error(p, labels),
        metrics.expected_calibration_error(p, labels, binning="quantile"),
        metrics.classwise_calibration_error(p, labels),
    ):
        assert found == pytest.approx(expected, rel=1e-4)
    assert metrics.accuracy(p, labels) == pytest.approx(correct.mean(), rel=1e-6)
    brier = 2 * np.where(correct, 0.1, 0.9) ** 2
    assert metrics.brier_score(p, labels) == pytest.approx(brier.mean(), rel=1e-5)
    nll = -np.log(np.where(correct, 0.9, 0.1))
    assert metrics.negative_log_likelihood(p, labels) == pytest.approx(nll.mean(), rel=1e-5)


def test_many_bins_of_many_rows():
    """Rows times bins do not fit into 32 bits."""
    count, num_bins = 300_000, 10_000
    scores = np.random.default_rng(0).permutation(count).astype(np.float32) / count
    count, *_ = metrics.reliability(
        np.stack([1 - scores / 2, scores / 2], axis=-1), np.zeros(count, int), num_bins=num_bins, binning="quantile"
    )
    np.testing.assert_array_equal(count, 30)


# Under x64.


def test_x64_changes_no_dtype_and_no_draw():
    labels, key = np.zeros(ROWS, int), jax.random.key(0)

    def everything():
        state = soft_labels.init(2, 3, 0.1)
        subset = np.zeros(ROWS, int)
        ball = {"epsilon": 0.05, "step_size": 0.5, "steps": 2}
        p, y = base(0)
        targets = soft_labels.targets(state, subset, y)
        yield from (state.p_correct, soft_labels.smoothing(state), targets)
        yield soft_labels.cross_entropy(state, subset, y, p)
        yield soft_labels.update(state, np.float64([0.5, 0.5]), np.float64([0.25, 0.75]), 0.5).p_correct
        yield from (
            function(p, y) for function in (metrics.accuracy, metrics.negative_log_likelihood, metrics.brier_score)
        )
        for binning in metrics.BINNINGS:
            yield metrics.expected_calibration_error(p, y, binning=binning)
            yield metrics.classwise_calibration_error(p, y, binning=binning)
        yield metrics.confidence_and_correct(p, y)[0]
        # Weights in float64, as users have them there.
        double = lambda images: jnp.reshape(images, (len(images), -1)) @ np.float64(WEIGHTS)  # noqa: E731
        for attack, options in FAST.items():
            yield from jax.jit(functools.partial(attack, double, labels=labels, **options))(GREY)[:2]
        yield from jax.jit(functools.partial(attacks.pgd_linf, double, labels=None, key=key, **ball))(GREY)[:2]
        yield models.unit_range(np.zeros((2, 2), np.uint8))

    with jax.enable_x64(True):
        doubled = list(everything())
    for one, other in zip(doubled, everything(), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, bool])
def test_images_are_uint8_or_floating(dtype):
    np.testing.assert_allclose(models.unit_range(np.uint8([0, 51])), [0, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(models.unit_range(np.float64([0, 0.5])), np.float32([0, 0.5]))
    with pytest.raises(ValueError, match="uint8, or float"):
        models.unit_range(np.zeros(2, dtype))

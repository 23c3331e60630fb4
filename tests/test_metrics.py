import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from arada import metrics

MASKED = {
    "accuracy": metrics.accuracy,
    "nll": metrics.negative_log_likelihood,
    "brier": metrics.brier_score,
    "ece": metrics.expected_calibration_error,
    "ece_quantile": functools.partial(metrics.expected_calibration_error, num_bins=4, binning="quantile"),
    "classwise": metrics.classwise_calibration_error,
    "classwise_quantile": functools.partial(metrics.classwise_calibration_error, num_bins=4, binning="quantile"),
}
COUNT, CLASSES = 12, 3
LABELS = npst.arrays(np.int32, COUNT, elements=st.integers(0, CLASSES - 1))
LOGITS = npst.arrays(np.float32, (COUNT, CLASSES), elements=st.floats(-10, 10, width=32))
# Few counts, for every new shape compiles.
MASKS = st.sampled_from([1, 7, COUNT]).flatmap(lambda kept: st.permutations([index < kept for index in range(COUNT)]))


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


def predictions(confidence, correct, num_classes=10):
    """Probabilities and labels with the given confidences and outcomes; class 0 is always predicted."""
    confidence = np.asarray(confidence, np.float32)
    probabilities = np.repeat((1 - confidence[:, None]) / (num_classes - 1), num_classes, axis=1)
    probabilities[:, 0] = confidence
    return probabilities, np.where(np.broadcast_to(correct, confidence.shape), 0, 1)


def ece(confidence, correct, **options):
    return float(metrics.expected_calibration_error(*predictions(confidence, correct), **options))


def test_ece_by_hand():
    # Bins of width 0.2: {0.5, 0.55}, {0.7}, {0.9, 0.95, 0.85}; their sums of confidence minus outcome:
    # 1.05 - 1 = 0.05, 0.7 - 0 = 0.7, 2.7 - 3 = -0.3.
    value = ece([0.5, 0.9, 0.7, 0.55, 0.95, 0.85], [True, True, False, False, True, True], num_bins=5)
    assert value == pytest.approx((0.05 + 0.7 + 0.3) / 6, abs=1e-6)


def test_ece_counts_probability_0_and_1():
    probabilities = np.asarray([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert metrics.expected_calibration_error(probabilities, np.asarray([0, 1, 1, 1])) == 0.25
    # p_0 is 1, 1, 0, 0 and y_0 is 1, 0, 0, 0: 1/4 for class 0, and by symmetry for class 1.
    assert metrics.classwise_calibration_error(probabilities, np.asarray([0, 1, 1, 1])) == 0.25
    # p_0 = 0 on an example of class 0 alone in the lowest bin, p_1 = 1 alone in the highest.
    assert metrics.classwise_calibration_error(np.asarray([[0, 1]]), np.asarray([0])) == 1


def test_ece_bins_contain_their_lower_edge():
    # Width 0.25: 0.5 goes up to 0.6, 0.75 does not go down to it: |1.1 - 1| + |0.75 - 1|.
    assert ece([0.5, 0.6, 0.75], [False, True, True], num_bins=4) == pytest.approx((0.1 + 0.25) / 3, abs=1e-6)


@pytest.mark.parametrize("num_bins", [10, 15])
def test_every_edge_opens_its_bin(num_bins):
    lower = np.arange((num_bins + 1) // 2, num_bins + 1)  # from 1/2 on: class 0 must have the greatest probability
    count, *_ = metrics.reliability(*predictions(lower / num_bins, True), num_bins=num_bins)
    # The last bin is closed: 1 shares it.
    np.testing.assert_array_equal(count, np.bincount(np.minimum(lower, num_bins - 1), minlength=num_bins))


def test_ece_by_quantiles_by_hand():
    # Five examples, two bins: ranks 0, 1, 2 and 3, 4. {0.5, 0.6, 0.7}: 1.8 - 2; {0.8, 0.9}: 1.7 - 1.
    confidence, correct = [0.9, 0.5, 0.8, 0.7, 0.6], [True, True, False, False, True]
    assert ece(confidence, correct, num_bins=2, binning="quantile") == pytest.approx((0.2 + 0.7) / 5, abs=1e-6)
    # Equal widths: {0.5, ..., 0.9} in the upper half, 3.5 - 3.
    assert ece(confidence, correct, num_bins=2) == pytest.approx(0.5 / 5, abs=1e-6)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_equal_confidences_share_their_accuracy_among_bins_of_equal_mass(order):
    # 900 of 1,000 right at a confidence of 0.9: every bin is calibrated, whichever rows it takes.
    correct = np.arange(1000) < 900
    if order == "shuffled":
        correct = np.random.default_rng(0).permutation(correct)
    assert ece(np.full(1000, 0.9), correct, binning="quantile") == pytest.approx(0, abs=1e-6)
    count, _, accuracy = metrics.reliability(*predictions(np.full(1000, 0.9), correct), binning="quantile")
    assert set(count) == {66, 67}
    np.testing.assert_allclose(accuracy, 0.9, rtol=1e-6)


def test_a_tie_across_an_edge_by_hand():
    # Bins of three: {0.5, 0.6, 0.6} and {0.6, 0.6, 0.9}; a 0.6 is right in 3 of 4 cases.
    # |0.5 + 1.2 - 0 - 1.5| and |1.2 + 0.9 - 1.5 - 1|.
    confidence, correct = [0.6, 0.9, 0.6, 0.5, 0.6, 0.6], [True, True, True, False, False, True]
    value = ece(confidence, correct, num_bins=2, binning="quantile")
    assert value == pytest.approx((0.2 + 0.4) / 6, abs=1e-6)


def test_one_bin_is_the_mean_gap():
    assert ece([0.6, 0.9, 1.0], [False, True, False], num_bins=1) == pytest.approx(1.5 / 3, abs=1e-6)


def test_binned_error_takes_any_scores():
    # One class apart from the others: scores and outcomes without a maximum. Two bins, {0.2, 0.4} and {0.9}.
    scores, outcomes = np.asarray([0.2, 0.9, 0.4, 0.7]), np.asarray([0, 1, 1, 0])
    mask = np.asarray([True, True, True, False])
    expected = (abs(0.6 - 1) + abs(0.9 - 1)) / 3
    assert metrics.binned_error(scores, outcomes, mask, num_bins=2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["expected_calibration_error", "classwise_calibration_error", "reliability"])
def test_unknown_binning_raises(metric):
    with pytest.raises(ValueError, match="'uniform', 'quantile'"):
        getattr(metrics, metric)(np.eye(2), np.arange(2), binning="equal")


def test_classwise_by_hand():
    probabilities = np.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    labels = np.asarray([0, 1, 2])
    # Two bins. Class 0: {0.1} 0.1 - 0, {0.7, 0.6} 1.3 - 1. Class 1: {0.2, 0.3, 0.1} 0.6 - 1.
    # Class 2: {0.1, 0.1} 0.2 - 0, {0.8} 0.8 - 1.
    expected = ((0.1 + 0.3) + 0.4 + (0.2 + 0.2)) / 3 / 3
    value = metrics.classwise_calibration_error(probabilities, labels, num_bins=2)
    assert value == pytest.approx(expected, abs=1e-6)


def test_nll_by_hand():
    probabilities = np.asarray([[0.5, 0.5], [0.25, 0.75]])
    value = metrics.negative_log_likelihood(probabilities, np.asarray([1, 0]))
    assert value == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-6)


def test_nll_is_floored_at_probability_0():
    value = metrics.negative_log_likelihood(np.asarray([[1.0, 0.0]]), np.asarray([1]))
    assert value == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)  # 87.3, not inf


def test_brier_by_hand():
    probabilities = np.asarray([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    # 0.09 + 0.04 + 0.01 and the worst possible, 1 + 1
    assert metrics.brier_score(probabilities, np.asarray([0, 2])) == pytest.approx((0.14 + 2) / 2, rel=1e-6)


def test_accuracy_by_hand():
    assert metrics.accuracy(np.asarray([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]]), np.asarray([0, 1, 1])) == np.float32(
        2 / 3
    )


@pytest.mark.parametrize("name", MASKED)
@settings(max_examples=15)
@given(logits=LOGITS, labels=LABELS, mask=MASKS, padding=st.sampled_from([0.0, 0.5, np.nan]))
def test_mask_equals_dropping(name, logits, labels, mask, padding):
    probabilities, mask = softmax(logits), np.asarray(mask)
    dropped = MASKED[name](probabilities[mask], labels[mask])
    padded = np.where(mask[:, None], probabilities, padding), np.where(mask, labels, -1)
    np.testing.assert_allclose(MASKED[name](*padded, mask), dropped, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("name", MASKED)
def test_empty_mask_is_nan(name):
    assert np.isnan(MASKED[name](np.eye(3), np.arange(3), np.zeros(3, bool)))


@pytest.mark.parametrize("name", MASKED)
def test_jit_changes_nothing(name):
    rng = np.random.default_rng(1)
    probabilities, labels = softmax(rng.normal(0, 3, (40, 5))), rng.integers(0, 5, 40)
    mask = rng.random(40) < 0.7
    expected = MASKED[name](probabilities, labels, mask)
    np.testing.assert_allclose(jax.jit(MASKED[name])(probabilities, labels, mask), expected, rtol=1e-6)
    np.testing.assert_allclose(MASKED[name](*map(jnp.asarray, (probabilities, labels, mask))), expected, rtol=1e-6)


@pytest.mark.parametrize("name", MASKED)
@given(logits=LOGITS, labels=LABELS, order=st.permutations(range(COUNT)))
def test_order_of_examples_does_not_matter(name, logits, labels, order):
    probabilities = softmax(logits)
    expected = MASKED[name](probabilities, labels)
    np.testing.assert_allclose(MASKED[name](probabilities[order], labels[order]), expected, rtol=2e-6, atol=5e-7)


def test_reliability_by_hand():
    count, confidence, correct = metrics.reliability(
        *predictions([0.5, 0.55, 0.9, 1.0], [True, False, True, True]), num_bins=5
    )
    np.testing.assert_array_equal(count, [0, 0, 2, 0, 2])
    np.testing.assert_allclose(confidence, [np.nan, np.nan, 0.525, np.nan, 0.95], rtol=1e-6)
    np.testing.assert_allclose(correct, [np.nan, np.nan, 0.5, np.nan, 1], rtol=1e-6)


@pytest.mark.parametrize("binning", metrics.BINNINGS)
@given(logits=LOGITS, labels=LABELS)
def test_reliability_sums_to_ece(binning, logits, labels):
    probabilities = softmax(logits)
    count, confidence, correct = metrics.reliability(probabilities, labels, num_bins=5, binning=binning)
    assert count.sum() == COUNT
    summed = np.nansum(count * np.abs(confidence - correct)) / COUNT
    value = metrics.expected_calibration_error(probabilities, labels, num_bins=5, binning=binning)
    np.testing.assert_allclose(value, summed, rtol=2e-6, atol=5e-7)


def test_subset_means_by_hand():
    means = metrics.subset_means(np.asarray([1.0, 2.0, 6.0, 4.0]), np.asarray([2, 0, 2, 0]), num_subsets=4)
    np.testing.assert_array_equal(means, [3, np.nan, 3.5, np.nan])


@pytest.mark.parametrize(
    ("of", "first", "second"),
    [
        # Mean of runs [0.5, 0.4, 0.1]: class 0 with 0.7, 0.3; mean [0.4, 0.6, 0]: class 1 with 0.5, 0.7.
        ("predicted_class", 2 * 0.2**2, 2 * 0.1**2),
        # Class 2 with 0.1, 0.1; class 0 with 0.5, 0.3.
        ("true_class", 0, 2 * 0.1**2),
        # 0.7 and 0.6; 0.5 and 0.7.
        ("own_confidence", 2 * 0.05**2, 2 * 0.1**2),
        ("all_classes", 2 * (0.2**2 + 0.2**2), 2 * (0.1**2 + 0.1**2)),
    ],
)
def test_variance_by_hand(of, first, second):
    probabilities = np.asarray([[[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]], [[0.3, 0.6, 0.1], [0.3, 0.7, 0.0]]])
    labels = np.asarray([2, 0])
    # M - 1 = 1, so the squared deviations are summed.
    np.testing.assert_allclose(metrics.example_variance(probabilities, labels, of), [first, second], atol=1e-15)
    value = metrics.prediction_variance(probabilities, labels, of)
    np.testing.assert_allclose(value, (first + second) / 2, atol=1e-15)


def test_variance_divides_by_runs_less_one():
    probabilities = np.asarray([[[1.0, 0.0]], [[1.0, 0.0]], [[0.7, 0.3]]])
    # Mean 0.9: (0.1^2 + 0.1^2 + 0.2^2) / 2
    value = metrics.prediction_variance(probabilities, np.asarray([0]))
    np.testing.assert_allclose(value, 0.03, atol=1e-15)


def test_variance_bad_arguments_raise():
    with pytest.raises(ValueError, match="two runs or more"):
        metrics.prediction_variance(np.full((1, 4, 2), 0.5), np.zeros(4, int))
    with pytest.raises(ValueError, match="two runs or more"):
        metrics.prediction_variance(np.full((4, 2), 0.5), np.zeros(4, int))
    with pytest.raises(ValueError, match="of is one of"):
        metrics.prediction_variance(np.full((2, 4, 2), 0.5), np.zeros(4, int), of="mean")


def test_entropy_by_hand():
    value = metrics.entropy(np.asarray([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    np.testing.assert_allclose(value, [0, np.log(2), np.log(4)], rtol=1e-15)


def test_auroc_by_hand():
    positive = np.asarray([False, False, True, True])
    assert metrics.auroc(np.asarray([0.1, 0.2, 0.3, 0.4]), positive) == 1
    assert metrics.auroc(np.asarray([0.4, 0.3, 0.2, 0.1]), positive) == 0
    assert metrics.auroc(np.asarray([0.5, 0.5, 0.5, 0.5]), positive) == 0.5
    assert metrics.auroc(jnp.asarray([0.1, 0.3, 0.2, 0.4]), jnp.asarray(positive)) == 0.75  # three pairs of four


def test_fpr95_by_hand():
    """Of 20 positives, 1 to 20, 19 score 2 or more."""
    score = np.concatenate([np.arange(1.0, 21), [0.5, 1.5, 1.75, 2.25, 19.5]])
    positive = np.arange(25) < 20
    order = np.random.default_rng(0).permutation(25)
    assert metrics.false_positive_rate(score[order], positive[order]) == 2 / 5
    # All 20 score 1 or more, 18 of them 3 or more; for a share of 18.5 it takes 19.
    assert metrics.false_positive_rate(score, positive, 1.0) == 4 / 5
    assert metrics.false_positive_rate(score, positive, 0.9) == 1 / 5
    assert metrics.false_positive_rate(score, positive, 0.925) == 2 / 5
    # What equals the threshold has reached it.
    assert metrics.false_positive_rate(jnp.asarray(score).at[20].set(2), jnp.asarray(positive)) == 3 / 5


def drawn_floor(probabilities, error, draws=4000):
    """Mean and 95th percentile of `error(labels)` with labels drawn from the probabilities, one draw at a time."""
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(draws):
        uniform = rng.random((len(probabilities), 1))
        errors.append(error(np.sum(np.cumsum(probabilities, axis=-1) < uniform, axis=-1)))
    return np.mean(errors), np.quantile(errors, 0.95)


def binned_by_loops(scores, outcomes, num_bins, binning):
    if binning == "uniform":
        bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    else:
        bins = np.argsort(np.argsort(scores, kind="stable"), kind="stable") * num_bins // len(scores)
    return sum(abs(np.sum((scores - outcomes)[bins == k])) for k in range(num_bins)) / len(scores)


def test_floor_of_one_bin_by_hand():
    # 500 images at confidence 0.9: E|Binomial(500, 0.9) / 500 - 0.9| = 0.0107.
    right = np.arange(501)
    gap = np.abs(right / 500 - 0.9)
    expected = gap @ stats.binom.pmf(right, 500, 0.9)
    floor = metrics.binned_floor(np.full(500, 0.9))
    assert expected == pytest.approx(0.0107, abs=5e-5)
    assert floor.mean == pytest.approx(expected, rel=1e-9)
    # |k - 450| <= 13 holds with a probability of 0.956, <= 12 with 0.937.
    assert floor.p95 == pytest.approx(13 / 500, abs=1e-9)


@pytest.mark.parametrize("binning", metrics.BINNINGS)
def test_floor_is_that_of_labels_drawn_one_by_one(binning):
    probabilities = softmax(np.random.default_rng(0).normal(0, 2, (150, 4))).astype(np.float64)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    options = {"num_bins": 7, "binning": binning}

    def error(labels):
        correct = probabilities.argmax(axis=-1) == labels
        return binned_by_loops(probabilities.max(axis=-1), correct, *options.values())

    def classwise(labels):
        return np.mean([binned_by_loops(probabilities[:, z], labels == z, *options.values()) for z in range(4)])

    found = metrics.calibration_floor(probabilities, draws=4000, **options)
    # The mean of 4,000 draws of an error that moves by a fourth of itself is 0.4 % off, the percentile 0.8 %.
    assert found == pytest.approx(drawn_floor(probabilities, error), rel=0.02)
    found = metrics.classwise_calibration_floor(probabilities, draws=2000, **options)
    assert found == pytest.approx(drawn_floor(probabilities, classwise, draws=2000), rel=0.02)


def test_the_number_of_successes_is_that_of_trial_after_trial():
    for count in (1, 3, 400):
        chances = np.random.default_rng(count).random(count)
        expected = np.ones(1)
        for chance in chances:
            expected = np.convolve(expected, [1 - chance, chance])
        values, found = metrics.floors._poisson_binomial(chances)
        np.testing.assert_allclose(found, expected[values], atol=1e-12)
        assert found.sum() == pytest.approx(1, abs=1e-12)


def test_a_calibrated_network_is_below_its_percentile_in_19_of_20_cases():
    rng, confidence = np.random.default_rng(0), np.random.default_rng(1).uniform(0.3, 1, 200)
    floor = metrics.binned_floor(confidence)
    errors = [binned_by_loops(confidence, rng.random(200) < confidence, 15, "uniform") for _ in range(2000)]
    assert np.mean(np.asarray(errors) > floor.p95) == pytest.approx(0.05, abs=0.015)


def test_certain_predictions_have_no_floor():
    assert metrics.calibration_floor(np.eye(3)) == pytest.approx((0, 0), abs=1e-12)
    assert metrics.classwise_calibration_floor(np.eye(3)) == (0, 0)


@pytest.mark.parametrize("floor", [metrics.calibration_floor, metrics.classwise_calibration_floor])
def test_floor_of_what_is_not_known_is_nan(floor):
    assert np.isnan(floor(np.asarray([[0.4, 0.6], [np.nan, np.nan]]))).all()
    assert np.isnan(floor(np.zeros((0, 2)))).all()
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        floor(np.asarray([[2.0, -1.0]]))


def debiased(confidence, correct, **options):
    return metrics.debiased_calibration_error(*predictions(confidence, correct), **options)


def test_debiased_error_by_hand():
    # One bin, 0.8 on average, 5 of 10 right: the squared gap 0.09 less 0.25 / 9.
    confidence, correct = [0.8] * 10, [True, False] * 5
    assert debiased(confidence, correct, norm=2) == pytest.approx(np.sqrt(0.09 - 0.25 / 9), rel=1e-6)
    # Twice the gap less the mean of |X|, X normal around it with a standard error of sqrt(0.25 / 10).
    folded = stats.foldnorm(0.3 / np.sqrt(0.025), scale=np.sqrt(0.025)).mean()
    assert debiased(confidence, correct) == pytest.approx(0.6 - folded, rel=1e-5)
    # No gap: less than nothing, by what chance alone would add, or nothing.
    assert debiased([0.5] * 10, correct) == pytest.approx(-np.sqrt(0.025 * 2 / np.pi), rel=1e-5)
    assert debiased([0.5] * 10, correct, norm=2) == 0


def test_debiasing_leaves_alone_what_shows_no_spread():
    assert debiased([0.8] * 3 + [0.3], [True] * 3 + [False]) == pytest.approx((3 * 0.2 + 0.3) / 4, rel=1e-6)
    # A bin of one image says nothing of its spread: with norm 2 it counts as calibrated.
    assert debiased([0.8] * 3 + [0.3], [True] * 3 + [False], norm=2) == pytest.approx(np.sqrt(0.75 * 0.04), rel=1e-6)


def test_debiased_errors_are_nearer_to_the_truth():
    """Confidences of a network that is over-confident by 0.05 everywhere."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        confidence = rng.uniform(0.4, 1, 300)
        correct = rng.random(300) < confidence - 0.05
        raw = binned_by_loops(confidence, correct, 15, "uniform")
        found.append((raw, *(metrics.debiased_error(confidence, correct, norm=norm) for norm in (1, 2))))
    raw, first, second = np.mean(found, axis=0)
    assert raw > 0.07
    assert 0.04 < second < 0.055
    assert 0.05 < first < 0.066


@pytest.mark.parametrize("norm", [1, 2])
def test_debiased_error_of_nan_is_nan(norm):
    for scores in ([0.5, np.nan, 0.9], [0.5, 0.6, np.nan]):
        assert np.isnan(metrics.debiased_error(scores, [1, 0, 1], norm=norm))
    assert np.isnan(metrics.debiased_error([], [], norm=norm))
    with pytest.raises(ValueError, match="norm must be 1 or 2, not 3"):
        metrics.debiased_error([0.5], [1], norm=3)


def kde_by_sums(confidence, correct):
    """Mix-n-Match's estimate, with every kernel at every point of the grid."""
    points = np.linspace(-0.6, 1.6, 2**14)
    radius = 3 * np.std(confidence[correct]) * (2 * len(confidence)) ** -0.2

    def density(values):
        values = np.concatenate([values, -values[values < 0.5], 2 - values[values >= 0.5]])
        kernels = (35 / 32 * np.maximum(1 - ((points - value) / radius) ** 2, 0) ** 3 / radius for value in values)
        return np.where((points > 0) & (points < 1), 2 * sum(kernels) / len(values), 0)

    of_all, of_correct = density(confidence), density(confidence[correct])
    accuracy = np.minimum(correct.mean() * of_correct / np.where(of_all > 0, of_all, 1), 1)
    return np.sum(np.abs(points - accuracy) * of_all) / np.sum(of_all)


@pytest.mark.parametrize("sure", [1, 4])
def test_kde_is_that_of_the_kernels_one_by_one(sure):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.7), 200)
    labels = np.asarray([rng.choice(4, p=p) for p in probabilities])
    probabilities = (probabilities**sure / (probabilities**sure).sum(axis=-1, keepdims=True)).astype(np.float32)
    confidence, correct = probabilities.max(axis=-1).astype(np.float64), probabilities.argmax(axis=-1) == labels
    # Values are shared between the grid's points.
    assert metrics.kde_calibration_error(probabilities, labels) == pytest.approx(
        kde_by_sums(confidence, correct), abs=2e-5
    )


@pytest.mark.parametrize(("correct", "expected"), [([True, False], 0.2), ([False, False], 0.7), ([True, True], 0.3)])
def test_kde_of_one_confidence_is_its_gap(correct, expected):
    assert metrics.kde_calibration_error(*predictions([0.7, 0.7], correct)) == pytest.approx(expected, abs=1e-3)


def test_risk_coverage_by_hand():
    # By falling confidence: right, wrong, wrong, right.
    confidence, correct = np.asarray([0.6, 0.9, 0.5, 0.8]), np.asarray([0, 1, 1, 0])
    coverage, risk, area = metrics.risk_coverage(confidence, correct)
    np.testing.assert_array_equal(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 2 / 3, 2 / 4], rtol=1e-15)
    assert area == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 4, rel=1e-15)


def test_risk_coverage_shares_errors_among_ties():
    # One right, then two wrong of three.
    _, risk, area = metrics.risk_coverage(np.asarray([0.7, 0.7, 0.9, 0.7]), np.asarray([True, False, True, False]))
    np.testing.assert_allclose(risk, [0, (2 / 3) / 2, (4 / 3) / 3, 2 / 4], rtol=1e-15)
    assert area == pytest.approx((1 / 3 + 4 / 9 + 1 / 2) / 4, rel=1e-15)

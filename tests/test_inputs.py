"""Odd input to every public function of the library gives the value of a NumPy oracle, or ValueError."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arada import attacks, calibrators, inputs, metrics, models, soft_labels

ROWS, CLASSES, SUBSETS, BINS = 6, 3, 2, 4
slow = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)


def odd(fine, *others):
    """Draws (value, is_fine), `fine` in half of the cases: whether the value is what is documented, taken alone."""
    return st.one_of(st.just((fine, True)), st.sampled_from(others)) if others else st.just((fine, True))


def base(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    # Sixteenths: sums in float32 are exact, and there are ties.
    raw = rng.multinomial(16, rng.dirichlet(np.ones(CLASSES)), rows) / 16
    return raw, rng.integers(0, CLASSES, rows)


@st.composite
def probabilities(draw):
    fine, _ = base(draw(st.integers(0, 3)))
    nan = np.where(np.eye(ROWS, CLASSES), np.nan, fine)
    above, infinite = (np.where(np.arange(CLASSES) == 1, bad, fine) for bad in (1.5, np.inf))
    return draw(
        odd(
            fine,
            (fine.astype(np.float16), True),
            (jnp.asarray(fine, jnp.bfloat16), True),
            (jnp.asarray(fine), True),
            (fine.tolist(), True),
            ((fine == fine.max(axis=-1, keepdims=True)).astype(int), True),
            (nan, True),
            (fine[:0], True),
            (above, False),
            (infinite, False),
            (10 * fine - 5, False),
            (fine[:, :1], False),
            (fine[:, 0], False),
            (fine[..., None], False),
            (fine[None], False),
            (fine.astype(complex), False),
            (fine.astype(str), False),
            (fine.astype(object), False),
            (0.5, False),
        )
    )


@st.composite
def whole(draw, below=CLASSES):
    fine = np.random.default_rng(draw(st.integers(0, 3))).integers(0, below, ROWS)
    return draw(
        odd(
            fine,
            (fine.astype(np.uint8), True),
            (jnp.asarray(fine), True),
            (fine.tolist(), True),
            (fine[:0], True),
            (fine[:, None], False),
            (fine[None], False),
            (np.eye(below)[fine], False),
            (fine.astype(float), False),
            (fine.astype(bool), False),
            (np.full(ROWS, -1), False),
            (np.full(ROWS, below), False),
            (np.append(fine, 0), False),
            (0, False),
        )
    )


@st.composite
def masks(draw):
    fine = np.random.default_rng(draw(st.integers(0, 3))).random(ROWS) < 0.7
    fine[0] = True
    return draw(
        odd(
            None,
            (fine, True),
            (fine.tolist(), True),
            (jnp.asarray(fine), True),
            (fine.astype(int), False),
            (fine.astype(float), False),
            (fine[:, None], False),
            (fine[1:], False),
            (True, False),
        )
    )


@st.composite
def scores(draw, low=0.0, high=1.0):
    fine = np.random.default_rng(draw(st.integers(0, 3))).integers(0, 9, ROWS) / 8
    return draw(
        odd(
            fine,
            (fine.astype(np.float32), True),
            (jnp.asarray(fine), True),
            (fine.tolist(), True),
            (np.where(np.arange(ROWS) == 2, np.nan, fine), True),
            (fine[:0], True),
            (fine + 1.5, high >= 2.5),
            (fine - 2, low <= -2),
            (np.full(ROWS, np.inf), high == np.inf),
            (fine[:, None], False),
            (fine[None], False),
            (fine.astype(str), False),
            (fine[1:], True),
        )
    )


@st.composite
def outcomes(draw):
    fine = np.random.default_rng(draw(st.integers(0, 3))).random(ROWS) < 0.6
    return draw(
        odd(
            fine,
            (fine.astype(int), True),
            (fine.astype(np.float32), True),
            (fine.tolist(), True),
            (fine[:0], True),
            (fine[:, None], False),
            (fine + 1, not fine.any()),
            (fine[1:], True),
        )
    )


NUM_BINS = odd(BINS, (0, False), (-1, False), (2.0, False), (True, False), ("4", False), (10**9, False), (1, True))


def check(function, oracle, arguments, fits):
    """The value of the oracle where all arguments are fine and fit together, and ValueError elsewhere."""
    values = [value for value, _ in arguments]
    if all(fine for _, fine in arguments) and fits(*values):
        found = function(*values)
        with np.errstate(all="ignore"):
            expected = oracle(*values)
        for one, other in zip(*(of if isinstance(of, tuple) else (of,) for of in (found, expected)), strict=True):
            np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=1e-5, atol=1e-6)
        return
    with pytest.raises(ValueError, match=r"must|need|cannot|NaN|cut"):
        function(*values)


def rows(*values):
    """Whether all have as many rows."""
    return len({len(value) for value in values if value is not None}) == 1


def wide(p, dtype=np.float64):
    return np.asarray(jnp.asarray(p, jnp.float32), dtype)


def labels_in_range(p, y):
    return rows(p, y) and (len(y) == 0 or max(y) < np.shape(p)[-1])


# Oracles, in float64 and by loops.


def masked(values, mask):
    values = np.asarray(values, np.float64)
    values = values if mask is None else values[np.asarray(mask)]
    return values.mean() if len(values) else np.nan


def correctness(p, y):
    p = wide(p)
    confidence = p.max(axis=-1, initial=-np.inf)
    return confidence, np.where(np.isnan(confidence), np.nan, p.argmax(axis=-1) == np.asarray(y, int))


def error(confidence, correct, mask, num_bins, binning):
    confidence, correct = (np.asarray(of, np.float64) for of in (confidence, correct))
    kept = np.ones(len(confidence), bool) if mask is None else np.asarray(mask)
    confidence, correct = confidence[kept], correct[kept]
    if not len(confidence) or np.isnan(confidence).any():
        return np.nan
    if binning == "uniform":
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        order = np.arange(len(confidence))
    else:
        order = np.argsort(confidence, kind="stable")
        bins = np.arange(len(order)) * num_bins // len(order)
        correct = np.array([correct[confidence == of].mean() for of in confidence])
    gaps = [(confidence - correct)[order][bins == k].sum() for k in range(num_bins)]
    return np.abs(gaps).sum() / len(confidence)


def nll(p, y, mask):
    p = wide(p)
    of_label = np.where(np.isnan(p).any(axis=-1), np.nan, p[np.arange(len(p)), np.asarray(y, int)])
    return masked(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)), mask)


def brier(p, y, mask):
    p = wide(p)
    return masked(((p - np.eye(p.shape[-1])[np.asarray(y, int)]) ** 2).sum(axis=-1), mask)


def classwise(p, y, mask, num_bins, binning):
    p, y = wide(p), np.asarray(y, int)
    return np.mean([error(p[:, z], y == z, mask, num_bins, binning) for z in range(p.shape[-1])])


MASKED = {
    metrics.accuracy: lambda p, y, mask: masked(correctness(p, y)[1], mask),
    metrics.negative_log_likelihood: nll,
    metrics.brier_score: brier,
}


def fits_masked(p, y, mask, *_):
    return labels_in_range(p, y) and (mask is None or rows(p, mask))


@pytest.mark.parametrize("function", MASKED, ids=lambda function: function.__name__)
@slow
@given(st.tuples(probabilities(), whole(), masks()))
def test_metrics_of_labels(function, arguments):
    check(function, MASKED[function], arguments, fits_masked)


@pytest.mark.parametrize("binning", metrics.BINNINGS)
@pytest.mark.parametrize("function", ["expected", "classwise"])
@slow
@given(st.tuples(probabilities(), whole(), masks(), NUM_BINS))
def test_calibration_errors(function, binning, arguments):
    def found(p, y, mask, num_bins):
        of = getattr(metrics, f"{function}_calibration_error")
        return of(p, y, mask, num_bins=num_bins, binning=binning)

    def oracle(p, y, mask, num_bins):
        of = classwise if function == "classwise" else lambda p, y, *rest: error(*correctness(p, y), *rest)
        return of(p, y, mask, num_bins, binning)

    check(found, oracle, arguments, fits_masked)


@slow
@given(st.tuples(scores(), outcomes(), masks(), NUM_BINS))
def test_binned_error(arguments):
    def fits(s, o, mask, _):
        return rows(s, o) and (mask is None or rows(s, mask)) and fine_outcomes(o)

    check(
        lambda s, o, mask, num_bins: metrics.binned_error(s, o, mask, num_bins=num_bins),
        lambda s, o, mask, num_bins: error(s, o, mask, num_bins, "uniform"),
        arguments,
        fits,
    )


def fine_outcomes(o):
    return np.isin(np.asarray(o), (0, 1)).all()


@slow
@given(st.tuples(probabilities(), whole()))
def test_confidence_and_correct(arguments):
    def oracle(p, y):
        confidence, correct = correctness(p, y)
        return confidence, np.nan_to_num(correct)

    check(metrics.confidence_and_correct, oracle, arguments, labels_in_range)


@slow
@given(st.tuples(probabilities(), whole(), NUM_BINS))
def test_reliability(arguments):
    def oracle(p, y, num_bins):
        confidence, correct = correctness(p, y)
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        each = [bins == k for k in range(num_bins)]
        means = [[of[at].mean() if at.any() else np.nan for at in each] for of in (confidence, correct)]
        return [at.sum() for at in each], *means

    def fits(p, y, _):
        return labels_in_range(p, y) and not np.isnan(wide(p)).any()

    check(lambda p, y, k: metrics.reliability(p, y, num_bins=k), oracle, arguments, fits)


@slow
@given(st.tuples(scores(-np.inf, np.inf), whole(SUBSETS), odd(SUBSETS, (3, True), (0, False), (1.5, False))))
def test_subset_means(arguments):
    def oracle(values, subset, count):
        values, subset = np.asarray(values, np.float64), np.asarray(subset, int)
        return [values[subset == r].mean() if (subset == r).any() else np.nan for r in range(count)]

    check(metrics.subset_means, oracle, arguments, lambda values, subset, _: rows(values, subset))


@slow
@given(st.tuples(probabilities(), whole()), st.sampled_from(metrics.VARIANCES))
def test_variance(arguments, of):
    def oracle(p, y):
        p = wide(p)
        runs = np.stack([p, np.roll(p, 1, axis=-1)])
        of_class = {
            "predicted_class": runs.mean(axis=0).argmax(axis=-1),
            "true_class": np.asarray(y, int),
        }
        values = (
            runs.max(axis=-1)
            if of == "own_confidence"
            else runs.transpose(0, 2, 1)
            if of == "all_classes"
            else runs[:, np.arange(len(p)), of_class[of]]
        )
        variance = values.var(axis=0, ddof=1)
        variance = variance.sum(axis=0) if of == "all_classes" else variance
        return np.where(np.isnan(p).any(axis=-1), np.nan, variance)

    def found(p, y):
        p = inputs.as_array(p)
        p = p if p.dtype.kind in "OUc" else wide(p)
        return metrics.example_variance(np.stack([p, np.roll(p, 1, axis=-1) if p.ndim else p]), y, of)

    (p, p_is_fine), y = arguments
    if of != "true_class":
        y = (np.zeros(np.shape(p)[:1], int), True)
    check(found, oracle, ((p, p_is_fine), y), labels_in_range)


@slow
@given(probabilities())
def test_entropy(p):
    value, fine = p
    if np.ndim(value) == 3:  # any leading axes will do
        fine = np.shape(value)[-1] >= 2
    if np.ndim(value) == 1 and inputs.as_array(value).dtype.kind == "f":
        fine = True

    def oracle(p):
        p = np.asarray(p, np.float64)
        return -np.sum(scipy.special.xlogy(p, p), axis=-1)

    check(metrics.entropy, oracle, [(value, fine)], lambda p: True)


ANY_SCORES = scores(-np.inf, np.inf)


def pairs(score, positive):
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    won = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    return np.nan if np.isnan(score).any() or not won else np.mean(won)


def reached(score, positive):
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    if np.isnan(score).any() or not positive.any() or positive.all():
        return np.nan
    thresholds = [t for t in sorted(score[positive]) if np.mean(score[positive] >= t) >= 0.95]
    return np.mean(score[~positive] >= thresholds[-1])


@pytest.mark.parametrize(("function", "oracle"), [(metrics.auroc, pairs), (metrics.false_positive_rate, reached)])
@slow
@given(st.tuples(ANY_SCORES, outcomes()))
def test_detection(function, oracle, arguments):
    check(function, oracle, arguments, lambda s, o: rows(s, o) and fine_outcomes(o))


@slow
@given(st.tuples(ANY_SCORES, outcomes()))
def test_risk_coverage(arguments):
    def oracle(confidence, correct):
        confidence, wrong = np.asarray(confidence, np.float64), 1 - np.asarray(correct, np.float64)
        risk = []
        for taken in range(1, len(confidence) + 1):
            last = np.sort(confidence)[-taken]
            above, tied = confidence > last, confidence == last
            risk.append((wrong[above].sum() + (taken - above.sum()) * wrong[tied].mean()) / taken)
        return np.arange(1, len(confidence) + 1) / len(confidence), risk, np.mean(risk) if risk else np.nan

    def fits(s, o):
        return rows(s, o) and fine_outcomes(o) and not np.isnan(np.asarray(s, np.float64)).any()

    check(metrics.risk_coverage, oracle, arguments, fits)


@pytest.mark.parametrize("function", [metrics.smooth_error, metrics.kde_error, metrics.debiased_error])
@settings(max_examples=15)
@given(st.tuples(scores(), outcomes()))
def test_errors_without_bins(function, arguments):
    """Their values have tests of their own: here a number in [0, 1] or NaN."""
    values = [value for value, _ in arguments]
    if all(fine for _, fine in arguments) and rows(*values) and fine_outcomes(values[1]):
        found = function(*values)
        missing = len(values[0]) == 0 or np.isnan(np.asarray(values[0], np.float64)).any()
        least = -1 if function is metrics.debiased_error else 0
        assert np.isnan(found) if missing else least <= found <= 1
    else:
        with pytest.raises(ValueError, match="must"):
            function(*values)


@pytest.mark.parametrize(
    ("function", "of"),
    [
        (metrics.binned_floor, scores()),
        (metrics.calibration_floor, probabilities()),
        (metrics.classwise_calibration_floor, probabilities()),
    ],
)
@settings(max_examples=20)
@given(st.data())
def test_floors(function, of, data):
    """As above."""
    (values, fine), (draws, draws_are_fine) = data.draw(st.tuples(of, odd(5, (0, False), (2.5, False))))
    if fine and draws_are_fine:
        found = function(values, draws=draws)
        missing = len(values) == 0 or np.isnan(wide(values)).any()
        assert np.isnan(found).all() if missing else 0 <= found.mean <= 1
    else:
        with pytest.raises(ValueError, match="must"):
            function(values, draws=draws)


# Soft labels.

STATE = soft_labels.SoftLabelState(np.float32([0.5, 0.875]), CLASSES)


def rows_of_targets(subset, label):
    p = STATE.p_correct[np.asarray(subset, int)].astype(np.float64)
    is_label = np.eye(CLASSES, dtype=bool)[np.asarray(label, int)]
    return np.where(is_label, p[:, None], (1 - p[:, None]) / (CLASSES - 1))


def logits():
    fine = np.random.default_rng(0).normal(0, 2, (ROWS, CLASSES)).astype(np.float32)
    return odd(
        fine,
        (jnp.asarray(fine), True),
        (fine.tolist(), True),
        (np.where(np.eye(ROWS, CLASSES), np.nan, fine), True),
        (fine[:0], True),
        (fine[:, :2], True),
        (fine[:, :1], False),
        (fine[:, 0], False),
        (fine[..., None], False),
        (fine[1:], True),
        (fine.astype(str), False),
    )


@slow
@given(st.tuples(whole(SUBSETS), whole()))
def test_targets(arguments):
    check(functools.partial(soft_labels.targets, STATE), rows_of_targets, arguments, rows)


@slow
@given(st.tuples(whole(SUBSETS), whole(), logits()))
def test_cross_entropy(arguments):
    def oracle(subset, label, logits):
        return -np.sum(rows_of_targets(subset, label) * scipy.special.log_softmax(wide(logits), axis=-1), axis=-1)

    def fits(*arguments):
        return rows(*arguments) and np.shape(arguments[-1])[-1] == CLASSES

    check(functools.partial(soft_labels.cross_entropy, STATE), oracle, arguments, fits)


MEANS = odd(
    np.float32([0.75, 0.5]),
    ([0.75, 0.5], True),
    (np.float64([0.25, np.nan]), True),
    (np.float32([[0.75, 0.5]]), False),
    (np.float32([[0.75], [0.5]]), False),
    (np.float32([75, 50]), False),
    (np.float32([0.5]), False),
    (0.5, False),
)


@slow
@given(st.tuples(MEANS, MEANS, odd(0.5, (0, True), (-0.5, False), (np.inf, False), ([0.5, 0.5], False))))
def test_update(arguments):
    def oracle(confidence, accuracy, rate):
        gap = np.asarray(confidence, np.float64) - np.asarray(accuracy, np.float64)
        moved = np.clip(STATE.p_correct - rate * gap, 1 / CLASSES, 1)
        return np.where(np.isnan(confidence) & np.isnan(accuracy), STATE.p_correct, moved)

    check(lambda *means: soft_labels.update(STATE, *means).p_correct, oracle, arguments, lambda *_: True)


@given(
    st.tuples(
        odd(2, (0, False), (2.5, False), ("2", False)),
        odd(3, (1, False), (3.0, False)),
        odd(0.5, (1, True), (-0.1, False), (1.5, False), (np.nan, False)),
    )
)
def test_init(arguments):
    check(
        lambda *of: soft_labels.init(*of).p_correct,
        lambda num_subsets, num_classes, epsilon: np.full(num_subsets, 1 - epsilon + epsilon / num_classes),
        arguments,
        lambda *_: True,
    )


# Calibrators.


@pytest.mark.parametrize("name", calibrators.BY_NAME)
@settings(max_examples=30)
@given(st.tuples(logits(), whole()))
def test_calibrators(name, arguments):
    """No other temperature of a grid is better, or ValueError."""
    (values, fine), (labels, labels_are_fine) = arguments
    known = fine and np.size(values) > 0 and not np.isnan(wide(values)).any()
    if known and labels_are_fine and labels_in_range(values, labels):
        found = calibrators.BY_NAME[name](values, labels)
        logits, at = wide(values), (np.arange(len(labels)), np.asarray(labels, int))

        def loss(calibrator):
            p = calibrator(logits)
            return -np.log(p[at]).mean() if name == "temperature" else np.square(p - np.eye(p.shape[1])[at[1]]).mean()

        others = (calibrators.Calibrator(temperature) for temperature in np.geomspace(0.06, 4.9, 50))
        assert loss(found) <= min(map(loss, others)) + 1e-6
    else:
        with pytest.raises(ValueError, match=r"must|cannot"):
            calibrators.BY_NAME[name](values, labels)


@given(logits())
def test_a_calibrator_at_work(values):
    found = calibrators.Calibrator(2.0, (0.5, 0.25, 0.25))

    def oracle(of):
        of = wide(of)
        parts = scipy.special.softmax(of / 2, axis=-1), scipy.special.softmax(of, axis=-1)
        return 0.5 * parts[0] + 0.25 * parts[1] + 0.25 / of.shape[-1]

    check(found, oracle, [values], lambda _: True)


# Attacks.

WEIGHTS = np.float32([[3, -3], [-2, 2], [1, -1], [2, -2]])
FAST = {
    attacks.cw_l2: {"binary_search_steps": 6, "max_iterations": 60, "learning_rate": 0.02},
    attacks.fmn_l2: {},
    attacks.sdf_l2: {},
    attacks.first_order_l2: {},
}
GREY = np.random.default_rng(0).uniform(0.4, 0.6, (ROWS, 2, 2, 1)).astype(np.float32)
IMAGES = odd(
    GREY,
    (jnp.asarray(GREY), True),
    (GREY.astype(np.float64), True),
    ((255 * GREY).astype(np.uint8), False),
    (2 * GREY - 1.5, False),
    (255 * GREY, False),
    (np.where(np.arange(ROWS)[:, None, None, None] == 1, np.nan, GREY), False),
    (GREY[:0], False),
    (GREY.ravel(), False),
)


def two_logits(images):
    return jnp.reshape(images, (len(images), -1)) @ WEIGHTS


CLASSIFIERS = odd(
    two_logits,
    (lambda images: two_logits(images)[:, :1], False),
    (lambda images: two_logits(images)[:, 0], False),
    (lambda images: two_logits(images)[1:], False),
    (lambda images: two_logits(images)[..., None], False),
    (lambda images: two_logits(images).astype(int), False),
)


@pytest.mark.parametrize("attack", FAST, ids=lambda attack: attack.__name__)
@settings(max_examples=12)
@given(st.tuples(CLASSIFIERS, IMAGES, whole(2)))
def test_attacks(attack, arguments):
    def oracle(_, images, labels):
        flat = np.reshape(np.asarray(images, np.float64), (ROWS, -1))
        signed = (flat @ WEIGHTS)[:, 0] * np.where(np.asarray(labels, int) == 0, 1, -1)
        return np.maximum(2 * signed, 0) / np.linalg.norm(WEIGHTS[:, 0] - WEIGHTS[:, 1])

    values = [value for value, _ in arguments]
    if all(fine for _, fine in arguments) and rows(*values[1:]):
        found = attack(*values, **FAST[attack])
        assert np.all(found.success)
        np.testing.assert_allclose(found.distance, oracle(*values), rtol=0.02, atol=0.005)
    else:
        with pytest.raises(ValueError, match=r"must|attacks take"):
            attack(*values, **FAST[attack])


@settings(max_examples=12)
@given(st.tuples(CLASSIFIERS, IMAGES, whole(2), odd(None, (np.arange(ROWS), True), (np.arange(ROWS)[:, None], False))))
def test_pgd(arguments):
    classifier, images, labels, example_id = (value for value, _ in arguments)

    def found():
        settings = {"epsilon": 0.05, "step_size": 0.5, "steps": 6, "momentum": 0.0, "example_id": example_id}
        return attacks.pgd_linf(classifier, images, labels, jax.random.key(0), **settings)

    if all(fine for _, fine in arguments) and rows(images, labels):
        # The surest corner of the ball, for the logits are linear.
        towards = np.where(np.asarray(labels, int) == 0, -1, 1)[:, None] * np.sign(WEIGHTS[:, 0])
        expected = np.asarray(images) + 0.05 * towards.reshape(GREY.shape)
        np.testing.assert_allclose(found().adversarial, expected, rtol=0, atol=1e-5)
    else:
        with pytest.raises(ValueError, match=r"must|attacks take"):
            found()


DISTANCES = scores(-np.inf, np.inf)


@slow
@given(st.tuples(DISTANCES, odd(2, (6, True), (0, False), (2.0, False))))
def test_equal_subsets(arguments):
    def oracle(distance, count):
        order = sorted(range(len(distance)), key=lambda at: (distance[at], at))
        return [order.index(at) * count // len(distance) for at in range(len(distance))]

    def fits(distance, count):
        return len(distance) >= count and not np.isnan(np.asarray(distance, np.float64)).any()

    check(attacks.equal_subsets, oracle, arguments, fits)


@pytest.mark.parametrize("function", ["undecided", "refined", "agreement"])
@slow
@given(st.data())
def test_two_rankings(function, data):
    """Their values have tests of their own: here whether they compare what cannot be compared."""
    low = 0 if function == "refined" else -np.inf
    arguments = data.draw(st.tuples(scores(low, np.inf), scores(low, np.inf)))
    values = [value for value, _ in arguments]
    missing = [np.isnan(np.asarray(of, np.float64)).any() for of, fine in arguments if fine]
    fits = all(fine for _, fine in arguments) and rows(*values) and not missing[0]
    of = getattr(attacks, function)
    if function == "refined":
        if fits:
            assert not np.isnan(of(*values)).any()
            return
    elif fits and not missing[1] and len(values[0]) >= SUBSETS:
        of(*values, SUBSETS)
        return
    with pytest.raises(ValueError, match=r"must|NaN|cut"):
        of(*values) if function == "refined" else of(*values, SUBSETS)


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
        yield from (function(p, y) for function in MASKED)
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

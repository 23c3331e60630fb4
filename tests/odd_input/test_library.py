"""Odd input to soft labels, calibrators and attacks gives the value of a NumPy oracle, or ValueError."""

import functools

import jax
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from odd import (
    CLASSES,
    CLASSIFIERS,
    FAST,
    GREY,
    IMAGES,
    ROWS,
    SUBSETS,
    WEIGHTS,
    check,
    labels_in_range,
    logits,
    odd,
    probabilities,
    rows,
    scores,
    slow,
    whole,
    wide,
)

from arada import attacks, calibrators, inputs, soft_labels

pytestmark = pytest.mark.usefixtures("quickly_compiled")

# Soft labels.

STATE = soft_labels.SoftLabelState(np.float32([0.5, 0.875]), CLASSES)


def rows_of_targets(subset, label):
    p = STATE.p_correct[np.asarray(subset, int)].astype(np.float64)
    is_label = np.eye(CLASSES, dtype=bool)[np.asarray(label, int)]
    return np.where(is_label, p[:, None], (1 - p[:, None]) / (CLASSES - 1))


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


@slow
@given(st.tuples(probabilities(), logits()))
def test_cross_entropy_with_any_targets(arguments):
    def oracle(targets, logits):
        return -np.sum(wide(targets) * scipy.special.log_softmax(wide(logits), axis=-1), axis=-1)

    (targets, fine), other = arguments
    if inputs.as_array(targets).dtype.kind == "f" and np.ndim(targets) == 2:
        fine = True  # of any range: targets need not be probabilities
    same_shape = lambda *of: np.shape(of[0]) == np.shape(of[1])  # noqa: E731
    check(soft_labels.cross_entropy_with, oracle, ((targets, fine), other), same_shape)


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


P_CORRECT = odd(
    np.float32([0.5, 0.875]),
    ([1 / CLASSES, 1], True),
    (np.float64([np.nan, 1]), True),
    (np.float32([[0.5]]), False),
    (np.float32([0.25]), False),
    (np.float32([1.5]), False),
    (0.5, False),
)


@given(st.tuples(P_CORRECT))
def test_smoothing(arguments):
    """The label (1 - epsilon) one-hot + epsilon / Z has the given probability of the correct class."""

    def oracle(p_correct):
        return (1 - np.asarray(p_correct, np.float64)) / (1 - 1 / CLASSES)

    def found(p_correct):
        return soft_labels.smoothing(soft_labels.SoftLabelState(p_correct, CLASSES))

    check(found, oracle, arguments, lambda _: True)


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
        with pytest.raises(ValueError, match=r"must|cannot|needs"):
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


def subsets_of(distance):
    order = sorted(range(len(distance)), key=lambda row: (distance[row], row))
    return [order.index(row) * SUBSETS // len(order) for row in range(len(order))]


def undecided(estimate, distance):
    same = [one == other for one, other in zip(subsets_of(estimate), subsets_of(distance), strict=True)]
    return [not fine or not np.isfinite(of) for fine, of in zip(same, distance, strict=True)]


def agreement(distance, reference):
    difference = np.abs(np.subtract(subsets_of(distance), subsets_of(reference)))
    both = [(one, other) for one, other in zip(distance, reference, strict=True) if np.isfinite([one, other]).all()]
    ratios = [one / other for one, other in both if other > 0]
    # Ranks share ties: how many are below, and half of how many are equal.
    ranks = [[(of < one).sum() + (of == one).sum() / 2 for one in of] for of in map(np.asarray, (distance, reference))]
    moved = [np.subtract(rank, np.mean(rank)) for rank in ranks]
    spread = np.sqrt(np.prod([np.sum(of**2) for of in moved]))
    return {
        "spearman": np.sum(moved[0] * moved[1]) / spread if spread else np.nan,
        "same_subset": np.mean(difference == 0),
        "adjacent_subset": np.mean(difference <= 1),
        "median_ratio": np.median(ratios) if ratios else np.nan,
    }


def refined(distance, measured):
    """Of fewer than 13 examples the running median is that of all."""
    pairs = [(near, more) for near, more in zip(distance, measured, strict=True) if np.isfinite([near, more]).all()]
    ratio = np.median([min(near, more) / max(near, 1e-12) for near, more in pairs]) if pairs else 1
    of_each = zip(distance, measured, strict=True)
    return [near * ratio if np.isnan(more) else min(near, more) for near, more in of_each]


@pytest.mark.parametrize("oracle", [undecided, refined, agreement], ids=lambda oracle: oracle.__name__)
@slow
@given(st.data())
def test_two_rankings(oracle, data):
    low = 0 if oracle is refined else -np.inf
    arguments = data.draw(st.tuples(scores(low, np.inf), scores(low, np.inf)))
    values = [value for value, _ in arguments]
    missing = [np.isnan(np.asarray(of, np.float64)).any() for of, fine in arguments if fine]
    fits = all(fine for _, fine in arguments) and rows(*values) and not missing[0]
    others = () if oracle is refined else (SUBSETS,)
    if oracle is not refined:
        fits = fits and not missing[1] and len(values[0]) >= SUBSETS
    if fits:
        found = getattr(attacks, oracle.__name__)(*values, *others)
        expected = oracle(*(np.asarray(value, np.float64) for value in values))
        if oracle is agreement:
            found, expected = list(found.values()), list(expected.values())
        np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(expected, np.float64), rtol=1e-5)
        return
    with pytest.raises(ValueError, match=r"must|NaN|cut"):
        getattr(attacks, oracle.__name__)(*values, *others)


@slow
@given(
    st.tuples(
        odd(
            np.float64([0.25, -0.125, 0.125, 0.25]),
            ([0.25, 0.5], True),
            (np.float32([0.25]), True),
            (np.float64([]), False),
            (np.float64([[0.25, 0.5]]), False),
            (np.float64([25.0, 50.0]), False),
            (0.5, False),
        ),
        odd(
            np.arange(-8, 8) / 8,
            (np.zeros(4), True),
            (np.float64([[0.5]]), False),
            (np.float64([8.0]), False),
        ),
        odd(4, (2, True), (1, False), (0, False), (2.5, False)),
        odd(1.0, (0.0, True), (100.0, True), (-1.0, False), (np.nan, False)),
    )
)
def test_shrink(arguments):
    def oracle(gap, error, images, strength):
        gap, error = (np.asarray(of, np.float64) for of in (gap, error))
        mean = sum(gap) / len(gap)
        if len(gap) == 1:
            return gap
        spread = sum((of - mean) ** 2 for of in gap) / (len(gap) - 1)
        of_images = (sum(error**2) / len(error) - sum(gap**2) / len(gap)) * images / (images - 1) / images
        kept = 1 - strength * max(of_images, 0) / spread if spread else 0
        return np.array([mean + max(kept, 0) * (of - mean) for of in gap])

    check(soft_labels.shrink, oracle, arguments, lambda *_: True)


@settings(max_examples=20)
@given(st.tuples(CLASSIFIERS, IMAGES, whole(2)))
def test_first_order_estimate(arguments):
    """Exact on a linear classifier, which the label may already contradict: then it is 0."""
    values = [value for value, _ in arguments]
    if all(fine for _, fine in arguments) and rows(*values[1:]):
        flat = np.reshape(np.asarray(values[1], np.float64), (ROWS, -1))
        signed = (flat @ WEIGHTS)[:, 0] * np.where(np.asarray(values[2], int) == 0, 1, -1)
        expected = np.maximum(2 * signed, 0) / np.linalg.norm(WEIGHTS[:, 0] - WEIGHTS[:, 1])
        for estimate in (attacks.first_order_estimate(*values), attacks.first_order(*values).estimate):
            np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-6)
    else:
        for function in (attacks.first_order_estimate, attacks.first_order):
            with pytest.raises(ValueError, match=r"must|attacks take"):
                function(*values)


@given(IMAGES)
def test_check_images(images):
    value, _ = images
    low, high = np.min(value, initial=0), np.max(value, initial=0)  # of any shape, and of no images
    if inputs.as_array(value).dtype.kind == "f" and low >= 0 and high <= 1:
        assert attacks.check_images(value) is None
    else:
        with pytest.raises(ValueError, match="attacks take float images"):
            attacks.check_images(value)


@settings(max_examples=20)
@given(st.tuples(CLASSIFIERS, IMAGES))
def test_classifier_warnings(arguments):
    (classifier, images), fine = (value for value, _ in arguments), all(fine for _, fine in arguments)
    if fine:
        assert attacks.classifier_warnings(classifier, images) == []
    else:
        with pytest.raises(ValueError, match=r"must|attacks take"):
            attacks.classifier_warnings(classifier, images)

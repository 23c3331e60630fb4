"""The soft labels of the paper over epochs."""

import numpy as np
import pytest

from arada.methods import SoftLabels, Validation


def test_label_smoothing_of_0_is_vanilla(outcome, batch, assert_same):
    vanilla = outcome(SoftLabels(num_subsets=1, num_classes=3), batch | {"subset": np.zeros(12, np.int32)})
    smoothed = SoftLabels(num_subsets=2, num_classes=3, epsilon=0.0)
    assert_same(outcome(smoothed, batch), vanilla)
    assert (
        np.abs(outcome(SoftLabels(num_subsets=2, num_classes=3, epsilon=0.1), batch).losses - vanilla.losses).min() > 0
    )


def epochs(method, num_epochs=6, num_subsets=3):
    """Soft labels before and after each of some epochs, with the confidence and accuracy of each."""
    rng = np.random.default_rng(0)
    learnt, seen = [method.init()], []
    for epoch in range(num_epochs):
        confidence, accuracy = rng.uniform(0.3, 1, (2, num_subsets))
        seen.append((confidence, accuracy))
        of_epoch = Validation(np.ones(1), np.ones(1), confidence, accuracy)
        learnt.append(method.update(learnt[-1], of_epoch, epoch))
    return [np.asarray(labels.p_correct) for labels in learnt], seen


@pytest.mark.parametrize("num_subsets", [1, 3])
def test_equation_3_over_epochs_with_a_schedule(num_subsets):
    """AdaLS and AR-AdaLS."""
    method = SoftLabels(num_subsets=num_subsets, num_classes=4, epsilon=0.2, alpha=((0, 0.5), (3, 0.1)))
    found, seen = epochs(method, num_subsets=num_subsets)
    expected = np.full(num_subsets, 1 - 0.2 + 0.2 / 4)
    for epoch, (confidence, accuracy) in enumerate(seen):
        np.testing.assert_allclose(found[epoch], expected, rtol=0, atol=1e-6)
        expected = np.clip(expected - (0.5 if epoch < 3 else 0.1) * (confidence - accuracy), 1 / 4, 1)
    np.testing.assert_allclose(found[-1], expected, rtol=0, atol=1e-6)
    assert np.abs(expected - found[0]).min() > 0.01


def test_subsets_share_what_they_learn():
    # The example of test_soft_labels.py: gaps of 0.4 and 0 become 0.375 and 0.025.
    of_epoch = Validation(
        confidence=np.array([0.5, 1.3, 0.1, 0.9]),
        correct=np.array([False, True, False, True]),
        subset_confidence=np.array([0.9, 0.5]),
        subset_accuracy=np.array([0.5, 0.5]),
    )
    for shrinkage, gap in ((0.0, [0.4, 0.0]), (1.0, [0.375, 0.025])):
        method = SoftLabels(num_subsets=2, num_classes=4, alpha=((0, 0.5),), shrinkage=shrinkage)
        learnt = method.update(method.init(), of_epoch, 0)
        np.testing.assert_allclose(learnt.p_correct, 1 - 0.5 * np.array(gap), rtol=1e-6)


def test_without_a_rate_nothing_is_learnt():
    fixed, _ = epochs(SoftLabels(num_subsets=3, num_classes=4))
    tiny, _ = epochs(SoftLabels(num_subsets=3, num_classes=4, alpha=((0, 1e-12),)))
    for labels in (fixed, tiny):
        np.testing.assert_array_equal(labels, np.ones((7, 3)))

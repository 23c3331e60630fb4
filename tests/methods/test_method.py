import numpy as np
import pytest

from arada import methods
from arada.methods import SoftLabels, Validation
from configs import digits


def test_label_smoothing_of_0_is_vanilla(outcome, batch, assert_same):
    vanilla = outcome(SoftLabels(num_subsets=1, num_classes=3), batch | {"subset": np.zeros(12, np.int32)})
    smoothed = SoftLabels(num_subsets=2, num_classes=3, epsilon=0.0)
    assert_same(outcome(smoothed, batch), vanilla)
    assert (
        np.abs(outcome(SoftLabels(num_subsets=2, num_classes=3, epsilon=0.1), batch).losses - vanilla.losses).min() > 0
    )


def epochs(method, num_epochs=6, num_subsets=3):
    """Soft labels before and after each of some epochs, with what the validation sets of these said."""
    rng = np.random.default_rng(0)
    learnt, told = [method.init()], []
    for epoch in range(num_epochs):
        confidence, accuracy = rng.uniform(0.3, 1, (2, num_subsets))
        told.append((confidence, accuracy))
        of_epoch = Validation(np.ones(1), np.ones(1), confidence, accuracy)
        learnt.append(method.update(learnt[-1], of_epoch, epoch))
    return [np.asarray(labels.p_correct) for labels in learnt], told


@pytest.mark.parametrize("num_subsets", [1, 3])
def test_equation_3_over_epochs_with_a_schedule(num_subsets):
    """AdaLS and AR-AdaLS."""
    method = SoftLabels(num_subsets=num_subsets, num_classes=4, epsilon=0.2, alpha=((0, 0.5), (3, 0.1)))
    found, told = epochs(method, num_subsets=num_subsets)
    expected = np.full(num_subsets, 1 - 0.2 + 0.2 / 4)
    for epoch, (confidence, accuracy) in enumerate(told):
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


@pytest.mark.parametrize("preset", digits.METHODS)
def test_presets_build_their_method(preset):
    config = digits.get_config(preset)
    method = methods.build(config)
    labels = config.soft_labels
    assert type(method) is methods.BY_NAME[config.method.name]
    assert (method.num_subsets, method.num_classes, method.epsilon) == (labels.num_subsets, 10, labels.epsilon)
    assert method.alpha == (labels.alpha if labels.adaptive else ())
    assert method.shrinkage == labels.shrinkage
    for field, value in config.method.get(config.method.name, {}).items():
        assert getattr(method, field) == value


def test_fields_reach_the_method():
    config = digits.get_config("ccat")
    config.method.ccat.radius = 0.03
    assert methods.build(config).radius == 0.03
    # Smoothing has a name close to it.
    config.soft_labels.epsilon = 0.1
    assert methods.build(config) == methods.CCAT(num_subsets=1, num_classes=10, epsilon=0.1, radius=0.03)


@pytest.mark.parametrize("name", methods.BY_NAME)
def test_a_masked_class_is_as_if_it_were_not_there(outcome, batch, assert_same, name):
    fields = {"radius": 0.0} if name == "ccat" else {}
    of_two = batch | {"label": batch["label"] % 2}
    found, expected = (
        outcome(methods.BY_NAME[name](num_subsets=2, num_classes=classes, **fields), of_two, forward=forward)
        for classes, forward in ((3, "masked"), (2, "without_last"))
    )
    if name in ("mbls", "acls"):  # means over the classes: there is one more
        assert np.isfinite(found.losses).all()
        assert np.isfinite(found.gradient["second"]).all()
    else:
        assert_same((found.losses, found.gradient), (expected.losses, expected.gradient), rtol=1e-6)

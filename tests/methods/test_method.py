"""What holds for every method, and how a config builds one."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from arada import methods
from arada.methods import Method, Validation
from configs import digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hinge(Method):
    """A method without soft labels, which learns nothing: the multi-class hinge loss."""

    margin: float = 1.0

    def loss(self, network, images, batch, learnt, key):
        logits, batch_stats = network.forward(images)
        own = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)
        return jnp.sum(jnp.maximum(0, self.margin + logits - own), axis=-1) - self.margin, logits, batch_stats


def test_a_method_may_have_a_loss_alone(outcome, batch):
    method = Hinge(num_subsets=2, num_classes=3, margin=0.5)
    found = outcome(method, batch)
    own = found.logits[np.arange(12), batch["label"]]
    others = [np.delete(row, label) for row, label in zip(found.logits, batch["label"], strict=True)]
    expected = [np.maximum(0, 0.5 + other - of).sum() for other, of in zip(others, own, strict=True)]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5, atol=1e-6)
    learnt = method.init()
    assert method.update(learnt, Validation(*np.ones((4, 1))), epoch=0) == learnt == ()
    assert (method.scalars(learnt), method.describe(learnt, epoch=0)) == ({}, "")


def test_a_method_needs_a_loss():
    with pytest.raises(TypeError, match=r"abstract method '?loss"):
        Method(num_subsets=2, num_classes=3)


def test_only_methods_can_be_registered():
    with pytest.raises(ValueError, match=r"method.name 'mine': <function .* is not a subclass of arada.methods.Method"):
        methods.register("mine", lambda **fields: Hinge(**fields))


def test_soft_labels_reach_only_methods_that_have_them(monkeypatch):
    monkeypatch.setitem(methods.BY_NAME, "hinge", Hinge)
    config = digits.get_config("ar_adals")
    config.method.update(name="hinge", hinge={"margin": 2.0})
    assert methods.build(config) == Hinge(num_subsets=10, num_classes=10, margin=2.0)


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

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from arada.methods import AdaFocal, AdaFocalState, DualFocal, Focal, SoftLabels, Validation
from arada.methods.focal import focus
from arada.training.checkpoints import Checkpoints
from arada.training.state import Supervision, TrainState

LABELS = {"num_subsets": 2, "num_classes": 3, "epsilon": 0.1}
ONE_HOT = LABELS | {"epsilon": 0.0}
WIDE = ONE_HOT | {"num_classes": 6}


def validation_of(confidence, correct):
    return Validation(np.float32(confidence), np.array(correct, bool), np.full(2, 0.8), np.full(2, 0.7))


def gamma_after(confidence, correct, before, **fields):
    method = AdaFocal(**ONE_HOT, num_bins=len(before), **fields)
    learnt = method.init().replace(gamma=np.float32(before))
    return method.update(learnt, validation_of(confidence, correct), 0)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_gamma_0_is_cross_entropy(outcome, batch, assert_same, epsilon):
    labels = LABELS | {"epsilon": epsilon}
    assert_same(outcome(Focal(**labels, gamma=0.0), batch), outcome(SoftLabels(**labels), batch))


@pytest.mark.parametrize("gamma", [3.0, 0.5])
def test_focal_loss_by_hand(outcome, batch, gamma):
    found = outcome(Focal(**ONE_HOT, gamma=gamma), batch)
    p = scipy.special.softmax(found.logits.astype(np.float64), axis=-1)[np.arange(12), batch["label"]]
    np.testing.assert_allclose(found.losses, -((1 - p) ** gamma) * np.log(p), rtol=2e-6)


def test_negative_powers_are_inverse_focal_loss():
    logits = np.float32([[2, 0, -1], [-3, 1, 0]])
    p = scipy.special.softmax(logits.astype(np.float64), axis=-1)[:, 0]
    found = focus(jnp.float32([-0.5, -2.0]), np.array([0, 0]), jnp.asarray(logits))
    np.testing.assert_allclose(found, (1 + p) ** [0.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.2, 3.0, -2.0])
def test_gradients_of_a_sure_network_are_finite(gamma):
    """Where p is 1 in float32, the gradient of (1 - p)^0.2 itself has no value."""
    logits = jnp.float32([[40.0, 0.0], [500.0, 0.0], [-500.0, 0.0]])
    label = np.zeros(3, np.int32)

    def loss(logits):
        return jnp.sum(focus(jnp.float32(gamma), label, logits) * -jax.nn.log_softmax(logits)[:, 0])

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(gradient[:2], 0, atol=1e-6)


def test_dual_focal_loss_by_hand(outcome, batch):
    # Rows of log-probabilities, so that softmax gives them back; labels 0, the runner-up, and the least probable.
    rows = np.array(
        [[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], [0.4, 0.3, 0.2, 0.05, 0.03, 0.02], [0.3, 0.25, 0.2, 0.1, 0.1, 0.05]]
    )
    label = np.tile(np.int32([0, 1, 5]), 4)
    of_rows = {"image": np.tile(np.log(rows).astype(np.float32), (4, 1)).reshape(12, 2, 3, 1), "label": label}
    found = outcome(DualFocal(**WIDE, gamma=2.0), batch | of_rows, forward="identity")
    p, q = np.array([0.5, 0.3, 0.05]), np.array([0.2, 0.2, 0.0])
    np.testing.assert_allclose(found.losses[:3], -((1 - p + q) ** 2) * np.log(p), rtol=1e-5)


def test_dual_focal_loss_of_gamma_0_is_cross_entropy(outcome, batch, assert_same):
    assert_same(outcome(DualFocal(**LABELS, gamma=0.0), batch), outcome(SoftLabels(**LABELS), batch))


@pytest.mark.parametrize("gamma", [0.2, 5.0])
def test_gradients_of_dual_focal_loss_are_finite(gamma):
    method = DualFocal(**ONE_HOT, gamma=gamma)
    batch = {"label": np.zeros(4, np.int32), "subset": np.zeros(4, np.int32)}
    logits = jnp.float32([[40.0, 0.0, -1.0], [500.0, 0.0, 0.0], [-500.0, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def loss(logits):
        class Shown:
            def forward(self, images):
                return images, {}

        return jnp.sum(method.loss(Shown(), logits, batch, method.init(), None)[0])

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_adafocal_starts_as_focal_loss_of_power_1(outcome, batch, assert_same):
    assert_same(outcome(AdaFocal(**LABELS), batch), outcome(Focal(**LABELS, gamma=1.0), batch))


@pytest.mark.parametrize("devices", [1, 4])
def test_an_image_has_the_power_of_its_bin(outcome, batch, devices):
    method = AdaFocal(**WIDE, num_bins=3)
    p = scipy.special.softmax(batch["image"].reshape(12, 6).astype(np.float64), axis=-1)[np.arange(12), batch["label"]]
    edges = np.sort(p)[[4, 8]].astype(np.float32)  # an image on an edge belongs above it
    learnt = method.init().replace(gamma=np.float32([4.0, -1.0, 0.5]), edges=edges * np.float32(1 - 1e-6))
    found = outcome(method, batch, learnt, forward="identity", devices=devices)
    bins = np.argsort(np.argsort(p)) // 4
    factor = np.where(bins == 0, (1 - p) ** 4, np.where(bins == 1, 1 + p, (1 - p) ** 0.5))
    np.testing.assert_allclose(found.losses, -factor * np.log(p), rtol=1e-5)


def test_adafocal_s_update_by_hand():
    # Bins [.5, .6] and [.8, 1.]: the edge is the third of four.
    learnt = gamma_after([0.8, 0.5, 1.0, 0.6], [False, True, True, True], [1.0, -1.0])
    np.testing.assert_array_equal(learnt.edges, np.float32([0.8]))
    # Confidence - accuracy: 0.55 - 1 and 0.9 - 0.5.
    np.testing.assert_allclose(learnt.gamma, [np.exp(-0.45), -np.exp(-0.4)], rtol=1e-6)
    # Twice the rate.
    learnt = gamma_after([0.8, 0.5, 1.0, 0.6], [False, True, True, True], [1.0, -1.0], rate=2.0)
    np.testing.assert_allclose(learnt.gamma, [np.exp(-0.9), -np.exp(-0.8)], rtol=1e-6)


@pytest.mark.parametrize(
    ("before", "gap", "after"),
    [
        (0.25, -0.5, -0.2),  # 0.152: inverse from here on
        (-0.25, 0.5, 0.2),  # and back
        (0.25, -0.2, 0.25 * np.exp(-0.2)),  # 0.205
        (19.0, 0.5, 20.0),
        (-1.9, -0.5, -2.0),
    ],
)
def test_powers_switch_and_are_clipped(before, gap, after):
    # Two images, sure by a half and both right or both wrong; or by 0.8 and right.
    confidence, correct = (0.5 if abs(gap) == 0.5 else 1 + gap), gap < 0
    np.testing.assert_allclose(gamma_after([confidence] * 2, [correct] * 2, [before]).gamma, [after], rtol=1e-5)


def test_images_that_are_equally_sure_share_a_bin():
    # Five of six at 1: all edges but the first are 1, and only the first and the last bin hold anything.
    learnt = gamma_after([1.0] * 5 + [0.5], [True] * 4 + [False] * 2, [1.0, 1.5, 2.0, 2.5])
    np.testing.assert_array_equal(learnt.edges, [1, 1, 1])
    np.testing.assert_allclose(learnt.gamma, [np.exp(0.5), 1.5, 2.0, 2.5 * np.exp(0.2)], rtol=1e-6)


def test_soft_labels_are_learnt_beside_the_powers():
    method = AdaFocal(**ONE_HOT, alpha=((0, 0.5),))
    learnt = method.update(method.init(), validation_of([0.6] * 15, [True] * 15), 0)
    np.testing.assert_allclose(learnt.soft_labels.p_correct, [0.95, 0.95], rtol=1e-6)  # 1 - 0.5 * (0.8 - 0.7)
    scalars = method.scalars(learnt)
    assert scalars["soft_label/subset_01"] == pytest.approx(0.95)
    assert [key for key in scalars if "focal" in key] == [f"focal_power/bin_{k:02}" for k in range(15)]


def test_a_checkpoint_brings_it_back(tmp_path):
    method = AdaFocal(**ONE_HOT)
    learnt = method.update(method.init(), validation_of(np.linspace(0.4, 1, 30), np.arange(30) % 2), 0)
    assert len(np.unique(learnt.gamma)) > 5

    def supervision(learnt):
        return Supervision(jax.device_get(learnt), np.arange(4, dtype=np.int32), np.arange(3, dtype=np.int32))

    state = TrainState(np.array(7, np.int32), {"bias": np.zeros(2, np.float32)}, {}, {}, ())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, supervision(learnt), {})
    with Checkpoints(tmp_path) as checkpoints:
        _, restored, _ = checkpoints.restore(state, supervision(method.init()))
    assert isinstance(restored.learnt, AdaFocalState)
    jax.tree.map(np.testing.assert_array_equal, restored, supervision(learnt))

import numpy as np
import pytest
import scipy.special

from arada.methods import CCAT, SoftLabels

LABELS = {"num_subsets": 2, "num_classes": 3, "epsilon": 0.1}
# As many as pixels, so that the network may show images as its logits.
WIDE = LABELS | {"num_classes": 6}
ODD = np.arange(12) % 2 == 1


@pytest.fixture
def added(batch, normalization):
    """added(logits, of=batch): what was added to the pixels [B, 6] of images that are shown as logits."""

    def of_logits(logits, of=batch):
        return (logits - of["image"].reshape(12, 6)).astype(np.float64) * normalization["scale"]

    return of_logits


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_a_ball_of_radius_0_is_vanilla(outcome, batch, assert_same, epsilon):
    labels = LABELS | {"epsilon": epsilon}
    assert_same(outcome(CCAT(**labels, radius=0.0), batch), outcome(SoftLabels(**labels), batch))


def test_odd_places_are_attacked_within_the_ball(outcome, batch, added):
    for key in range(6):  # all three starts are among them
        delta = added(outcome(CCAT(**WIDE), batch, forward="identity", attacked="small", key=key).logits)
        np.testing.assert_array_equal(delta[~ODD], 0)
        # Pixels are divided by a scale of 0.25 and back.
        assert np.all(np.abs(delta[ODD]).max(axis=-1) > 0.004)
        assert np.abs(delta).max() < 0.01 + 1e-6


def test_the_attack_is_on_running_statistics(outcome, batch, params):
    """`forward` shows the images, `logits` is another network: that is the one whose wrong classes gain."""
    method = CCAT(**WIDE, radius=0.05)
    shown = outcome(method, batch, forward="identity", attacked="small").logits

    def wrong(images):
        probabilities = scipy.special.softmax(np.tanh(images @ params["first"]) @ params["second"], axis=-1)
        return np.where(np.eye(3, dtype=bool)[batch["label"]], 0, probabilities).max(axis=-1)

    gain = wrong(shown) - wrong(batch["image"].reshape(12, 6))
    assert np.all(gain[ODD] > 0.01)


def test_the_label_fades_with_the_perturbation(outcome, batch, added):
    # Short steps and a low power, so that labels between one-hot and uniform occur.
    method = CCAT(**WIDE, radius=0.1, step_size=0.2, steps=2, rho=2.0)
    found = outcome(method, batch, forward="identity", key=2)
    size = np.abs(added(found.logits)).max(axis=-1)
    certainty = ((1 - size / 0.1) ** 2)[:, None]
    assert np.any((certainty[ODD] > 0.05) & (certainty[ODD] < 0.95))
    soft = 0.9 * np.eye(6)[batch["label"]] + 0.1 / 6
    targets = certainty * soft + (1 - certainty) / 6
    losses = -np.sum(targets * scipy.special.log_softmax(found.logits.astype(np.float64), axis=-1), axis=-1)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)


def test_pixels_outside_the_box_go_no_farther(outcome, batch, normalization, added):
    """As where augmentation lays a bright image over the low mean of others."""
    pixels = np.where(np.arange(6) % 2, 1.02, -0.03).reshape(2, 3, 1)
    outside = {"image": np.repeat(((pixels - normalization["mean"]) / 0.25)[None], 12, axis=0).astype(np.float32)}
    for key in range(6):
        logits = outcome(CCAT(**WIDE), batch | outside, forward="identity", attacked="small", key=key).logits
        reached = pixels.reshape(6) + added(logits, of=outside)
        assert reached.max() < 1.02 + 1e-6
        assert reached.min() > -0.03 - 1e-6


# Parts of 12, 6 and 3 images: the last begin at odd and at even places.
@pytest.mark.parametrize(("devices", "mapping"), [(2, "pmap"), (4, "pmap"), (4, "shard_map")])
def test_device_counts_change_nothing(outcome, batch, assert_same, devices, mapping):
    method = CCAT(**LABELS, steps=3)
    for key in (0, 1, 2):
        of_one = outcome(method, batch, key=key)
        assert_same(outcome(method, batch, key=key, devices=devices, mapping=mapping), of_one, rtol=2e-6)

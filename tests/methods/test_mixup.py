import dataclasses

import jax
import numpy as np
import pytest
import scipy.special
from scipy import stats

from arada.methods import Mixup, Network, SoftLabels
from arada.models import BATCH_AXIS

LABELS = {"num_subsets": 2, "num_classes": 3, "epsilon": 0.1}
# As many as pixels, so that the network may show images as its logits.
WIDE = LABELS | {"num_classes": 6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Mixup):
    """mixup whose lambda is known."""

    share: float

    def _share(self, key, example_id):
        return self.share


def shares(batch, logits):
    """lambda of each image, from the mixed images themselves."""
    images = batch["image"].reshape(len(logits), -1).astype(np.float64)
    away = images - images[::-1]
    return np.sum((logits - images[::-1]) * away, axis=-1) / np.sum(np.square(away), axis=-1)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_lambda_1_is_vanilla(outcome, batch, assert_same, epsilon):
    labels = LABELS | {"epsilon": epsilon}
    assert_same(outcome(Fixed(**labels, share=1.0), batch), outcome(SoftLabels(**labels), batch))


def test_by_hand(outcome, batch):
    found = outcome(Fixed(**WIDE, share=0.25), batch, forward="identity")
    images = batch["image"].reshape(12, 6).astype(np.float64)
    targets = 0.9 * np.eye(6)[batch["label"]] + 0.1 / 6
    mixed = 0.25 * images + 0.75 * images[::-1]
    of_both = 0.25 * targets + 0.75 * targets[::-1]
    np.testing.assert_allclose(found.logits, mixed, rtol=0, atol=1e-6)
    losses = -np.sum(of_both * scipy.special.log_softmax(mixed, axis=-1), axis=-1)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-6)


def test_partners_soft_labels_are_those_of_their_subsets(outcome, batch):
    learnt = SoftLabels(**WIDE).init().replace(p_correct=np.float32([0.9, 0.4]))
    backwards = {key: value[::-1] for key, value in batch.items()}
    found = outcome(Fixed(**WIDE, share=0.0), batch, learnt, forward="identity")
    expected = outcome(SoftLabels(**WIDE), backwards, learnt, forward="identity")
    np.testing.assert_array_equal(found.losses, expected.losses)


def test_one_lambda_a_batch_drawn_from_beta(batch):
    method = Mixup(**WIDE)
    network = Network(lambda images: (images.reshape(len(images), -1), {}), None, {})

    def logits(key):
        on_one = jax.vmap(
            lambda batch: method.loss(network, batch["image"], batch, method.init(), key)[1], axis_name=BATCH_AXIS
        )
        return on_one(jax.tree.map(lambda x: x[None], batch))[0]

    drawn = np.asarray(jax.jit(jax.vmap(logits))(jax.random.split(jax.random.key(0), 400)))
    of_batches = np.stack([shares(batch, of_key) for of_key in drawn])
    assert np.ptp(of_batches, axis=1).max() < 1e-5
    assert stats.kstest(of_batches[:, 0].clip(0, 1), stats.beta(0.2, 0.2).cdf).pvalue > 1e-3


def test_one_lambda_an_image_by_its_id(outcome, batch):
    method = Mixup(**WIDE, per_example=True)
    found = shares(batch, outcome(method, batch, forward="identity").logits)
    assert len(np.unique(found.round(4))) > 8
    # Elsewhere in the batch an image has another partner, and the same lambda.
    order = np.random.default_rng(0).permutation(12)
    moved = {key: value[order] for key, value in batch.items()}
    again = shares(moved, outcome(method, moved, forward="identity").logits)
    np.testing.assert_allclose(again, found[order], rtol=0, atol=1e-5)
    assert np.abs(shares(batch, outcome(method, batch, forward="identity", key=1).logits) - found).max() > 0.1


@pytest.mark.parametrize(
    ("devices", "mapping", "per_example"),
    [(2, "pmap", False), (4, "pmap", False), (4, "shard_map", False), (4, "pmap", True)],
)
def test_device_counts_change_nothing(outcome, batch, assert_same, devices, mapping, per_example):
    method = Mixup(**LABELS, per_example=per_example)
    assert_same(outcome(method, batch, devices=devices, mapping=mapping), outcome(method, batch), rtol=1e-6)

import jax
import numpy as np
import pytest
import scipy.special

from arada.methods import ACLS, MbLS, SoftLabels

LABELS = {"num_subsets": 2, "num_classes": 3, "epsilon": 0.1}
WIDE = {"num_subsets": 1, "num_classes": 6}
METHODS = pytest.mark.parametrize("method", [MbLS, ACLS])


def shown(batch, logits, labels):
    """A batch whose images are these logits, for the network that shows images."""
    image = np.tile(np.float32(logits), (len(batch["label"]) // len(logits), 1)).reshape(-1, 2, 3, 1)
    label = np.tile(np.int32(labels), len(image) // len(labels))
    return batch | {"image": image, "label": label, "subset": np.zeros(len(image), np.int32)}


# The first image is sure by 14 and 12 of a class that is wrong, the second has no logits so far apart.
LOGITS, LABEL = [[12.0, 0.0, -2.0, 9.0, 11.0, 3.0], [1.0, 2.0, 3.0, 0.0, -1.0, -3.0]], [3, 0]
CROSS_ENTROPY = [-scipy.special.log_softmax(logits)[label] for logits, label in zip(LOGITS, LABEL, strict=True)]


def test_mbls_by_hand(outcome, batch):
    # 12 - 0 and 12 - (-2) lie 2 and 4 beyond the margin of 10: (2 + 4) / 6 classes = 1, times 0.1.
    found = outcome(MbLS(**WIDE), shown(batch, LOGITS, LABEL), forward="identity")
    np.testing.assert_allclose(found.losses[:2], [CROSS_ENTROPY[0] + 0.1, CROSS_ENTROPY[1]], rtol=1e-6)
    # A margin of 5: of the first 7 + 9 + 4, of the second 1 (3 - -3).
    found = outcome(MbLS(**WIDE, margin=5.0, weight=1.0), shown(batch, LOGITS, LABEL), forward="identity")
    np.testing.assert_allclose(found.losses[:2], np.add(CROSS_ENTROPY, [20 / 6, 1 / 6]), rtol=1e-6)


def test_acls_by_hand(outcome, batch):
    # The logit 12: 1 * 2^2. The others: 0.1 * (2^2 + 4^2) / 5. Times 0.1.
    found = outcome(ACLS(**WIDE), shown(batch, LOGITS, LABEL), forward="identity")
    np.testing.assert_allclose(found.losses[:2], [CROSS_ENTROPY[0] + 0.44, CROSS_ENTROPY[1]], rtol=1e-6)


def test_acls_holds_the_maximum_still_where_others_pay():
    """Its gradient by the largest logit is that of the first term, 2 * (12 - 10), and of cross-entropy alone."""
    method = ACLS(**WIDE, weight=1.0)
    batch = {"label": np.int32(LABEL[:1]), "subset": np.zeros(1, np.int32), "example_id": np.zeros(1, np.int32)}

    def loss(logits):
        class Shown:
            def forward(self, images):
                return images, {}

        return method.loss(Shown(), logits, batch, method.init(), None)[0][0]

    gradient = jax.grad(loss)(np.float32(LOGITS[:1]))[0]
    expected = scipy.special.softmax(LOGITS[0]) - np.eye(6)[LABEL[0]]
    # 0.1 / 5 * -2 * the distance beyond the margin.
    expected += [4, -0.04 * 2, -0.04 * 4, 0, 0, 0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@METHODS
def test_within_the_margin_it_is_cross_entropy(outcome, batch, assert_same, method):
    assert_same(outcome(method(**LABELS, margin=1e3), batch), outcome(SoftLabels(**LABELS), batch))


@METHODS
def test_device_counts_change_nothing(outcome, batch, assert_same, method):
    method = method(**LABELS, margin=0.1)
    of_one = outcome(method, batch)
    assert np.all(of_one.losses > outcome(SoftLabels(**LABELS), batch).losses)
    assert_same(outcome(method, batch, devices=4), of_one, rtol=2e-6)

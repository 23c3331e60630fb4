"""Strategies that draw odd arguments with the word whether they are fine, and the comparison with an oracle."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from arada import attacks

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


def check(function, oracle, arguments, fits, rtol=1e-5, atol=1e-6):
    """The value of the oracle where all arguments are fine and fit together, and ValueError elsewhere."""
    values = [value for value, _ in arguments]
    if all(fine for _, fine in arguments) and fits(*values):
        found = function(*values)
        with np.errstate(all="ignore"):
            expected = oracle(*values)
        for one, other in zip(*(of if isinstance(of, tuple) else (of,) for of in (found, expected)), strict=True):
            np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=rtol, atol=atol)
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


def fits_masked(p, y, mask, *_):
    return labels_in_range(p, y) and (mask is None or rows(p, mask))


def fine_outcomes(o):
    return np.isin(np.asarray(o), (0, 1)).all()


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

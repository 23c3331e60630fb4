import jax
import jax.numpy as jnp
import numpy as np

from arada import attacks


def attack_jitted(logits_fn, images, labels=None, **options):
    return jax.jit(lambda images: attacks.fmn_l2(logits_fn, images, labels, **options))(images)


def test_ten_steps_are_enough_for_half_a_percent(affine):
    result = attack_jitted(affine.logits, affine.images, steps=10)
    np.testing.assert_allclose(result.distance, affine.distances(), rtol=5e-3)


def test_first_guess_oversteps_the_boundary(affine):
    result = attack_jitted(affine.logits, affine.images, steps=1, passes=1, overshoot=0.03)
    np.testing.assert_allclose(result.distance, 1.03 * affine.distances(), rtol=1e-5)


def test_direction_is_followed_where_the_gradient_misleads():
    # The margin falls steeply at first, and the guess, 0.12, stops far short of the boundary at 0.4.
    def logits_fn(x):
        moved = x[:, 0] - 0.5
        return jnp.stack([1.2 - jnp.tanh(10 * moved) - moved / 2, jnp.zeros(len(x))], axis=-1)

    images = np.asarray([[0.5]], np.float32)
    for passes, excess in ((3, 0.15), (8, 0.01)):
        (distance,) = attack_jitted(logits_fn, images, steps=1, passes=passes).distance
        assert 0.4 < distance < (1 + excess) * 0.4

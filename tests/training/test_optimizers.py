import jax
import numpy as np
import optax
import pytest

from arada.errors import UserError
from arada.training import optimizers
from configs import base, cifar10


def optimizer_config(**fields):
    config = base.config().optimizer
    config.update(fields)
    return config


def rates(config, steps_per_epoch, steps):
    schedule = optimizers.learning_rate_schedule(config, steps_per_epoch)
    return [float(schedule(step)) for step in steps]


def test_keras_boundaries():
    steps_per_epoch = 175
    # keras: above epoch 80 (0-based) a tenth, and so on.
    expected = {
        0: 1e-3,
        80: 1e-3,
        81: 1e-4,
        120: 1e-4,
        121: 1e-5,
        160: 1e-5,
        161: 1e-6,
        180: 1e-6,
        181: 5e-7,
        199: 5e-7,
    }
    config = cifar10.get_config().optimizer
    for first in (0, steps_per_epoch - 1):  # first and last step of an epoch
        at = [epoch * steps_per_epoch + first for epoch in expected]
        np.testing.assert_allclose(rates(config, steps_per_epoch, at), list(expected.values()), rtol=1e-6)


def test_warm_up_is_linear_from_zero():
    config = optimizer_config(learning_rate=0.4, warmup_epochs=1.5, decay=())
    values = rates(config, 4, range(8))
    np.testing.assert_allclose(values, [0, 0.4 / 6, 0.8 / 6, 1.2 / 6, 1.6 / 6, 2 / 6, 0.4, 0.4], rtol=1e-6)


def test_factors_are_of_the_learning_rate_not_of_one_another():
    config = optimizer_config(learning_rate=0.4, warmup_epochs=2.0, decay=((1, 0.5), (3, 0.2), (4, 0.4)))
    # Two steps an epoch: warm-up over four of them, decays at steps 2, 6 and 8.
    expected = [0, 0.1, 0.1, 0.15, 0.2, 0.2, 0.08, 0.08, 0.16, 0.16]
    np.testing.assert_allclose(rates(config, 2, range(10)), expected, rtol=1e-6)


def trajectory(optimizer, gradients):
    params, values = {"w": np.float32(1)}, []
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"w": np.float32(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        values.append(float(params["w"]))
    return values


def test_adam_by_hand():
    config = optimizer_config(name="adam", learning_rate=0.1, decay=((1, 0.5),))
    values = trajectory(optimizers.build(config, 2), (2.0, -1.0, 1e-7))
    w, m, v, expected = 1.0, 0.0, 0.0, []
    for step, (rate, gradient) in enumerate(((0.1, 2.0), (0.1, -1.0), (0.05, 1e-7)), start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
        expected.append(w)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_adam_has_keras_epsilon():
    # The first step is lr * g / (|g| + epsilon): half of lr where the gradient is as small as epsilon.
    config = optimizer_config(name="adam", learning_rate=0.1)
    assert trajectory(optimizers.build(config, 2), [1e-7]) == pytest.approx([0.95], rel=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_by_hand(nesterov):
    config = optimizer_config(name="sgd", learning_rate=0.1, momentum=0.8, nesterov=nesterov)
    # Velocities 1, 1.8 and 0.44; with Nesterov a step is gradient + 0.8 velocity.
    steps = [1.8, 2.44, -0.648] if nesterov else [1, 1.8, 0.44]
    np.testing.assert_allclose(
        trajectory(optimizers.build(config, 2), (1, 1, -1)), 1 - 0.1 * np.cumsum(steps), rtol=1e-6
    )


def test_velocity_keeps_its_length_when_the_learning_rate_falls():
    """As in Keras: v <- 0.5 v - lr g, w <- w + v, with a rate of 0.1 that falls to 0.01 at the second step."""
    fields = {"learning_rate": 0.1, "momentum": 0.5, "nesterov": False, "decay": ((1, 0.1),)}
    found = trajectory(optimizers.build(optimizer_config(name="sgd", **fields), 1), (1, 1, 1))
    # Velocities -0.1, -0.05 - 0.01, -0.03 - 0.01.
    np.testing.assert_allclose(found, [0.9, 0.84, 0.8], rtol=1e-6)


def test_unknown_optimizer():
    with pytest.raises(UserError, match=r"optimizer\.name .*'lamb'"):
        optimizers.build(optimizer_config(name="lamb"), 2)


PARAMS = {
    "Conv_0": {"kernel": np.full((1, 1, 2, 1), 2.0), "bias": np.array([3.0])},
    "BatchNorm_0": {"scale": np.array([5.0]), "bias": np.array([7.0])},
    "Dense_0": {"kernel": np.array([[11.0]]), "bias": np.array([13.0])},
}


@pytest.mark.parametrize(
    ("targets", "squares"),
    [
        ("convolutions", 4 + 4),
        ("kernels_and_biases", 4 + 4 + 9 + 121 + 169),
        ("everything", 4 + 4 + 9 + 25 + 49 + 121 + 169),
    ],
)
def test_l2_by_hand(targets, squares):
    assert float(optimizers.l2_penalty(PARAMS, 0.5, targets)) == 0.5 * squares


def test_l2_gradient_is_twice_the_coefficient():
    gradient = jax.grad(lambda params: optimizers.l2_penalty(params, 0.5, "convolutions"))(PARAMS)
    expected = jax.tree.map(np.zeros_like, PARAMS) | {"Conv_0": {"kernel": np.full((1, 1, 2, 1), 2.0), "bias": [0.0]}}
    jax.tree.map(np.testing.assert_array_equal, gradient, expected)


def test_l2_of_nothing_is_zero():
    assert float(optimizers.l2_penalty({"Dense_0": PARAMS["Dense_0"]}, 0.5, "convolutions")) == 0


def test_the_paper_penalises_kernels_of_convolutions():
    config = cifar10.get_config().optimizer
    assert (config.l2, config.l2_on, config.name) == (1e-4, "convolutions", "adam")

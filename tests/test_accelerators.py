"""Whole networks, train steps and rankings on a GPU or TPU, against the same on the CPU of its host.

JAX_PLATFORMS=cuda,cpu python -m pytest -m gpu
JAX_PLATFORMS=tpu,cpu python -m pytest -m tpu
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from arada import attacks, methods, models, soft_labels
from arada.attacks.result import margin
from arada.training import augmentation, optimizers
from arada.training import step as steps
from arada.training.replication import Replicas
from arada.training.state import init_state
from configs import cifar10
from launch.benchmarks.contestants import Network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="there is no accelerator"),
]

NETWORKS = {
    "resnet_v2": Network("resnet_v2", depth=29, width=16),
    "wide_resnet": Network("wide_resnet", depth=16, width=4),
}


@pytest.fixture(scope="module")
def cpu():
    return jax.local_devices(backend="cpu")[0]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0.2, 0.8, (256, 32, 32, 3)).astype(np.float32)


def on_both(function, variables, images, cpu):
    """The outputs of function(variables, images) on the accelerator and on the CPU."""
    program = jax.jit(function)
    found = jax.device_get(program(variables, images))
    return found, jax.device_get(program(*jax.device_put((variables, images), cpu)))


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_input_gradients_at_full_precision(name, images, cpu):
    model, variables = NETWORKS[name].build()

    def both(variables, images):
        with jax.default_matmul_precision("float32"):
            logits = models.logits_fn(model)(variables, images)
            label = jnp.argmax(logits, axis=-1)

            def total(images):
                return margin(models.logits_fn(model)(variables, images), label).sum()

            return logits, jax.grad(total)(images)

    (logits, gradients), (expected_logits, expected_gradients) = on_both(both, variables, images[:64], cpu)
    assert relative(logits, expected_logits) < 1e-5
    # Where a ReLU's input is 0 up to rounding, the two take different sides; few images have such a pixel.
    errors = np.abs(gradients - expected_gradients).max((1, 2, 3)) / np.abs(expected_gradients).max((1, 2, 3))
    assert np.median(errors) < 1e-5


def test_a_ranking_by_fmn_is_the_one_of_the_cpu(images, cpu):
    model, variables, _ = trained([cpu])

    def distance(variables, images):
        return attacks.fmn_l2(functools.partial(models.logits_fn(model), variables), images, steps=10).distance

    found, expected = on_both(distance, variables, images, cpu)
    assert scipy.stats.spearmanr(found, expected).statistic > 0.999
    same = np.asarray(attacks.equal_subsets(found, 10)) == np.asarray(attacks.equal_subsets(expected, 10))
    assert same.mean() > 0.98


def trained(devices, *, dtype="float32", count=20):
    """A network, its variables after `count` steps on one batch of random images, and the losses of these steps."""
    config = cifar10.get_config("ar_adals")
    model = models.build("resnet_v2", 10, depth=11, width=16, dtype=dtype, batch_norm_momentum=0.8)
    optimizer = optimizers.build(config.optimizer, steps_per_epoch=count)
    normalization = {"mean": np.full(3, 0.5, np.float32), "scale": np.full(3, 0.2, np.float32)}
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        state = jax.device_get(init_state(model, optimizer, normalization, (32, 32, 3), jax.random.key(0)))
    method = methods.SoftLabels(num_subsets=10, num_classes=10)
    penalty = functools.partial(optimizers.l2_penalty, coefficient=1e-4, targets="convolutions")
    step = steps.train_step(model, method, functools.partial(augmentation.augment, "flip"), optimizer, penalty)
    replicas = Replicas(devices)
    mapped = replicas.map(step, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,))
    rng = np.random.default_rng(2)
    batch = {
        "image": rng.integers(0, 256, (64, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 10, 64).astype(np.int32),
        "example_id": np.arange(64, dtype=np.int32),
        "subset": rng.integers(0, 10, 64).astype(np.int32),
    }
    labels = soft_labels.init(10, 10, epsilon=0.05)
    state, labels, key = replicas.replicate((state, jax.device_get(labels), jax.random.key(3)))
    found = []
    for _ in range(count):
        state, metrics = mapped(state, batch, labels, key)
        found.append(float(metrics["loss"]))
    return model, jax.device_get(state).variables, np.asarray(found)


def test_training_follows_the_cpu(cpu):
    def losses(devices, **settings):
        return trained(devices, **settings)[2]

    device, expected = jax.local_devices()[:1], losses([cpu])
    assert expected[-1] < 0.9 * expected[0]
    with jax.default_matmul_precision("float32"):
        np.testing.assert_allclose(losses(device)[:5], expected[:5], rtol=1e-4)
    # TF32 and one pass of bfloat16 round more, and training amplifies what differs.
    np.testing.assert_allclose(losses(device)[:5], expected[:5], rtol=2e-2)
    np.testing.assert_allclose(losses(device), expected, rtol=0.1)
    np.testing.assert_allclose(losses(device, dtype="bfloat16"), expected, rtol=0.1)

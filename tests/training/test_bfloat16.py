"""Training in bfloat16 against the same in float32: what it learns, and what its backward pass keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import methods, models
from arada.runs import trained, trainer
from arada.training import optimizers
from arada.training.replication import Replicas
from arada.training.state import init_state
from configs import cifar10

pytestmark = pytest.mark.usefixtures("quickly_compiled")

STEPS = 30


def config_in(dtype):
    config = cifar10.get_config("label_smoothing" + (",bfloat16" if dtype == "bfloat16" else ""))
    assert config.model.dtype == dtype
    config.update_from_flattened_dict({"model.depth": 11, "model.width": 8, "data.image_shape": (8, 8, 3)})
    config.training.update(batch_size=64, augmentation="none", normalization="standardize")
    config.optimizer.l2 = 0.0
    return config


def losses(dtype):
    """Of some steps on images of ten colours with noise, and of the same images after them, in evaluation mode."""
    config, rng = config_in(dtype), np.random.default_rng(0)
    label = rng.integers(0, 10, 64, np.int32)
    images = rng.uniform(0, 1, (10, 1, 1, 3))[label] * 0.5 + 0.5 * rng.uniform(0, 1, (64, 8, 8, 3))
    ids = np.arange(64, dtype=np.int32)
    batch = {"image": images.astype(np.float32), "label": label, "subset": 0 * ids, "example_id": ids}
    replicas = Replicas(jax.devices()[:1])
    optimizer = optimizers.build(config.optimizer, trained.steps_per_epoch(config))
    unit = {"mean": np.full(3, 0.5, np.float32), "scale": np.full(3, 0.3, np.float32)}
    state = init_state(trained.build_model(config), optimizer, unit, (8, 8, 3), jax.random.key(0))
    step, learnt = trainer.mapped_step(config, replicas), methods.build(config).init()
    state, learnt, key = replicas.replicate((state, learnt, jax.random.key(1)))
    found = []
    for _ in range(STEPS):
        state, metrics = step(state, batch, learnt, key)
        found.append(float(metrics["loss"]))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    return np.array(found)


def test_the_same_is_learnt():
    exact, rounded = losses("float32"), losses("bfloat16")
    assert exact[-1] < 0.6 * exact[0]
    # bfloat16 keeps 8 bits: relative differences of 2^-8 a layer, which Adam carries on.
    np.testing.assert_allclose(rounded[:3], exact[:3], rtol=0.02)
    np.testing.assert_allclose(rounded, exact, rtol=0.1)
    assert not np.array_equal(rounded, exact)


def kept_bytes(dtype):
    """Bytes that the backward pass of ResNet-29 keeps of a forward pass of 8 images, without the weights."""
    config = cifar10.get_config("bfloat16" if dtype == "bfloat16" else "")
    model, shapes = trained.build_model(config), trained.state_shapes(config)
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)

    def pullback(params, images):
        def loss(params):
            variables = {"params": params, "batch_stats": shapes_zero}
            return jnp.sum(model.apply(variables, images, train=True, mutable=["batch_stats"])[0])

        return jax.vjp(loss, params)[1]

    shapes_zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.batch_stats)
    mapped = jax.vmap(pullback, (None, 0), axis_name=models.BATCH_AXIS)
    kept = jax.eval_shape(mapped, shapes.params, jax.ShapeDtypeStruct((1, *images.shape), images.dtype))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def test_the_backward_pass_keeps_at_most_three_quarters():
    """What batch norm keeps is float32. The count is 0.75 by JAX 0.10, and 0.71 by 0.12, which lists more maps for both
    dtypes."""
    assert 0.7 < kept_bytes("bfloat16") / kept_bytes("float32") < 0.76

"""The momentum of the batch statistics, in whole networks."""

import jax
import numpy as np
import pytest

from arada import models

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.mark.parametrize(("name", "depth"), [("resnet_v1", 50), ("resnet_v2", 11), ("wide_resnet", 10)])
def test_the_momentum_weighs_old_statistics_in_every_layer(name, depth):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)

    def after_a_step(momentum):
        rng = np.random.default_rng(1)
        fields = {"depth": depth, "width": 1, "batch_norm": "per_device", "batch_norm_momentum": momentum}
        model = models.build(name, 3, **fields)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)
        step = jax.jit(lambda variables: model.apply(variables, images, train=True, mutable=["batch_stats"])[1])
        return variables["batch_stats"], step(variables)["batch_stats"]

    # Momentum 0 leaves the batch's own.
    (before, of_batch), (_, mixed) = after_a_step(0.0), after_a_step(0.25)
    jax.tree.map(
        lambda old, new, found: np.testing.assert_allclose(found, 0.25 * old + 0.75 * new, rtol=1e-4, atol=1e-6),
        before,
        of_batch,
        mixed,
    )

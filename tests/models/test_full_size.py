"""The paper's networks, whole, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada.models import ResNetV1, ResNetV2, WideResNet
from launch.benchmarks.contestants import draw_variables


def settled(model, images):
    """Random weights, with the statistics that these images have in the network, so that no block grows."""
    drawn = draw_variables(model, images.shape[1:], seed=0)
    before = {"params": drawn["params"], "batch_stats": drawn["batch_stats"]}
    _, after = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(before, images)
    momentum = model.batch_norm_momentum

    def of_images(old, new):
        return np.asarray((new - momentum * old) / (1 - momentum), np.float32)

    return before | {"batch_stats": jax.tree.map(of_images, before["batch_stats"], after["batch_stats"])}


# In float64: what 33 blocks make of a rounding of float32 is more than 1e-4.
@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize(
    ("model", "size"),
    [
        (ResNetV2(10, depth=29), 32),
        (WideResNet(10), 32),
        (WideResNet(100), 32),
        (ResNetV1(1000, depth=50), 224),
        (ResNetV1(1000, depth=101), 224),
        (ResNetV1(1000, depth=101, stride_on="1x1"), 224),
    ],
    ids=["ResNet-29", "WRN-28-10", "WRN-28-10 of 100 classes", "ResNet-50", "ResNet-101", "ResNet-101 as He's"],
)
def test_logits_are_pytorchs(peer, model, size):
    torch, peers = peer("torch"), peer("launch.benchmarks.peers")
    # Coarse enough that the mean over the last map tells two images apart.
    squares = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    images = np.kron(squares, np.ones((1, size // 8, size // 8, 1)))
    with jax.enable_x64(True):
        model = model.clone(batch_norm="per_device", dtype=jnp.float64)
        variables = settled(model, images)
        logits = jax.jit(model.apply)(variables, images)
    with torch.no_grad():
        expected = peers.twin(model, variables).double()(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    assert np.median(np.ptp(expected, axis=0)) > 0.1, "the images must not look alike to the network"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)

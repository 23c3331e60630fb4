"""Carlini-Wagner against foolbox, on one network with the same weights in JAX and PyTorch.

foolbox differs in four details that hardly matter here: its best point is the nearest to the image rather than to the
tanh round trip of the image, its upper bound starts at infinity, and a failure is a black image.
"""

import jax
import numpy as np
import pytest
from scipy import stats

from arada import attacks


def torch_twin(torch, params):
    """`conv_net` of conftest.py in PyTorch, from images [B, C, H, W]."""
    params = {name: torch.tensor(np.asarray(value)) for name, value in params.items()}
    functional = torch.nn.functional

    class ConvNet(torch.nn.Module):
        def forward(self, x):
            for layer, stride in (("1", 1), ("2", 2)):
                kernel = params["kernel" + layer].permute(3, 2, 0, 1)
                x = functional.relu(functional.conv2d(x, kernel, params["bias" + layer], stride=stride, padding=1))
            return x.permute(0, 2, 3, 1).flatten(1) @ params["dense"] + params["bias"]

    return ConvNet().eval()


@pytest.fixture
def single_threaded(peer):
    """Beside JAX's threads those of torch wait for one another: a minute instead of three seconds on two cores."""
    torch = peer("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.peer
# foolbox 3.3.4 imports a filter, for an attack not used here, from where SciPy 1 had it.
@pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")
@pytest.mark.usefixtures("single_threaded")
@pytest.mark.parametrize(
    ("binary_search_steps", "max_iterations", "all_succeed"), [(3, 500, True), (2, 150, False)], ids=["paper", "short"]
)
def test_distances_are_foolboxs(
    peer, digits, digits_logits, carlini_wagner_on_digits, binary_search_steps, max_iterations, all_succeed
):
    torch, foolbox = peer("torch"), peer("foolbox")
    network = torch_twin(torch, digits.params)
    images = torch.tensor(digits.images).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        logits = network(images)
    np.testing.assert_allclose(logits, digits_logits(digits.images), atol=1e-4)

    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps, max_iterations, stepsize=0.005, confidence=0, initial_const=1e-2, abort_early=False
    )
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, adversarial, _ = attack(model, images, logits.argmax(dim=-1), epsilons=None)
    # Not foolbox's own verdict: a black image may well be of another class.
    success = adversarial.flatten(1).any(dim=1).numpy()
    expected = (adversarial - images).flatten(1).norm(dim=1).numpy()

    result = carlini_wagner_on_digits
    if (binary_search_steps, max_iterations) != (3, 500):
        options = {"binary_search_steps": binary_search_steps, "max_iterations": max_iterations}
        result = jax.jit(lambda images: attacks.cw_l2(digits_logits, images, **options))(digits.images)
    np.testing.assert_array_equal(result.success, success)
    assert success.all() == all_succeed
    assert success.sum() >= 10
    distance, expected = np.asarray(result.distance)[success], expected[success]
    difference = np.abs(distance / expected - 1)
    figures = f"relative difference: median {np.median(difference):.1e}, greatest {difference.max():.1e}"
    print(figures)
    assert np.median(difference) < 1e-3, figures
    assert difference.max() < 2e-2, figures
    assert stats.spearmanr(distance, expected).statistic > 0.999

import numpy as np
import pytest
import scipy.special

from arada import calibrators
from arada.calibrators import Calibrator


def sample(count=2000, temperature=1.0, uniform=0.0, num_classes=4, seed=0):
    """Logits, and labels drawn from their softmax at a temperature, mixed with the uniform distribution."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, num_classes))
    p = (1 - uniform) * scipy.special.softmax(logits / temperature, axis=-1) + uniform / num_classes
    labels = (rng.uniform(size=(count, 1)) > np.cumsum(p, axis=-1)[:, :-1]).sum(axis=-1)
    return logits.astype(np.float32), labels


def nll(probabilities, labels):
    return -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))


def squared_error(probabilities, labels):
    return np.mean((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2)


def test_a_calibrator_by_hand():
    found = Calibrator(2.0, (0.5, 0.3, 0.2))(np.log([[0.64, 0.36]]))
    # At temperature 2 the square roots 0.8 and 0.6, normalised.
    np.testing.assert_allclose(found, [[0.5 * 0.8 / 1.4 + 0.3 * 0.64 + 0.1, 0.5 * 0.6 / 1.4 + 0.3 * 0.36 + 0.1]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    found = calibrators.temperature_scaling(*sample(20_000, temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    assert found.weights == (1, 0, 0)


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_scaled_logits_have_the_scaled_temperature(scale):
    logits, labels = sample()
    of_both = [calibrators.temperature_scaling(of, labels).temperature for of in (logits, scale * logits)]
    assert of_both[1] == pytest.approx(scale * of_both[0], rel=1e-6)


def test_no_other_temperature_has_a_lower_likelihood():
    logits, labels = sample(500, 1.7)
    found = calibrators.temperature_scaling(logits, labels)
    grid = np.linspace(0.5, 4, 20_000)
    at = [nll(Calibrator(temperature)(logits), labels) for temperature in grid[::40]]
    assert nll(found(logits), labels) <= min(at)
    near = grid[np.abs(grid - found.temperature) < 0.01]
    best = near[np.argmin([nll(Calibrator(temperature)(logits), labels) for temperature in near])]
    assert found.temperature == pytest.approx(best, abs=2 * (grid[1] - grid[0]))


@pytest.mark.parametrize("right", [True, False])
def test_where_there_is_no_best_temperature_the_nearest_end_is_taken(right):
    """Labels that are all predicted want no temperature at all, those that never are an infinite one."""
    logits = np.random.default_rng(0).normal(size=(50, 3))
    labels = logits.argmax(axis=-1) if right else logits.argmin(axis=-1)
    found = calibrators.temperature_scaling(logits, labels)
    assert found.temperature == calibrators.BOUNDS[0 if right else 1]
    assert np.all(np.isfinite(found(logits)))


@pytest.mark.peer
def test_torch_finds_the_same_temperature(peer):
    """The published way: LBFGS on the temperature itself."""
    torch = peer("torch")
    logits, labels = sample(1000, 1.7)
    temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.1, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)
    of_torch = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(of_torch[0] / temperature, of_torch[1])
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calibrators.temperature_scaling(logits, labels).temperature == pytest.approx(temperature.item(), rel=1e-6)


def test_ets_temperature_is_that_of_the_squared_error():
    logits, labels = sample(500, 1.7, uniform=0.2)
    found = calibrators.ensemble_temperature_scaling(logits, labels)
    grid = np.linspace(0.05, 5, 2000)
    at = [squared_error(Calibrator(temperature)(logits), labels) for temperature in grid]
    assert found.temperature == pytest.approx(grid[np.argmin(at)], abs=0.005)
    # Not that of the likelihood.
    assert abs(found.temperature - calibrators.temperature_scaling(logits, labels).temperature) > 0.02


@pytest.mark.parametrize(("temperature", "uniform"), [(1.7, 0.2), (1.0, 0.0), (0.6, 0.4)])
def test_ets_weights_are_the_best_of_the_simplex(temperature, uniform):
    logits, labels = sample(500, temperature, uniform)
    found = calibrators.ensemble_temperature_scaling(logits, labels)
    assert min(found.weights) >= 0
    assert sum(found.weights) == pytest.approx(1)
    parts = [Calibrator(found.temperature, tuple(unit))(logits) for unit in np.eye(3)]
    grid = np.linspace(0, 1, 41)
    errors = {
        (a, b): squared_error(a * parts[0] + b * parts[1] + (1 - a - b) * parts[2], labels)
        for a in grid
        for b in grid[grid <= 1 - a + 1e-9]
    }
    error = squared_error(found(logits), labels)
    assert error <= min(errors.values()) + 1e-9
    # The grid's best is at most a cell away: the bottom is flat, but not as flat as that.
    assert error >= min(errors.values()) - 1e-3 * error


def test_ets_finds_labels_that_are_right_by_chance():
    logits, labels = sample(20_000, 1.0, uniform=0.3)
    found = calibrators.ensemble_temperature_scaling(logits, labels)
    rate = scipy.special.softmax(logits, axis=-1) * 0.7 + 0.3 / 4
    assert np.abs(found(logits) - rate).mean() < 0.015


@pytest.mark.parametrize("fit", calibrators.BY_NAME.values())
@pytest.mark.parametrize("scale", [1, 1e4])
def test_probabilities_are_sound_and_keep_the_prediction(fit, scale):
    logits, labels = sample(300, 2.0)
    logits = scale * logits
    probabilities = fit(logits, labels)(logits)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-12)
    assert probabilities.min() >= 0
    np.testing.assert_array_equal(probabilities.argmax(axis=-1), logits.argmax(axis=-1))

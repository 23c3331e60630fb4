import numpy as np
import pytest
from scipy import stats

from arada.errors import UserError
from arada.evaluation import bootstrap, outcomes
from arada.evaluation.bootstrap import Resamples, Sampled

NUM_BINS = 5
IDS = np.arange(3, 203)


def outcomes_of(seed):
    rng = np.random.default_rng(seed)
    return outcomes.from_probabilities(rng.dirichlet([2, 1, 1], len(IDS)), rng.integers(3, size=len(IDS)), NUM_BINS)


def test_each_resample_is_the_metrics_of_the_images_drawn():
    of, resamples = outcomes_of(0), Resamples(IDS, resamples=4)
    found = resamples.metrics(IDS, of, NUM_BINS)
    for number, counts in enumerate(resamples._counts):
        assert counts.sum() == len(IDS)
        drawn = np.repeat(np.arange(len(IDS)), counts.astype(int))
        expected = outcomes.measure(outcomes.Outcomes(*(x[drawn] for x in of[:-1]), 0.0), NUM_BINS)
        assert {key: found[key][number] for key in found} == pytest.approx(
            {key: expected[key] for key in bootstrap.METRICS}, rel=1e-5
        )


def test_the_interval_is_scipy_s():
    of = outcomes_of(0)
    resampled = Resamples(IDS, resamples=4000).metrics(IDS, of, NUM_BINS)["nll"]
    expected = stats.bootstrap((of.nll,), np.mean, n_resamples=4000, method="basic", rng=1).confidence_interval
    width = expected.high - expected.low
    # Two draws of 4,000 resamples: each quantile moves by a fortieth of the width or so.
    np.testing.assert_allclose(bootstrap.interval(of.nll.mean(), resampled), expected, atol=0.08 * width)


def test_an_interval_by_hand():
    resampled = np.linspace(0, 1, 1001)
    # 2.5 % lie more than 0.475 above the mean of 0.5, and as many below.
    assert bootstrap.interval(0.4, resampled, positive=False) == pytest.approx([0.4 - 0.475, 0.4 + 0.475])
    assert bootstrap.interval(0.4, resampled) == pytest.approx([0, 0.875])
    # Wherever the resamples lie.
    assert bootstrap.interval(0.4, resampled + 3) == pytest.approx([0, 0.875])


def test_some_of_the_images_have_the_counts_of_all():
    of, resamples, some = outcomes_of(0), Resamples(IDS, resamples=3), slice(10, 60)
    found = resamples.metrics(IDS[some], outcomes.Outcomes(*(x[some] for x in of[:-1]), 0.0), NUM_BINS)
    counts = resamples._counts[:, some]
    np.testing.assert_allclose(found["accuracy"], counts @ of.correct[some] / counts.sum(axis=1), rtol=1e-6)
    with pytest.raises(UserError, match="ids that the test images lack"):
        resamples.metrics(IDS[some] + 190, outcomes.Outcomes(*(x[some] for x in of[:-1]), 0.0), NUM_BINS)


def sampled(*names, shift=0.0):
    """Metrics that are 0.1 in the first set, 0.2 in the second ..., with three resamples around them."""
    values = {name: 0.1 * (i + 1) + shift for i, name in enumerate(names)}
    return Sampled(
        {name: dict.fromkeys(bootstrap.METRICS, value) for name, value in values.items()},
        {name: dict.fromkeys(bootstrap.METRICS, value + np.array([-0.01, 0, 0.01])) for name, value in values.items()},
    )


def test_means_over_seeds_and_data_sets():
    together = bootstrap.mean_over_seeds([sampled("test", "a", "b"), sampled("test", "a", shift=0.2)])
    assert list(together.estimates) == ["test", "a"]
    estimate, resampled = together.mean(["test", "a"], "ece")
    assert estimate == pytest.approx((0.1 + 0.2 + 0.3 + 0.4) / 4)
    np.testing.assert_allclose(resampled, 0.25 + np.array([-0.01, 0, 0.01]))


def test_paired_differences_have_no_width_where_resamples_move_together():
    of, reference = sampled("test", "a", "b", shift=0.05), sampled("test", "a")
    found = bootstrap.differences(of, reference, {"test": ["test"], "shift": ["a", "b"]})
    assert found["test"]["ece"] == pytest.approx([0.05, 0.05, 0.05])
    # Of the shifted sets only "a" is in both.
    assert found["shift"]["accuracy"] == pytest.approx([0.05, 0.05, 0.05])
    assert bootstrap.differences(of, sampled("test"), {"shift": ["a"]}) == {}


def test_intervals_leave_out_what_has_no_data_set():
    found = bootstrap.intervals(sampled("test"), {"test": ["test"], "shift": []})
    assert list(found) == ["test"]
    low, high = found["test"]["brier"]
    assert low < 0.1 < high


def test_resamples_without_any_of_a_set_s_images_do_not_count():
    of, resamples, one = outcomes_of(0), Resamples(IDS, resamples=200), slice(7, 8)
    few = resamples.metrics(IDS[one], outcomes.Outcomes(*(x[one] for x in of[:-1]), 0.0), NUM_BINS)
    absent = resamples._counts[:, 7] == 0
    assert 0 < absent.sum() < 200
    # Always the same image, or nothing.
    np.testing.assert_allclose(few["nll"][~absent], of.nll[7], rtol=1e-6)
    assert np.isnan(few["nll"][absent]).all()
    together = Sampled({"few_1": dict.fromkeys(bootstrap.METRICS, 0.5)}, {"few_1": few})
    assert bootstrap.intervals(together, {"shift": ["few_1"]})["shift"]["nll"] == pytest.approx([0.5, 0.5])
    reference = Sampled(together.estimates, {"few_1": dict.fromkeys(bootstrap.METRICS, np.zeros(200))})
    found = bootstrap.differences(together, reference, {"shift": ["few_1"]})
    assert found["shift"]["ece"] == pytest.approx([0, 0, 0], abs=1e-6)
    whole = np.where(absent, np.nan, np.arange(200.0))
    assert bootstrap.interval(0.4, whole) == bootstrap.interval(0.4, whole[~absent])

"""Smooth calibration error: confidences of exactly 1 count whole."""

import numpy as np
import pytest

from arada import metrics


def test_certain_predictions_count_whole():
    """All at 1, 85 % right: the gap is 0.15 however it is smoothed. relplot counts the border of its grid half."""
    correct = np.arange(2000) < 1700
    assert metrics.smooth_error(np.ones(2000), correct) == pytest.approx(0.15, abs=2e-3)
    assert metrics.smooth_error(np.zeros(2000), ~correct) == pytest.approx(0.15, abs=2e-3)
    # Beside as many calibrated ones at 0.5 it is half of that, less what the kernel lets cancel.
    scores = np.concatenate([np.ones(2000), np.full(2000, 0.5)])
    outcomes = np.concatenate([correct, np.arange(2000) % 2])
    assert metrics.smooth_error(scores, outcomes) == pytest.approx(0.075, abs=2e-3)

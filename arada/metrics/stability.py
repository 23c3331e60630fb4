"""Stability of predictions over runs, and detection of wrong predictions and out-of-distribution images."""

import numpy as np

from arada import inputs
from arada.inputs import Array
from arada.metrics import scores as parts

VARIANCES = ("predicted_class", "true_class", "own_confidence", "all_classes")


def prediction_variance(probabilities: Array, labels: Array, of: str = "predicted_class") -> np.float64:
    """Variance over M independent runs (section 3.1), averaged over examples: float64 scalar.

    The paper's formula has one probability p_{m,i} for each run and example, and the paper does not say which.

    Args:
      probabilities: float[M, N, Z], M >= 2.
      labels: int[N], needed only for "true_class".
      of: "predicted_class" by the mean over runs (one class for all runs, so that changed predictions count fully),
        "true_class", "own_confidence" (each run's maximum), or "all_classes" (summed over classes).
    """
    variance = example_variance(probabilities, labels, of)
    return np.float64(np.mean(variance) if len(variance) else np.nan)


def example_variance(probabilities: Array, labels: Array, of: str = "predicted_class") -> np.ndarray:
    """The variance of each example, float64[N]; `prediction_variance` is its mean."""
    probabilities = inputs.as_array(probabilities)
    if probabilities.ndim != 3 or len(probabilities) < 2:
        raise ValueError(f"the variance needs probabilities [M, N, Z] of M >= 2 runs, not {probabilities.shape}")
    probabilities = inputs.class_scores("probabilities", probabilities, axes=3)
    inputs.check_range("probabilities", probabilities, 0, 1 + inputs.ROUNDING)
    probabilities = np.asarray(probabilities, np.float64)
    if of == "predicted_class":
        classes = np.argmax(probabilities.mean(axis=0), axis=-1)
    elif of == "true_class":
        classes = np.asarray(
            inputs.whole_numbers("labels", labels, ("examples", probabilities[0]), probabilities.shape[-1])
        )
    elif of == "own_confidence":
        return probabilities.max(axis=-1).var(axis=0, ddof=1)
    elif of == "all_classes":
        return probabilities.var(axis=0, ddof=1).sum(axis=-1)
    else:
        raise ValueError(f"of must be one of {VARIANCES}, not {of!r}")
    p_class = np.take_along_axis(probabilities, classes[None, :, None], axis=-1)[..., 0]
    return np.where(np.isnan(probabilities).any(axis=(0, 2)), np.nan, p_class.var(axis=0, ddof=1))


def entropy(probabilities: Array) -> np.ndarray:
    """Predictive entropy float64[...] in nats, of probabilities [..., Z] (section 5.5)."""
    probabilities = inputs.as_array(probabilities)
    probabilities = inputs.class_scores("probabilities", probabilities, axes=max(probabilities.ndim, 1))
    inputs.check_range("probabilities", probabilities, 0, 1 + inputs.ROUNDING)
    probabilities = np.asarray(probabilities, np.float64)
    return -np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1)), axis=-1)


def auroc(score: Array, is_positive: Array) -> float:
    """Area under the ROC curve of `score` [N], which should be higher where `is_positive` bool[N].

    NaN if all or none are positive.
    """
    score, is_positive = _detection(score, is_positive)
    if not parts.known(score[is_positive], score[~is_positive]):
        return np.nan
    # Imported here, because it takes seconds.
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_positive, stats.rankdata(score)))  # inf has a rank


def false_positive_rate(score: Array, is_positive: Array, true_positive_rate: float = 0.95) -> float:
    """Share of the negatives with a `score` [N] of at least the threshold that `true_positive_rate` of the positives
    reach. NaN if all or none are positive.
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must be above 0 and at most 1, not {true_positive_rate}")
    score, is_positive = _detection(score, is_positive)
    if not parts.known(score[is_positive], score[~is_positive]):
        return np.nan
    positives = np.sort(score[is_positive])[::-1]
    threshold = positives[int(np.ceil(true_positive_rate * len(positives))) - 1]
    return float(np.mean(score[~is_positive] >= threshold))


def _detection(score: Array, is_positive: Array) -> tuple[np.ndarray, np.ndarray]:
    score = np.asarray(inputs.numbers("score", score, (None,)), np.float64)
    return score, inputs.booleans("is_positive", inputs.numbers("is_positive", is_positive, score.shape))


def risk_coverage(confidence: Array, correct: Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Coverage [N], error rate among the most confident examples at each coverage [N], and its mean (AURC).

    Examples of equal confidence share their error rate, so that their order does not matter. Raises ValueError for NaN,
    which cannot be sorted. Source: Geifman & El-Yaniv 2017.
    """
    confidence = np.asarray(inputs.numbers("confidence", confidence, (None,)), np.float64)
    wrong = ~inputs.booleans("correct", inputs.numbers("correct", correct, confidence.shape))
    if missing := int(np.isnan(confidence).sum()):
        raise ValueError(f"confidence is NaN in {missing} of {len(confidence)} examples; remove these examples")
    _, ties, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(ties, weights=wrong, minlength=len(counts)) / counts
    taken = np.arange(1, len(confidence) + 1)
    risk = np.cumsum(np.repeat(share, counts)) / taken
    return taken / len(confidence), risk, float(risk.mean()) if len(risk) else np.nan

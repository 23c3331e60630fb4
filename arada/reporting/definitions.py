"""Definitions of a report's words and numbers: paragraphs shown on demand, from the content of evaluation.json."""

from arada.reporting import tables

VARIANCE_OF = {
    "predicted_class": "of the class that the mean over runs predicts",
    "true_class": "of the true class",
    "own_confidence": "of the class that each run itself predicts",
    "all_classes": "of every class, summed over classes",
}


def ece(evaluation: dict) -> str:
    """The calibration error and its bias."""
    return (
        f"ECE: |accuracy - confidence| in {evaluation['experiment']['num_bins']} bins of equal width over the "
        "confidence, averaged with the bins' counts as weights. With few images even a perfectly calibrated network "
        "has an ECE above 0."
    )


def floor(_: dict) -> str:
    """The ECE of a perfectly calibrated network, and the debiased ECE."""
    return tables.FLOORS


def variance(evaluation: dict) -> str:
    """The variance of section 3.1, and the probability it is computed from."""
    kind = evaluation["experiment"]["variance_of"]
    return (
        f"Variance of the probability {VARIANCE_OF.get(kind, kind)}, over a method's seeds (n - 1 in the denominator), "
        "averaged over images."
    )


def levels(evaluation: dict) -> str:
    """The robustness levels, and the network that they come from."""
    source = evaluation["experiment"]["ranking"]["source"]
    if evaluation["experiment"]["subsets_of"] == "own":
        network, scope = "each run itself", "Each run has its own subsets."
    elif source.endswith("{seed}"):
        network = f"the {source.partition('/')[0]} network of the run's own seed"
        scope = "Each seed has its own subsets, the same for all methods."
    else:
        network, scope = f"one network, {source}", "All methods and seeds have the same subsets."
    return (
        "Adversarial robustness level: the test images are sorted by their L2 distance to the nearest adversarial "
        f"example of {network}, and cut into {evaluation['experiment']['num_subsets']} subsets of equal size "
        f"({_images_per_level(evaluation)} images each). {scope}"
    )


def spread(evaluation: dict) -> str:
    """The bars and bands over seeds."""
    seeds = tables.seed_range(evaluation)
    if seeds == "1 seed":
        return "One seed: no spread can be shown."
    return (
        f"Values are means over {seeds}. Bars and bands: ± one standard deviation over seeds (n - 1 in the "
        "denominator). The variance has none, because it is one number for all seeds together."
    )


def boxes(evaluation: dict) -> str:
    """The box plots over types of shift."""
    return (
        f"Shift: {tables.shift_mean(evaluation)}. A box spans the quartiles over types, the marker is the median, the "
        "whiskers end at the smallest and the largest value. Each type's value is the mean over "
        f"{tables.seed_range(evaluation)}; the variance is one value for all seeds together. “clean” is the unshifted "
        "test set."
    )


def reliability(evaluation: dict, few: int) -> str:
    """The reliability diagrams."""
    return (
        f"Test predictions of all seeds pooled ({tables.seed_range(evaluation)}), in "
        f"{evaluation['experiment']['num_bins']} bins of equal width over the confidence. A point shows the mean "
        f"confidence and the accuracy of a bin; hollow points hold fewer than {few} predictions and are not connected. "
        "The shares are on a logarithmic scale. The members of an ensemble are averaged first."
    )


def paper(evaluation: dict) -> str:
    """The columns that quote the paper."""
    return (
        "Columns named after the paper quote its numbers (Qin et al. 2021). They were measured on its network, split "
        "and shifted images, which differ from this experiment's unless the settings of this page say otherwise."
    )


def _images_per_level(evaluation: dict) -> str:
    runs = [run for method in evaluation["methods"].values() for run in method["runs"].values()]
    counts = {int(count) for run in runs for count in run["subsets"].get("count", ()) if count}
    if not counts:
        return tables.NOT_RUN
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"

"""What the words and numbers of a report mean, as paragraphs shown on demand. `evaluation` is evaluation.json's."""

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
        "confidence, averaged with the bins' counts as weights. With few images it comes out too high even for a "
        "perfect network."
    )


def floor(_: dict) -> str:
    """The ECE of calibrated networks, and the debiased ECE."""
    return tables.FLOORS


def variance(evaluation: dict) -> str:
    """The variance of section 3.1 and which probability it takes."""
    of = evaluation["experiment"]["variance_of"]
    return (
        f"Variance: that of the probability {VARIANCE_OF.get(of, of)}, over a method's seeds (n - 1 in the "
        "denominator), averaged over images."
    )


def levels(evaluation: dict) -> str:
    """The robustness levels and whose they are."""
    source = evaluation["experiment"]["ranking"]["source"]
    if evaluation["experiment"]["subsets_of"] == "own":
        network, whose = "each run itself", "Each run has subsets of its own."
    elif source.endswith("{seed}"):
        network = f"the {source.partition('/')[0]} network of the run's own seed"
        whose = "Each seed has subsets of its own, which serve all methods."
    else:
        network, whose = f"one network, that of {source}", "The same subsets serve all methods and seeds."
    return (
        "Adversarial robustness level: the test images in the order of their L2 distance to the nearest adversarial "
        f"example of {network}, cut into {evaluation['experiment']['num_subsets']} subsets of equal size "
        f"({_images_per_level(evaluation)} images each). {whose}"
    )


def spread(evaluation: dict) -> str:
    """What bars and bands are."""
    seeds = tables.seed_range(evaluation)
    if seeds == "1 seed":
        return "One seed: no spread can be shown."
    return (
        f"Values are means over {seeds}. Bars and bands: ± one standard deviation over seeds (n - 1 in the "
        "denominator). The variance is one number for all seeds together and has none."
    )


def boxes(evaluation: dict) -> str:
    """The box plots over types of shift."""
    return (
        f"Shift: {tables.shift_mean(evaluation)}. A box spans the quartiles over types, the marker is the median, the "
        "whiskers end at the smallest and the largest type. Each type's value is the mean over "
        f"{tables.seed_range(evaluation)}; the variance is one value for all seeds together. “clean” is the test set "
        "itself."
    )


def reliability(evaluation: dict, few: int) -> str:
    """The reliability diagrams."""
    return (
        f"Test predictions of all seeds pooled ({tables.seed_range(evaluation)}), in "
        f"{evaluation['experiment']['num_bins']} bins of equal width over the confidence. A point is the mean "
        "confidence and the accuracy of a bin; hollow "
        f"points stand for fewer than {few} predictions and are not joined. The shares are on a logarithmic scale. "
        "Members of an ensemble are averaged first."
    )


def paper(evaluation: dict) -> str:
    """What the columns of the paper's numbers are."""
    return (
        "Columns named after the paper hold its own numbers (Qin et al. 2021), measured on its network, its split and "
        "its shifted images, which are not those of this experiment unless the head of this page says so."
    )


def _images_per_level(evaluation: dict) -> str:
    runs = [run for method in evaluation["methods"].values() for run in method["runs"].values()]
    counts = {int(count) for run in runs for count in run["subsets"].get("count", ()) if count}
    if not counts:
        return tables.NOT_RUN
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"

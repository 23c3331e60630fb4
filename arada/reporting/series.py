"""The data of the figures, read from a workdir; None or empty for anything that was not run."""

import numpy as np
from etils import epath
from scipy import special

from arada import metrics
from arada.reporting.tables import mean_and_deviation, shift_values
from arada.runs.workdir import Workdir
from arada.runtime import files


def read_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; empty if there is none."""
    if not path.exists():
        return {}
    return files.read_npz(path)


def subset_series(method: dict, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation over seeds, [R] each, of a quantity by robustness subset of the test set."""
    values = [run["subsets"][key] for run in method["runs"].values() if key in run["subsets"]]
    return mean_and_deviation(values) if values else None


def subset_floor(methods: list[dict]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and 95th percentile of the ECE's floor by robustness subset, [R] each, averaged over runs and methods."""
    runs = [run["subsets"] for method in methods for run in method["runs"].values() if run["subsets"]]
    if not runs:
        return None
    mean, p95 = (mean_and_deviation([run[key] for run in runs])[0] for key in ("ece_floor", "ece_p95"))
    return mean, p95


def subset_variance(method: dict) -> tuple[np.ndarray, np.ndarray] | None:
    """Variance over seeds by robustness subset, and NaN as its spread, because all seeds together give one variance."""
    values = method["variance"] and method["variance"]["subsets"]
    return (np.asarray(values, np.float64), np.full(len(values), np.nan)) if values else None


def shift_by_type(method: dict, metric: str) -> np.ndarray | None:
    """A metric averaged over the seeds that have it, [types, severities], with the types of any seed.

    For "variance", the variance over all runs.
    """
    if metric == "variance":
        values = np.asarray(list(method["variance"]["shift"].values()) if method["variance"] else [], np.float64)
        return values if values.size else None
    runs = method["runs"].values()
    by_run = [dict(zip(run["shift"], shift_values(run, metric), strict=True)) for run in runs]
    types = {name: np.full_like(values, np.nan) for by_type in by_run for name, values in by_type.items()}
    return mean_and_deviation([list((types | by_type).values()) for by_type in by_run])[0] if types else None


def on_test(method: dict, metric: str) -> float:
    """A metric on the clean test set, averaged over seeds; NaN if it is missing."""
    if metric == "variance":
        return method["variance"]["test"] if method["variance"] else np.nan
    return float(mean_and_deviation([run["test"].get(metric) for run in method["runs"].values()])[0])


def reliability(workdir: epath.Path, method: str, seeds: list, num_bins: int) -> tuple[np.ndarray, ...] | None:
    """Count, mean confidence and accuracy of each bin of test predictions, pooled over seeds; members averaged."""
    count = np.zeros(num_bins)
    totals = np.zeros((2, num_bins))
    for seed in seeds:  # one at a time: an ImageNet file takes 100 MB
        arrays = read_arrays(workdir / "predictions" / method / f"seed_{seed}" / "test.npz")
        if "logits" not in arrays:
            continue
        probabilities = special.softmax(arrays["logits"], axis=-1).mean(axis=0)
        seed_count, *means = metrics.reliability(probabilities, arrays["label"], num_bins=num_bins)
        count += seed_count
        totals += np.nan_to_num(means) * seed_count
    if not count.any():
        return None
    return count, *(totals / np.where(count, count, np.nan))


def entropies(workdir: epath.Path, method: str, seeds: list, stored: str) -> np.ndarray | None:
    """Predictive entropies of a stored data set, concatenated over seeds; members of an ensemble averaged."""
    folders = (workdir / "predictions" / method / f"seed_{seed}" / f"{stored}.npz" for seed in seeds)
    found = [
        metrics.entropy(special.softmax(arrays["logits"], axis=-1).mean(axis=0))
        for path in folders
        if "logits" in (arrays := read_arrays(path))
    ]
    return np.concatenate(found) if found else None


def sensitivity(workdir: epath.Path) -> dict[str, dict[int, dict[str, list[float]]]]:
    """The sweeps over R alone, by method: {R: {"ece", "ece_under_shift"}}, R ascending, one value a seed."""
    found = {}
    # The file of a sweep over R and another field may have such a name, too.
    for path in files.matching(workdir / "sweeps", "*-num_subsets.json"):
        swept = files.read_json(path)
        if all(point["values"].keys() == {"num_subsets"} for point in swept["points"]):
            found[swept["method"]] = {
                point["values"]["num_subsets"]: {key: point[key] for key in ("ece", "ece_under_shift")}
                for point in sorted(swept["points"], key=lambda point: point["values"]["num_subsets"])
            }
    return found


def soft_labels(workdir: epath.Path, method: str, seeds: list) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs [T] and the soft label of the correct class [T, R], averaged over seeds.

    None unless the method adapts: several subsets, or one soft label that changes.
    """
    by_epoch: dict[float, list] = {}
    for seed in seeds:
        for row in files.read_json_lines(workdir / "runs" / method / f"seed_{seed}" / "metrics.jsonl"):
            if keys := sorted(key for key in row if key.startswith("soft_label/subset_")):
                by_epoch.setdefault(row["epoch"], []).append([row[key] for key in keys])
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    values = np.stack([mean_and_deviation(by_epoch[epoch])[0] for epoch in epochs])
    adapts = values.shape[1] > 1 or np.ptp(values) > 1e-6
    return (np.asarray(epochs), values) if adapts else None


def distances(workdir: epath.Path, source: str) -> dict[str, np.ndarray]:
    """By split, the distances [N] of the experiment's ranking; a control has none."""
    folder = Workdir(workdir).ranking(source)
    rankings = {split: read_arrays(folder / f"{split}.npz") for split in ("train", "validation", "test")}
    return {split: ranking["distance"] for split, ranking in rankings.items() if "distance" in ranking}

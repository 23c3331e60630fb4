"""The table over several experiments."""

from collections.abc import Mapping

import numpy as np

from arada.reporting import names
from arada.reporting.tables import Cell, Table, mean_and_deviation, under_shift

METRICS = {
    "accuracy x100 ↑": lambda run: (run.get("test") or {}).get("accuracy"),
    "ECE x100 ↓": lambda run: (run.get("test") or {}).get("ece"),
    "ECE under shift x100 ↓": lambda run: under_shift(run, "ece"),
}


def table(evaluations: Mapping[str, dict]) -> Table:
    """Every method of any experiment, by the experiments' titles."""
    merged = {method: None for evaluation in evaluations.values() for method in evaluation["methods"]}
    methods = names.in_order({"methods": merged})["methods"]
    return Table(
        "comparison",
        "All experiments",
        "A method that helps is ahead in every experiment; to be ahead in one may be luck.",
        [
            "Means over the seeds of each experiment, ± the standard deviation (n - 1) where there are several. "
            "Experiments may differ in network, bins, shifts and seeds: each says below what its numbers are over."
        ],
        [f"{metric}, {title}" for metric in METRICS for title in evaluations],
        [
            (
                names.style(method).label,
                [
                    _cell((evaluation["methods"].get(method) or {"runs": {}})["runs"], value)
                    for value in METRICS.values()
                    for evaluation in evaluations.values()
                ],
            )
            for method in methods
        ],
    )


def _cell(runs: dict, value) -> Cell:
    values = 100 * np.asarray([value(run) for run in runs.values()], np.float64)
    mean, deviation = mean_and_deviation(values)
    count = int(np.isfinite(values).sum())
    return Cell(mean=float(mean), deviation=float(deviation), count=count, seeds=len(values), digits=2)

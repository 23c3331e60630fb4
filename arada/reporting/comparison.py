"""The table over several experiments."""

from collections.abc import Mapping

from arada.reporting import names
from arada.reporting.tables import ACCURACY, ECE, ECE_UNDER_SHIFT, Table, cells, runs_of

COLUMNS = (ACCURACY, ECE, ECE_UNDER_SHIFT)


def table(evaluations: Mapping[str, dict]) -> Table:
    """A row for every method of any experiment; `evaluations` by the experiments' titles."""
    merged = {method: None for evaluation in evaluations.values() for method in evaluation["methods"]}
    methods = names.in_order({"methods": merged})["methods"]
    return Table(
        "comparison",
        "All experiments",
        "A method that helps is better in every experiment; being better in one may be luck.",
        [
            "Means over the seeds of each experiment, ± the standard deviation (n - 1) if there are several. "
            "Experiments may differ in network, bins, shifts and seeds: each report below states its own."
        ],
        [f"{column.heading}, {title}" for column in COLUMNS for title in evaluations],
        [
            (
                names.style(method).label,
                [
                    cells(runs_of(evaluation, method), [column])[0]
                    for column in COLUMNS
                    for evaluation in evaluations.values()
                ],
            )
            for method in methods
        ],
    )

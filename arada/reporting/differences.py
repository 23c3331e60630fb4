"""Tables of differences between methods, with intervals over seeds and over the choice of test images."""

from arada.evaluation import uncertainty
from arada.reporting import names
from arada.reporting.tables import (
    NOTHING,
    Cell,
    Column,
    Interval,
    Table,
    Text,
    cells,
    on_test,
    runs_of,
    shift_mean,
    shifted,
)

# Heading, part, metric, scale.
COLUMNS = (
    ("accuracy x100", "test", "accuracy", 100),
    ("ECE x100", "test", "ece", 100),
    ("ECE under shift x100", "shift", "ece", 100),
    ("NLL under shift", "shift", "nll", 1),
)
ONE_SEED = "no interval: one seed"


def build(evaluation: dict) -> list[Table]:
    """Differences from the reference as trained and after temperature scaling, all pairs, and the means' intervals."""
    tables = [_from_reference(evaluation, "plain"), _from_reference(evaluation, "temperature"), _intervals(evaluation)]
    pairs = _pairs(evaluation)
    return [*tables[:2], pairs, tables[2]] if pairs.rows else tables


def _cell(numbers: list[float] | None, scale: int, signed: bool) -> Interval | Text:
    if not numbers:
        return NOTHING
    mean, low, high = (scale * x for x in numbers[:3])
    return Interval(mean, low, high, signed)


def _numbers(by_part: dict, part: str, metric: str) -> list[float] | None:
    return by_part.get(part, {}).get(metric)


def _covers(evaluation: dict) -> str:
    """The definition of both kinds of interval."""
    experiment = evaluation["experiment"]
    level, resamples = round(100 * experiment["bootstrap"]["level"]), experiment["bootstrap"]["resamples"]
    one = any(len(method["runs"]) < 2 for method in evaluation["methods"].values())
    return (
        f"[low, high]: {level} % intervals. Over seeds: {experiment['intervals']['seeds']}. Over images: "
        f"{experiment['intervals']['images']}, {resamples:,} resamples. Each covers only its own source of chance. "
        "Neither covers the bias of an ECE, which grows the better a method is calibrated: see its floor."
        + (" A method with one seed has no interval over seeds, because one run has no spread." if one else "")
    )


def _from_reference(evaluation: dict, variant: str) -> Table:
    reference, methods = evaluation["experiment"]["reference"], evaluation["methods"]
    against = names.label(reference)

    uncertainties = {name: method["uncertainty"] for name, method in methods.items()}

    def row(name: str, row_variant: str) -> list[Interval | Text]:
        by_kind = uncertainties[name][row_variant]
        found: list[Interval | Text] = []
        for _, part, metric, scale in COLUMNS:
            for kind in ("seeds", "images"):
                numbers = _numbers(by_kind[kind]["differences"], part, metric)
                one = kind == "seeds" and not numbers and _numbers(by_kind["images"]["differences"], part, metric)
                found.append(Text(ONE_SEED) if one else _cell(numbers, scale, signed=True))
        return found

    rows = [
        (names.label(name), row(name, variant))
        for name, by_variant in uncertainties.items()
        if name != reference and variant in by_variant
    ]
    if variant == "plain" and "temperature" in uncertainties.get(reference, ()):
        rows.insert(0, (names.label(f"{reference}+temperature"), row(reference, "temperature")))
    headings = [f"{heading}, over {kind}" for heading, *_ in COLUMNS for kind in ("seeds", "images")]
    after = " after temperature scaling" if variant != "plain" else ""
    title = f"Differences from {against}{after}"
    shared = f" Under shift an image is resampled together with all its corruptions: {shift_mean(evaluation)}."
    if variant == "plain":
        caption = (
            f"An interval that excludes 0 shows a difference from {against}: over seeds (first), one that other "
            "training runs would show too; over images, one that another test set would show too."
        )
        return Table("differences", title, caption, [_covers(evaluation) + shared], headings, rows)
    caption = (
        f"The difference that remains after every method, also {against}, is scaled by the temperature fitted on its "
        "validation images: the comparison at matched confidence."
    )
    definition = [_covers(evaluation) + " Each run's temperature is fitted on its validation predictions." + shared]
    return Table("differences_calibrated", title, caption, definition, headings, rows)


def _pairs(evaluation: dict) -> Table:
    """Differences in ECE, under shift or on the test set, of all pairs of methods, with intervals over seeds."""
    methods, part = evaluation["methods"], "shift" if evaluation["experiment"]["shift_types"] else "test"

    def cell(name: str, other: str) -> Interval | Text:
        found = uncertainty.difference(methods[name], methods[other], "ece", part) if name != other else None
        return _cell(list(found) if found else None, 100, signed=True)

    rows = [(names.label(name), [cell(name, other) for other in methods]) for name in methods]
    several = len(methods) > 2 and any(isinstance(cell, Interval) for _, row in rows for cell in row)
    return Table(
        "pairs",
        f"Every method against every other: ECE {'under shift' if part == 'shift' else 'on the test set'}",
        "The row's method minus the column's, x100, with intervals over seeds: below 0 the row's is better calibrated.",
        [
            "Paired by seed, over the seeds and the types of shift that both have. About one interval in twenty "
            "excludes 0 by luck alone. evaluation.json also holds accuracy, NLL and Brier score, and all of them after "
            "calibration."
        ],
        [names.label(name) for name in methods],
        rows if several else [],
    )


def _intervals(evaluation: dict) -> Table:
    rows = []
    for name, method in evaluation["methods"].items():
        for variant in (variant for variant in ("plain", "temperature") if variant in method["uncertainty"]):
            system = name if variant == "plain" else f"{name}+{variant}"
            row: list[Interval | Cell | Text] = []
            for _, part, metric, scale in COLUMNS:
                value = on_test(metric) if part == "test" else shifted(metric)
                mean = cells(runs_of(evaluation, system), [Column("", value, scale, 2)])[0].mean
                by_kind = method["uncertainty"][variant]
                over_seeds, over_images = (
                    _numbers(by_kind[kind]["intervals"], part, metric) for kind in ("seeds", "images")
                )
                row.append(_cell(over_seeds, scale, signed=False))
                row.append(_cell([mean / scale, *over_images] if over_images else None, scale, signed=False))
            rows.append((names.label(system), row))
    headings = [f"{heading}, over {kind}" for heading, *_ in COLUMNS for kind in ("seeds", "images")]
    caption = "How much each number may change with other seeds, and with other test images."
    definition = [_covers(evaluation) + f" Under shift: {shift_mean(evaluation)}."]
    return Table("intervals", "Intervals of all means", caption, definition, headings, rows)

"""Tables of differences between methods, each with an interval over seeds and one over the choice of test images."""

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


def _over(of_parts: dict, part: str, metric: str) -> list[float] | None:
    return of_parts.get(part, {}).get(metric)


def _covers(evaluation: dict) -> str:
    """What the two kinds of interval are."""
    experiment = evaluation["experiment"]
    level, resamples = round(100 * experiment["bootstrap"]["level"]), experiment["bootstrap"]["resamples"]
    one = any(len(method["runs"]) < 2 for method in evaluation["methods"].values())
    return (
        f"[low, high]: {level} % intervals. Over seeds: what {experiment['intervals']['seeds']}. Over images: "
        f"{experiment['intervals']['images']}, {resamples:,} resamples. Neither holds the other's share, and neither "
        "the bias of an ECE, which is the larger the better a method is calibrated: see its floor."
        + (" A method with one seed has no interval over seeds, because one run has no spread." if one else "")
    )


def _from_reference(evaluation: dict, variant: str) -> Table:
    reference, methods = evaluation["experiment"]["reference"], evaluation["methods"]
    against = names.label(reference)

    def row(name: str, of_variant: str) -> list[Interval | Text]:
        of = methods[name]["uncertainty"][of_variant]
        found = []
        for _, part, metric, scale in COLUMNS:
            for kind in ("seeds", "images"):
                numbers = _over(of[kind]["differences"], part, metric)
                alone = kind == "seeds" and not numbers and _over(of["images"]["differences"], part, metric)
                found.append(Text(ONE_SEED) if alone else _cell(numbers, scale, signed=True))
        return found

    there = {name: method["uncertainty"] for name, method in methods.items()}
    rows = [(names.label(name), row(name, variant)) for name in there if name != reference and variant in there[name]]
    if variant == "plain" and "temperature" in there.get(reference, ()):
        rows.insert(0, (names.label(f"{reference}+temperature"), row(reference, "temperature")))
    headings = [f"{heading}, over {kind}" for heading, *_ in COLUMNS for kind in ("seeds", "images")]
    after = " after temperature scaling" if variant != "plain" else ""
    title = f"Differences from {against}{after}"
    shared = f" Under shift an image is drawn together with all its corruptions: {shift_mean(evaluation)}."
    if variant == "plain":
        caption = (
            f"An interval that leaves out 0 tells a method from {against}: over seeds (first) that other training runs "
            "would say the same, over images that another test set would."
        )
        return Table("differences", title, caption, [_covers(evaluation) + shared], headings, rows)
    caption = (
        f"What is left once each method, {against} too, has the temperature that its validation images ask for: the "
        "comparison at matched confidence."
    )
    definition = [
        _covers(evaluation) + " Temperature scaling is fitted on the validation predictions of each run." + shared
    ]
    return Table("differences_calibrated", title, caption, definition, headings, rows)


def _pairs(evaluation: dict) -> Table:
    """ECE under shift, or on the test set, of every method against every other, over seeds."""
    methods, part = evaluation["methods"], "shift" if evaluation["experiment"]["shift_types"] else "test"

    def cell(name: str, other: str) -> Interval | Text:
        found = uncertainty.difference(methods[name], methods[other], "ece", part) if name != other else None
        return _cell(list(found) if found else None, 100, signed=True)

    rows = [(names.label(name), [cell(name, other) for other in methods]) for name in methods]
    there = len(methods) > 2 and any(isinstance(of, Interval) for _, row in rows for of in row)
    return Table(
        "pairs",
        f"Every method against every other: ECE {'under shift' if part == 'shift' else 'on the test set'}",
        "The method of the row minus that of the column, x100, with intervals over seeds: below 0 the row is better "
        "calibrated.",
        [
            "Paired by seed, over the seeds and the types of shift that both have. Of many pairs, one in twenty leaves "
            "out 0 by luck alone. evaluation.json holds accuracy, NLL and Brier score too, and all of it after "
            "calibration."
        ],
        [names.label(name) for name in methods],
        rows if there else [],
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
                of = method["uncertainty"][variant]
                over_seeds, over_images = (_over(of[kind]["intervals"], part, metric) for kind in ("seeds", "images"))
                row.append(_cell(over_seeds, scale, signed=False))
                row.append(_cell([mean / scale, *over_images] if over_images else None, scale, signed=False))
            rows.append((names.label(system), row))
    headings = [f"{heading}, over {kind}" for heading, *_ in COLUMNS for kind in ("seeds", "images")]
    caption = "How far each number may be from that of other seeds, and of other test images."
    definition = [_covers(evaluation) + f" Under shift: {shift_mean(evaluation)}."]
    return Table("intervals", "Intervals of all means", caption, definition, headings, rows)

"""Writes the report of an experiment: one self-contained HTML page, its tables as Markdown, its figures as SVG."""

import json
import pathlib

import jinja2
from etils import epath

from arada.errors import UserError
from arada.reporting import figures, sections, tables
from arada.reporting.names import in_order, style

UNKNOWN = "not recorded"
EXPECTED = ("num_classes", "num_subsets", "num_bins", "variance_of")
ATTACKS = {"cw": "CW", "fmn": "FMN", "sdf": "SuperDeepFool", "first_order": "first-order estimate"}
VARIANCE_OF = {
    "predicted_class": "of the class that the mean over runs predicts",
    "true_class": "of the true class",
    "own_confidence": "of the class that each run itself predicts",
    "all_classes": "of every class, summed over classes",
}


def write_report(workdir: str | epath.PathLike) -> epath.Path:
    """Writes `report/index.html`, `tables.md` and the figures as SVG into `workdir`, returns the page's path.

    Raises UserError if the experiment has not been evaluated.
    """
    workdir = epath.Path(workdir)
    source = workdir / "evaluation.json"
    if not source.exists():
        raise UserError(f"{source} does not exist: run --stage=evaluate first")
    evaluation = in_order(json.loads(source.read_text()))
    folder = workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)

    makers = (
        tables.results,
        tables.ece_by_severity,
        tables.calibrated,
        tables.variance,
        tables.out_of_distribution,
    )
    all_tables = [make(evaluation) for make in makers]
    all_sections = sections.build(evaluation, workdir)
    facts = header(evaluation)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        experiment={**dict.fromkeys(EXPECTED, UNKNOWN), **evaluation["experiment"]},
        by=(evaluation["experiment"].get("ranking") or {}).get("by"),
        source=(evaluation["experiment"].get("ranking") or {}).get("source"),
        facts=facts,
        tables=all_tables,
        sections=all_sections,
        seeds=tables.seed_range(evaluation),
        per_level=_images_per_level(evaluation),
        variance_of=VARIANCE_OF,
        few=figures.FEW,
        not_run=tables.NOT_RUN,
    )
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    (folder / "tables.md").write_text("\n".join([listed, "", *map(tables.to_markdown, all_tables)]))
    for section in all_sections.values():
        for panel in section.panels:
            (folder / f"{panel.name}.svg").write_text(figures.standalone(panel.svg))
    index = folder / "index.html"
    index.write_text(page)
    return index


def header(evaluation: dict) -> dict[str, str]:
    """What was run, on what and when, by name."""
    experiment, methods = evaluation["experiment"], evaluation["methods"]
    ranking = experiment.get("ranking") or {}
    seeds = {style(name).label: ", ".join(method["runs"]) for name, method in methods.items()}
    same = len(set(seeds.values())) == 1
    classes = experiment.get("num_classes")
    facts = {
        "Data set": f"{experiment.get('dataset') or UNKNOWN}" + (f" ({classes} classes)" if classes else ""),
        "Images": ", ".join(f"{split} {count:,}" for split, count in _values(experiment.get("num_examples"))),
        "Network": experiment.get("network"),
        "Methods": ", ".join(seeds),
        "Seeds": next(iter(seeds.values())) if same else "; ".join(f"{name}: {of}" for name, of in seeds.items()),
        "Ranking": _ranking(ranking, experiment.get("num_subsets")),
        "Attack success": ", ".join(f"{split} {100 * of:.1f} %" for split, of in _values(ranking.get("success_rate"))),
        "Agreement of ranks": _agreement(ranking.get("agreement") or {}),
        "Shift": tables.shift_mean(evaluation),
        "Out of distribution": _present(experiment.get("ood"), experiment.get("ood_missing")),
        "Commit": experiment.get("commit"),
        "Hardware": experiment.get("hardware"),
        "Versions": ", ".join(f"{name} {version}" for name, version in _values(experiment.get("versions"))),
        "Time": experiment.get("time"),
    }
    return {name: value or UNKNOWN for name, value in facts.items()}


def _present(names: list[str] | None, missing: dict[str, str] | None) -> str:
    absent = [f"{name} ({tables.NOT_RUN})" for name in missing or {}]
    return ", ".join([*(names or ()), *absent]) or tables.NOT_RUN


def _values(mapping: dict | None) -> list[tuple]:
    return [(name, value) for name, value in (mapping or {}).items() if value is not None]


def _ranking(ranking: dict, num_subsets: int | None) -> str:
    if not ranking:
        return tables.NOT_RUN
    by = ranking.get("by") or "attack"
    if by != "attack":
        return f"by {by} (a control), {num_subsets} levels"
    settings = ", ".join(f"{name} {value}" for name, value in _values(ranking.get("settings")))
    attack = ATTACKS.get(ranking.get("attack"), ranking.get("attack") or UNKNOWN)
    return f"L2 attack {attack}{f' ({settings})' if settings else ''} on {ranking.get('source')}, {num_subsets} levels"


def _agreement(agreement: dict) -> str:
    if not agreement:
        return tables.NOT_RUN
    numbers = (
        ("spearman", "Spearman {:.3f}", 1),
        ("same_subset", "same level {:.1f} %", 100),
        ("adjacent_subset", "same or neighbouring level {:.1f} %", 100),
        ("median_ratio", "median ratio of distances {:.3f}", 1),
    )
    found = [text.format(scale * agreement[key]) for key, text, scale in numbers if agreement.get(key) is not None]
    against = f"with {agreement.get('reference', 'a reference')} on {agreement.get('examples', '?')} examples"
    return f"{against}: {', '.join(found)}"


def _images_per_level(evaluation: dict) -> str:
    runs = [run for method in evaluation["methods"].values() for run in method["runs"].values()]
    counts = {int(count) for run in runs for count in (run.get("subsets") or {}).get("count") or () if count}
    if not counts:
        return tables.NOT_RUN
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"

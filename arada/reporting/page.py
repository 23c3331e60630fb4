"""Writes reports: a self-contained HTML page on one or several experiments, tables as files, figures as SVG."""

import base64
import hashlib
import re
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
from etils import epath
from markupsafe import Markup

from arada.evaluation import schema
from arada.reporting import answer, comparison, figures, formats, gallery, sections, settings, tables
from arada.reporting.names import in_order, style
from arada.runtime import files

UNKNOWN = "not recorded"
ATTACKS = {"cw": "CW", "fmn": "FMN", "sdf": "SuperDeepFool", "first_order": "first-order estimate"}
TYPES = {"csv": "text/csv", "md": "text/markdown", "tex": "application/x-tex"}
# The page loads nothing and runs only its own script, so that names from data do no harm even if escaping fails.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'"
TERMS = {
    "Vanilla": "training on one-hot labels.",
    "Label smoothing": "training on labels that are softened by one fixed amount.",
    "AdaLS": "label smoothing by one amount that follows the confidence and the accuracy on the validation set.",
    "AR-AdaLS": "AdaLS with one amount for each adversarial robustness level.",
    "Adversarial robustness level": "images are ranked by the smallest change of their pixels that changes the "
    "network's prediction, and cut into equal parts; level 1 is the least robust.",
    "Floor": "the ECE that a perfectly calibrated network with the same confidences has on average, by chance alone.",
    "Debiased ECE": "the ECE minus an estimate of its part by chance; it can be below 0.",
    "Confidence": "the probability that a network gives to the class it predicts.",
    "ECE": "expected calibration error: the distance between confidence and accuracy, averaged over bins of confidence "
    "of equal width, or of equal numbers of images (equal mass).",
    "Training accuracy": "accuracy in the last epoch, on augmented images and while the weights change.",
    "NLL": "negative log-likelihood of the true class, in nats.",
    "Brier": "squared error to the one-hot label, summed over classes.",
    "AUROC": "how well low confidence or high entropy separates images of another kind from the test set; 0.5 is "
    "chance, 1 is perfect.",
    "Variance": "how much the predicted probability changes from one seed to another.",
    "Seed": "one independent training run.",
    "Shift": "test images that have been corrupted, at severities from weak to strong.",
}


class Experiment(NamedTuple):
    """One workdir's part of a page. With several experiments on a page `prefix` makes the ids of each part unique."""

    title: str
    prefix: str
    answer: list[str]
    facts: dict[str, str]
    configs: dict[str, str]
    entries: list[sections.Section | tables.Table | gallery.Gallery]


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `report/index.html`, its tables (csv, md, tex, all in tables.md) and its figures (svg) into `workdir`.

    Returns the page's path. Raises UserError if the experiment has not been evaluated.
    """
    workdir = epath.Path(workdir)
    evaluation = in_order(schema.read(workdir))
    experiment = _experiment(evaluation, workdir)
    folder = workdir / "report"
    written: dict[str, str] = {}
    in_markdown = []
    for entry in experiment.entries:
        if isinstance(entry, tables.Table):
            written |= {f"{entry.name}.{ending}": to_text(entry) for ending, to_text in formats.BY_ENDING.items()}
            in_markdown.append(written[f"{entry.name}.md"])
        elif isinstance(entry, sections.Section):
            written |= {f"{panel.name}.svg": figures.standalone(panel.svg) for panel in entry.panels}
    listed = [f"- {name}: {formats.plain_markdown(value)}" for name, value in experiment.facts.items()]
    written["tables.md"] = "\n".join([*listed, "", *in_markdown])
    # Last: a page that is newer than the metrics says that all files are.
    written["index.html"] = _page([experiment])
    for name, text in written.items():
        files.write_text(folder / name, text)
    return folder / "index.html"


def write_comparison(workdirs: Sequence[epath.PathLike], output: epath.PathLike) -> epath.Path:
    """Writes one page on several experiments: a table of all of them, then each one's report. Returns its path.

    Raises UserError if an experiment has not been evaluated.
    """
    workdirs, output = [epath.Path(workdir) for workdir in workdirs], epath.Path(output)
    evaluations = [in_order(schema.read(workdir)) for workdir in workdirs]
    titles = [_title(evaluation) for evaluation in evaluations]
    if len(set(titles)) < len(titles):
        folders = [workdir.name for workdir in workdirs]
        folders = folders if len(set(folders)) == len(folders) else workdirs
        titles = [f"{title} ({folder})" for title, folder in zip(titles, folders, strict=True)]
    experiments = [
        _experiment(evaluation, workdir)._replace(title=title, prefix=f"experiment-{number}-")
        for number, (evaluation, workdir, title) in enumerate(zip(evaluations, workdirs, titles, strict=True), start=1)
    ]
    page = _page(experiments, comparison.table(dict(zip(titles, evaluations, strict=True))))
    files.write_text(output, page)
    return output


def _experiment(evaluation: dict, workdir: epath.Path) -> Experiment:
    entries: list[sections.Section | tables.Table | gallery.Gallery] = [*sections.build(evaluation, workdir)]
    if not sections.only_external_predictions(evaluation):
        entries.append(gallery.build(evaluation, workdir))
    by_method = {style(name).label: fields for name, fields in settings.listed(workdir, evaluation["methods"]).items()}
    return Experiment(_title(evaluation), "", answer.sentences(evaluation), header(evaluation), by_method, entries)


def _title(evaluation: dict) -> str:
    experiment = evaluation["experiment"]
    return f"{experiment['dataset']}, {experiment['network']}"


def _page(experiments: list[Experiment], comparison_table: tables.Table | None = None) -> str:
    here = epath.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = files.read_text(here / "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        policy=POLICY.format(digest),
        style=Markup(files.read_text(here / "page.css")),
        script=Markup(script),
        title=f"{len(experiments)} experiments" if comparison_table else experiments[0].title,
        terms=TERMS,
        first=formats.FIRST,
        experiments=experiments,
        comparison=comparison_table,
        number=formats.number,
        downloads=_downloads,
        with_prefix=_with_prefix,
        not_run=tables.NOT_RUN,
    )


def _downloads(table: tables.Table) -> dict[str, str]:
    """Data URIs of the table's files, by file ending."""
    return {
        ending: f"data:{TYPES[ending]};charset=utf-8,{urllib.parse.quote(to_text(table))}"
        for ending, to_text in formats.BY_ENDING.items()
    }


def _with_prefix(panel: figures.Panel, prefix: str) -> Markup:
    """The picture with its file's name, its ids beginning with `prefix`."""
    svg = Markup('<svg data-name="{}"').format(panel.name) + Markup(panel.svg.removeprefix("<svg"))
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', lambda match: f"{match[0]}{prefix}", svg)) if prefix else svg


def header(evaluation: dict) -> dict[str, str]:
    """The facts of an experiment, by name: data, network, methods, seeds, ranking, code and hardware."""
    experiment, methods = evaluation["experiment"], evaluation["methods"]
    ranking = experiment["ranking"]
    by_seeds: dict[str, list[str]] = {}
    for name, method in methods.items():
        by_seeds.setdefault(", ".join(method["runs"]), []).append(style(name).label)
    common = max(by_seeds, key=lambda seeds: len(by_seeds[seeds]), default="")
    by_seeds.pop(common, None)
    facts = {
        "Data set": f"{experiment['dataset']} ({experiment['num_classes']} classes)",
        "Images": ", ".join(f"{split} {count:,}" for split, count in experiment["num_examples"].items()),
        "Network": experiment["network"],
        "Methods": "; ".join(style(name).label for name in methods),
        "Seeds": "; ".join([common, *(f"{seeds} ({'; '.join(labels)})" for seeds, labels in by_seeds.items())]),
        "Ranking": _ranking(ranking, experiment["num_subsets"]),
        "Ranks in training": _ranked_by(experiment["ranked_by"]),
        "Attack success": ", ".join(f"{split} {100 * rate:.1f} %" for split, rate in ranking["success_rate"].items()),
        "Agreement of ranks": _agreement(ranking["agreement"]),
        "Shift": tables.shift_mean(evaluation),
        "Out of distribution": _present(experiment["ood"], experiment["ood_missing"]),
        "Commit": experiment["commit"],
        "Hardware": experiment["hardware"],
        "Versions": ", ".join(f"{name} {version}" for name, version in experiment["versions"].items()),
        "Time": experiment["time"],
    }
    return {name: value or UNKNOWN for name, value in facts.items()}


def _present(names: list[str], missing: dict[str, str]) -> str:
    absent = [f"{name} ({tables.NOT_RUN})" for name in missing]
    return ", ".join([*names, *absent]) or tables.NOT_RUN


def _ranked_by(source_of_method: dict[str, str]) -> str:
    """Whether the seeds of a method share one ranking."""
    by_source: dict[str, list[str]] = {}
    for name, source in source_of_method.items():
        by_source.setdefault(source, []).append(style(name).label)
    parts = []
    for source, labels in by_source.items():
        each = "each seed has its own ranking" if source.endswith("{seed}") else "all seeds share one ranking"
        parts.append(f"{each}, {source} ({'; '.join(labels)})")
    return "; ".join(parts) or "no method was trained on ranks"


def _ranking(ranking: dict, num_subsets: int) -> str:
    by = ranking["by"]
    if by != "attack":
        return f"by {by} (a control, without adversarial robustness levels), {ranking['source']}"
    if not ranking["attack"]:
        return tables.NOT_RUN
    settings = ", ".join(f"{name} {value}" for name, value in ranking["settings"].items())
    attack = ATTACKS.get(ranking["attack"], ranking["attack"])
    return f"L2 attack {attack}{f' ({settings})' if settings else ''} on {ranking['source']}, {num_subsets} levels"


def _agreement(agreement: dict) -> str:
    if not agreement:
        return tables.NOT_RUN
    numbers = (
        ("spearman", "Spearman {:.3f}", 1),
        ("same_subset", "same level {:.1f} %", 100),
        ("adjacent_subset", "same or adjacent level {:.1f} %", 100),
        ("median_ratio", "median ratio of distances {:.3f}", 1),
    )
    found = [text.format(scale * agreement[key]) for key, text, scale in numbers if agreement.get(key) is not None]
    return f"with {agreement['reference']} on {agreement['examples']} examples: {', '.join(found)}"

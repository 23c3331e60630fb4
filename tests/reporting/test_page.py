import base64
import csv
import hashlib
import json
import pathlib
import re
import shutil
import urllib.parse
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

import arada.reporting
from arada.errors import UserError
from arada.evaluation import uncertainty
from arada.reporting import figures, formats, names, tables
from arada.reporting import page as pages

ALL_FIGURES = {
    "answer",
    "figure_1_vanilla",
    "figure_1_errors",
    "figure_2_ar_adals",
    "figure_2_ece",
    "figure_2_ece__debiased",
    "figure_2_variance",
    "figure_3_variance",
    "figure_4_photographs",
    "figure_6_single_ece",
    "figure_6_single_accuracy",
    "figure_7",
    "figure_8_vanilla",
    "figure_8_ar_adals",
    "soft_labels_ar_adals",
    "distances_train",
    "distances_validation",
    "distances_test",
}
BEYOND = {"results", "more_metrics", "calibrated", "ece_by_severity", "out_of_distribution"}
BEYOND |= {"differences", "differences_calibrated", "intervals"}
ALL_TABLES = {f"table_{number}" for number in range(1, 6)} | BEYOND
NO_INTERVALS = {"intervals": {}, "differences": {}}
# What data may be called.
HOSTILE = (
    "=cmd|' /C calc'!A0<script>alert(1)</script>\"><img src=x onerror=alert(1)>",
    # No formula that matplotlib could read, no command for LaTeX.
    "$\\frac{$ \\input{x} a&b_%#",
)


class Tags(HTMLParser):
    """Collects the attributes of every tag."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def write(workdir, evaluation):
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    return pathlib.Path(arada.reporting.write_report(workdir)).read_text()


def test_page_and_files(report, page):
    assert {path.stem for path in report.glob("*.svg")} == ALL_FIGURES
    assert page.count('role="img"') == len(ALL_FIGURES)
    for ending in ("csv", "md", "tex"):
        assert {path.stem for path in report.glob(f"*.{ending}")} - {"tables"} == ALL_TABLES
    for text in ("digits (10 classes)", "resnet_v2-11", "abc123", "cpu x 1", "jax 0.10.2", "test 95.0 %", "0, 1"):
        assert text in page
    for text in ("20.00 ± 5.66", "not run: Label smoothing by robustness level", "3 without one are not shown"):
        assert text in page
    row = r"\| Vanilla +\| +91.00 ± 1.41 \| +5.00 ± 1.41 \| +2.00 ± 0.00 \| +20.00 ± 5.66 \| +2.00 ± 0.00 \|"
    assert re.search(row, (report / "tables.md").read_text())
    assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split()


def test_page_loads_nothing(page):
    tags = Tags(page)
    # Links refer to parts of the page itself, or hold what they give; addresses are names of XML formats.
    assert all(value.startswith("#") for value in tags.values("xlink:href"))
    assert all(value.startswith(("#", "data:text/", "data:application/x-tex")) for value in tags.values("href"))
    assert all(value.startswith("data:image/png;base64,") for value in tags.values("src"))
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in tags.tags}
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r"https?://[^\"' ]*", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_unique_and_references_resolve(page):
    tags = Tags(page)
    ids = tags.values("id")
    assert len(ids) == len(set(ids))
    links = {value[1:] for value in tags.values("href") if value.startswith("#")}
    references = {value[1:] for value in tags.values("xlink:href")} | set(re.findall(r"url\(#([^)]*)\)", page)) | links
    assert references
    assert references <= set(ids)


def test_pictures_follow_the_page_and_describe_themselves(page):
    assert figures.INK not in page
    assert "currentColor" in page
    labels = [attributes["aria-label"] for tag, attributes in Tags(page).tags if tag == "svg"]
    assert all(labels)
    assert all(attributes["alt"] for tag, attributes in Tags(page).tags if tag == "img")
    # mean of 60 % on both seeds; the last level has no accuracy
    assert any("accuracy 60.0 at level 1" in label for label in labels)
    assert ">adversarial robustness level<" in page  # text, not outlines


def test_report_is_the_same_each_time(report):
    before = {path.name: path.read_text() for path in report.iterdir()}
    arada.reporting.write_report(report.parent)
    assert {path.name: path.read_text() for path in report.iterdir()} == before


def test_only_the_page_s_own_script_may_run(page):
    (policy,) = (attributes["content"] for tag, attributes in Tags(page).tags if "http-equiv" in attributes)
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy


def test_a_table_s_links_hold_its_files(report, page):
    links = {
        attributes["download"]: attributes["href"] for _, attributes in Tags(page).tags if "download" in attributes
    }
    assert set(links) == {f"{name}.{ending}" for name in ALL_TABLES for ending in ("csv", "md", "tex")}
    for name, uri in links.items():
        assert urllib.parse.unquote(uri.partition(",")[2]) == (report / name).read_text()


def test_cells_carry_what_columns_sort_by(page):
    assert re.search(r'<td data-number="5(\.0*1?)?">5.00 ± 1.41</td>', page)
    assert '<td data-number="">not run</td>' in page


@pytest.mark.usefixtures("text_alone")
def test_the_configs_of_methods_are_shown(workdir, evaluation):
    config = {"name": "vanilla", "seeds": [0, 1], "run": {"data_dir": "/secret"}, "training": {"epochs": 4}}
    for name, alpha in {"vanilla": 0.0, "ar_adals": 0.05}.items():
        stored = {"config": config | {"soft_labels": {"alpha": [[0, alpha]]}}}
        (workdir / "runs" / name / "seed_0" / "config.json").write_text(json.dumps(stored))
    page = write(workdir, evaluation)
    assert "<p>Vanilla</p>\n<pre>training.epochs = 4\nsoft_labels.alpha = [[0, 0.0]]</pre>" in page
    assert "<p>AR-AdaLS, fields that differ</p>\n<pre>soft_labels.alpha = [[0, 0.05]]</pre>" in page
    assert "/secret" not in page


def everywhere(value, hostile):
    """JSON in which every string, and the name of every method, shift and out-of-distribution set, is hostile."""
    if isinstance(value, dict):
        return {key: everywhere(of, hostile) for key, of in value.items()}
    if isinstance(value, list):
        return [everywhere(of, hostile) for of in value]
    return hostile if isinstance(value, str) else value


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_stay_text(workdir, evaluation, with_gallery, hostile):
    evaluation["experiment"] = everywhere(evaluation["experiment"], hostile)
    evaluation["experiment"]["ranking"] |= {"source": "vanilla/seed_0", "sources": ["vanilla/seed_0"]}
    for method in evaluation["methods"].values():
        for run in method["runs"].values():
            run["ood"] = {hostile: run["ood"]["photographs"]}
            run["shift"][hostile] = run["shift"].pop("noise")
    evaluation["methods"][hostile] = evaluation["methods"]["ar_adals"]
    evaluation["experiment"]["shift_missing"] = evaluation["experiment"]["ood_missing"] = {hostile: hostile}
    with_gallery(class_names=np.array([hostile] * 10))
    (workdir / "runs" / "vanilla" / "seed_0" / "config.json").write_text(json.dumps({"config": {hostile: hostile}}))

    page = write(workdir, evaluation)
    tags = Tags(page).tags
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}]
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert all(attributes["src"].startswith("data:image/png") for tag, attributes in tags if tag == "img")
    # It is there, as text: in the title, in the header, in tables, in a gallery, in the legends of figures.
    assert page.count(str(figures.escape(hostile))) > 20
    for name in ("shift_others_ece", "shift_others_accuracy"):
        assert hostile in "".join(ElementTree.parse(workdir / "report" / f"{name}.svg").getroot().itertext())
    for path in (workdir / "report").glob("*.csv"):
        cells = [cell for line in csv.reader(path.read_text().splitlines()) for cell in line]
        assert hostile in "".join(cells) or path.stem not in ("results", "more_metrics", "out_of_distribution")
        assert not any(re.match(r"[=+@]|-[^\d]", cell) for cell in cells)


def test_latex_and_markdown_hold_no_commands():
    cell = tables.Cell(mean=1.0, deviation=0.5, count=2, seeds=2, digits=1)
    table = tables.Table(
        "t", "a_b", "$x$", ["50 % <b>"], ["\\input{x} ↑", "[a](javascript:b)"], [("a|b&c", [cell, "`d`"])]
    )
    assert formats.to_latex(table).splitlines()[1:6] == [
        r"\caption{a\_b. \$x\$ 50 \% \textless{}b\textgreater{}}",
        r"\begin{tabular}{lrr}",
        r"\hline",
        r"Method & \textbackslash{}input\{x\} $\uparrow$ & [a](javascript:b) \\",
        r"\hline",
    ]
    assert r"a\textbar{}b\&c & 1.0 $\pm$ 0.5 & `d` \\" in formats.to_latex(table)
    lines = [re.sub("-+", "-", re.sub(" +", " ", line)) for line in formats.to_markdown(table).splitlines()]
    assert lines == [
        "## a_b",
        "",
        "$x$",
        "",
        r"| Method | \\input{x} ↑ | \[a\](javascript:b) |",
        "|:-|-:|-:|",
        r"| a\|b&amp;c | 1.0 ± 0.5 | \`d\` |",
        "",
        "50 % &lt;b>",
    ]


def test_csv_is_for_programs():
    cells = [tables.Cell(mean, deviation, 1, 1, 1) for mean, deviation in ((-1.25, 0.5), (float("nan"), float("nan")))]
    rows = [("+a", [*cells, "=b"]), ('c"d', [cells[1], cells[0]._replace(deviation=float("nan")), "-e"])]
    interval = [("d", [tables.Interval(-0.5, -1.0, 0.25, signed=True)]), ("e", [tables.NOTHING])]
    assert formats.to_csv(tables.Table("t", "t", "", [], ["x"], interval)).splitlines() == [
        'Method,x,"x, lower end","x, upper end"',
        "d,-0.5,-1,0.25",
        "e,-,,",
    ]
    assert formats.to_csv(tables.Table("t", "t", "", [], ["x", "y", "@z"], rows)).splitlines() == [
        'Method,x,"x, standard deviation",y,\'@z',
        "'+a,-1.25,0.5,,'=b",
        '"c""d",,,-1.25,\'-e',
    ]


def test_several_experiments_on_one_page(workdir, evaluation, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    evaluation["methods"]["mixup"] = evaluation["methods"].pop("ar_adals")
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    page = pages.write_comparison([workdir, other], workdir / "both.html").read_text()
    # Same data set and network: the folders tell them apart.
    title = f"digits, resnet_v2-11 ({workdir.name})"
    assert f'<th scope="col">ECE x100 ↓, {title}</th>' in page
    rows = re.findall(
        r'<tr><th scope="row">([^<]*)</th>((?:<td[^>]*>[^<]*</td>){6})</tr>', page.partition("</section>")[0]
    )
    cells = {label: re.findall(r">([^<]*)</td>", row) for label, row in rows}
    assert cells == {
        "Vanilla": ["91.00 ± 1.41", "91.00 ± 1.41", "5.00 ± 1.41", "5.00 ± 1.41", "20.00 ± 5.66", "20.00 ± 5.66"],
        "AR-AdaLS": ["91.00 ± 1.41", "not run", "2.50 ± 0.71 °", "not run", "10.00 ± 2.83", "not run"],
        "mixup": ["not run", "91.00 ± 1.41", "not run", "2.50 ± 0.71 °", "not run", "10.00 ± 2.83"],
    }
    assert not (other / "report").exists()
    test_ids_are_unique_and_references_resolve(page)
    test_page_loads_nothing(page)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"experiment": [], "methods": {}}', '{"experiment": {}, "methods": 3}']
)
def test_what_is_no_evaluation(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluation.json is not .*; run .* again"):
        arada.reporting.write_report(tmp_path)


def one_seed(method):
    """A method with its first seed alone."""
    uncertainty = {name: of | {"seeds": NO_INTERVALS} for name, of in method["uncertainty"].items()}
    return method | {"runs": {"0": method["runs"]["0"]}, "variance": None, "uncertainty": uncertainty}


@pytest.mark.usefixtures("text_alone")
@pytest.mark.parametrize("only", ["vanilla", "ar_adals"])
def test_one_method_one_seed_and_nothing_else(workdir, evaluation, only):
    method = evaluation["methods"][only]
    run = method["runs"]["0"] | {"ood": {}, "subsets": {}}
    for of in (run, *run["calibrated"].values()):
        of["shift"] = {}
    evaluation["methods"] = {only: one_seed(method) | {"runs": {"0": run}}}
    evaluation["experiment"] |= {"shift_types": [], "ood": [], "num_examples": {}}
    evaluation["experiment"]["ranking"] |= {"attack": None, "settings": {}, "success_rate": {}}
    for path in [*workdir.glob("predictions/*/*/*"), *workdir.glob("robustness/*/*/*"), *workdir.glob("runs/*/*/*")]:
        path.unlink()
    page = write(workdir, evaluation)
    assert {path.stem for path in (workdir / "report").glob("*.svg")} == {"answer", "figure_7"}
    assert "1 seed each" in page
    assert "4.00" in page or "2.00" in page
    for missing in ("ECE under shift", "variance by robustness level", "ranking", "methods that adapt their labels"):
        assert re.search(f"not run: [^<]*{missing}", page)


def test_figures_of_one_seed(workdir, evaluation):
    evaluation["methods"] = {name: one_seed(method) for name, method in evaluation["methods"].items()}
    page = write(workdir, evaluation)
    assert "no spread can be shown" in page
    # The page says why no difference has an interval over seeds, and shows those over images.
    assert "There is no interval over seeds: at least two seeds are needed" in page
    assert "95 % intervals, the choice of test images." in page
    assert page.count(">no interval: one seed</td>") > 4
    written = {path.stem for path in (workdir / "report").glob("*.svg")}
    assert written == ALL_FIGURES - {"figure_2_variance", "figure_3_variance"}


def test_an_experiment_that_was_not_evaluated(tmp_path):
    with pytest.raises(ValueError, match="run --stage=evaluate first"):
        arada.reporting.write_report(tmp_path)


def test_many_methods_under_long_names(workdir, evaluation):
    # Crowded is fine; a warning (the layout's, of no room left) would be an error.
    vanilla = evaluation["methods"]["vanilla"]
    evaluation["methods"] = {name: vanilla for name in [*names._STYLES, "method_of_a_reader" * 3]}
    assert "Ensemble of label smoothing" in write(workdir, evaluation)


def test_every_method_looks_different_and_keeps_its_look():
    looks = [style[1:3] for style in names._STYLES.values()]
    assert len(set(looks)) == len(looks)
    assert names.style("my_method") == names.Style("my_method", *names.style("my_method")[1:])
    assert names.style("vanilla").label == "Vanilla"


@pytest.mark.usefixtures("text_alone")
def test_the_page_holds_what_summarize_wrote(summarized, tmp_path):
    """Numbers of evaluation.json itself, and nothing that was run is said to be missing."""
    path, evaluation = summarized
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    page = pathlib.Path(arada.reporting.write_report(tmp_path)).read_text()
    cells = {
        name: [re.sub("<.*?>", "", cell) for cell in re.findall(f'<tr><th scope="row">{label}</th>(.*?)</tr>', page)]
        for name, label in (("vanilla", "Vanilla"), ("ar_adals", "AR-AdaLS"))
    }
    for name, rows in cells.items():
        method = evaluation["methods"][name]
        for metric, part in (("accuracy", "test"), ("ece", "test"), ("ece_floor", "shift"), ("ece", "shift")):
            values = [100 * x for x in uncertainty.by_seed(method, metric, part).values()]
            shown = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
            assert shown in rows[0], (name, metric, part)
    found = stats.ttest_rel(
        *(
            list(uncertainty.by_seed(evaluation["methods"][name], "ece", "shift", "temperature").values())
            for name in ("ar_adals", "vanilla")
        )
    ).confidence_interval(0.95)
    section = page[page.index('<section id="differences_calibrated">') :].partition("</section>")[0]
    assert f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]" in section
    # What was not run are other methods, and a sweep.
    missing = {part.strip() for text in re.findall("not run: ([^<]*)<", page) for part in text.split(";")}
    others = re.compile("Label smoothing|AdaLS|nsemble|several R|easiest and hardest to attack")
    assert [text for text in missing if not others.search(text)] == []
    for section in ("results", "differences", "calibrated", "ece_by_severity", "more_metrics", "out_of_distribution"):
        assert "not run" not in page[page.index(f'<section id="{section}">') :].partition("<details>")[0]


def test_the_page_begins_with_the_answer(page):
    header, _, rest = page.partition("</header>")
    told = re.findall('<p class="answer">(.*?)</p>', header)
    assert told[0].startswith(
        "Compared: Vanilla and AR-AdaLS on digits with resnet_v2-11, 2 seeds each, 60 test images."
    )
    # -8 on seed 0, -12 on seed 1: mean -10, standard error 2, times 12.706.
    assert told[1] == (
        "Under shift the ECE of AR-AdaLS, 10.0 x100 (floor 2.0), is not distinguishable from that of Vanilla "
        "(-10.0 [-35.4, +15.4]); differences x100 with 95 % intervals, over seeds."
    )
    assert told[2].startswith("After temperature scaling under shift the ECE of AR-AdaLS")
    assert len(told) == 3
    # Then a figure, then the main table; settings come last, folded.
    order = [
        rest.index(text) for text in ('<section id="answer">', '<section id="results">', '<section id="differences">')
    ]
    assert order == sorted(order)
    assert rest.index('<details class="about"') > rest.rindex("</section>")
    assert "<dl>" not in header


@pytest.mark.usefixtures("text_alone")
def test_the_page_says_whose_ranks_methods_were_trained_on(workdir, evaluation):
    assert "all seeds share one ranking, vanilla/seed_0 (AR-AdaLS)" in write(workdir, evaluation)
    evaluation["experiment"]["ranked_by"] = {"ar_adals": "vanilla/seed_{seed}"}
    assert "each seed has its own ranking, vanilla/seed_{seed} (AR-AdaLS)" in write(workdir, evaluation)
    evaluation["experiment"]["ranked_by"] = {}
    assert "no method was trained on ranks" in write(workdir, evaluation)

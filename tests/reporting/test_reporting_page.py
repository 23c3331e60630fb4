import json
import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import arada.reporting
from arada.reporting import figures, names, series

ALL_FIGURES = {
    "levels_vanilla",
    "levels_vanilla_errors",
    "levels_ar_adals",
    "levels_ece",
    "levels_variance",
    "reliability",
    "soft_labels_ar_adals",
    "shift_ece",
    "shift_accuracy",
    "shift_variance",
    "distances_train",
    "distances_validation",
    "distances_test",
}


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
    for text in ("digits (10 classes)", "resnet_v2-11", "abc123", "cpu x 1", "jax 0.10.2", "test 95.0 %", "0, 1"):
        assert text in page
    for text in ("20.00 ± 5.66", "not run: Label smoothing by robustness level", "3 without one are not drawn"):
        assert text in page
    assert "| Vanilla | 91.00 ± 1.41 | 5.00 ± 1.41 | 20.00 ± 5.66 |" in (report / "tables.md").read_text()
    assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split()


def test_page_loads_nothing(page):
    tags = Tags(page)
    # The paths of the pictures refer to parts of the page itself; addresses are names of XML formats.
    assert all(value.startswith("#") for name in ("src", "href", "xlink:href") for value in tags.values(name))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.tags}
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r"https?://[^\"' ]*", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_unique_and_references_resolve(page):
    tags = Tags(page)
    ids = tags.values("id")
    assert len(ids) == len(set(ids))
    references = {value[1:] for value in tags.values("xlink:href")} | set(re.findall(r"url\(#([^)]*)\)", page))
    assert references
    assert references <= set(ids)


def test_pictures_follow_the_page_and_describe_themselves(page):
    assert figures.INK not in page
    assert "currentColor" in page
    labels = [attributes["aria-label"] for tag, attributes in Tags(page).tags if tag == "svg"]
    assert all(labels)
    # mean of 60 % on both seeds; the last level has no accuracy
    assert any("accuracy 60.0 at level 1" in label for label in labels)
    assert ">adversarial robustness level<" in page  # text, not outlines


def test_report_is_the_same_each_time(report):
    before = {path.name: path.read_text() for path in report.iterdir()}
    arada.reporting.write_report(report.parent)
    assert {path.name: path.read_text() for path in report.iterdir()} == before


def test_names_are_escaped(workdir, evaluation):
    evaluation["experiment"]["dataset"] = "<b>&"
    evaluation["methods"]['<i>"'] = evaluation["methods"].pop("ar_adals")
    page = write(workdir, evaluation)
    assert "<i>" not in page
    assert "<b>&" not in page


@pytest.mark.parametrize("only", ["vanilla", "ar_adals"])
def test_one_method_one_seed_and_nothing_else(workdir, evaluation, only):
    run = {"test": evaluation["methods"][only]["runs"]["0"]["test"]}
    evaluation["methods"] = {only: {"seeds": [0], "runs": {"0": run}, "variance": None}}
    evaluation["experiment"] = {"dataset": "digits", "network": "resnet_v2-11"}
    for path in [*workdir.glob("predictions/*/*/*"), *workdir.glob("robustness/*/*/*"), *workdir.glob("runs/*/*/*")]:
        path.unlink()
    page = write(workdir, evaluation)
    assert "<svg" not in page
    assert "1 seed a method" in page
    assert "4.00" in page or "2.00" in page
    for missing in ("ECE under shift", "variance by robustness level", "ranking", "methods that adapt their labels"):
        assert f"not run: {missing}" in page


def test_figures_of_one_seed(workdir, evaluation):
    for method in evaluation["methods"].values():
        method["runs"] = {"0": method["runs"]["0"]}
        method["variance"] = None
    page = write(workdir, evaluation)
    assert "no spread can be shown" in page
    written = {path.stem for path in (workdir / "report").glob("*.svg")}
    assert written == ALL_FIGURES - {"levels_variance", "shift_variance"}


def test_an_experiment_that_was_not_evaluated(tmp_path):
    with pytest.raises(ValueError, match="run --stage=evaluate first"):
        arada.reporting.write_report(tmp_path)


def test_soft_labels_are_averaged_and_need_to_adapt(workdir):
    epochs, values = series.soft_labels(workdir, "ar_adals", [0, 1])
    assert epochs.tolist() == [1, 2, 3, 4]
    # epoch 1, least robust of 5: 1 - 0.05 on seed 0, 0.02 less on seed 1
    assert values[0] == pytest.approx([0.94, 0.95, 0.96, 0.97, 0.98])
    assert series.soft_labels(workdir, "vanilla", [0, 1]) is None
    assert series.soft_labels(workdir, "mixup", [0]) is None


def test_members_of_an_ensemble_are_averaged(workdir):
    run = workdir / "runs" / "ensemble_adals" / "seed_0"
    for member, ends in enumerate((0.9, 0.8)):
        folder = run / f"member_{member}"
        folder.mkdir(parents=True)
        rows = [{"epoch": 1.0, "soft_label/subset_00": 1.0}, {"epoch": 2.0, "soft_label/subset_00": ends}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert series.soft_labels(workdir, "ensemble_adals", [0])[1] == pytest.approx(np.array([[1.0], [0.85]]))


def test_reliability_pools_seeds_and_averages_members(tmp_path):
    # Two classes; logits of log p. Seed 0: confidence 0.9, right; seed 1: members 0.8 and 1.0 give 0.9, wrong.
    for seed, (probabilities, label) in enumerate((([0.9], 0), ([0.8, 1 - 1e-7], 1))):
        folder = tmp_path / "predictions" / "vanilla" / f"seed_{seed}"
        folder.mkdir(parents=True)
        logits = np.log([[[p, 1 - p]] for p in probabilities]).astype(np.float32)
        np.savez(folder / "test.npz", label=np.array([label], np.int32), logits=logits)
    count, confidence, accuracy = series.reliability(tmp_path, "vanilla", [0, 1, 2], num_bins=5)
    assert count.tolist() == [0, 0, 0, 0, 2]
    assert confidence[-1] == pytest.approx(0.9)
    assert accuracy[-1] == 0.5
    assert np.isnan(confidence[:-1]).all()
    assert series.reliability(tmp_path, "mixup", [0], num_bins=5) is None


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

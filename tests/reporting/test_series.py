"""What figures draw, where a workdir holds less than everything or something else beside it."""

import json
import pathlib

import numpy as np
import pytest

import arada.reporting
from arada.reporting import paper_figures, sections, series


def write(workdir, evaluation):
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    return pathlib.Path(arada.reporting.write_report(workdir)).read_text()


def test_types_of_shift_are_averaged_by_name(workdir, evaluation):
    """Seed 0 has noise and blur, seed 1 fog and blur, then fog alone."""
    method = evaluation["methods"]["vanilla"]
    of_seed = method["runs"]["1"]["shift"]
    method["runs"]["1"]["shift"] = {"fog": of_seed["noise"], "blur": of_seed["blur"]}
    # Noise and fog: 2 and 4 times the ECE, which is 0.04 on seed 0 and 0.06 on seed 1; blur: 4 and 6 times 0.05.
    by_type = {"noise": [0.08, 0.16], "blur": [0.2, 0.3], "fog": [0.12, 0.24]}
    assert series.shift_by_type(method, "ece") == pytest.approx(np.array(list(by_type.values())))
    del method["runs"]["1"]["shift"]["blur"]
    by_type["blur"] = [0.16, 0.24]
    assert series.shift_by_type(method, "ece") == pytest.approx(np.array(list(by_type.values())))
    assert "Medians (x100) at severity 2: Vanilla 24.0" in write(workdir, evaluation)
    for run in method["runs"].values():
        run["shift"] = {}
    assert series.shift_by_type(method, "ece") is None


def sweep(workdir, name, *points):
    """A sweep's file; a point is its values, and the ECE, on the test set and under shift, of its only seed."""
    (workdir / "sweeps").mkdir(exist_ok=True)
    points = [{"values": of, "ece": [clean], "ece_under_shift": [shifted]} for of, clean, shifted in points]
    (workdir / "sweeps" / f"{name}.json").write_text(json.dumps({"method": "ar_adals", "points": points}))


@pytest.mark.usefixtures("text_alone")
def test_figure_5_is_of_a_sweep_over_r_alone(workdir, evaluation):
    sweep(workdir, "ar_adals-alpha-num_subsets", ({"alpha": 0.1, "num_subsets": 1}, 0.9, 0.9))
    assert series.sensitivity(workdir) == {}
    by_r = {10: (0.02, 0.08), 1: (0.06, None), 4: (0.03, 0.1)}
    sweep(workdir, "ar_adals-num_subsets", *(({"num_subsets": r}, *ece) for r, ece in by_r.items()))
    found = series.sensitivity(workdir)["ar_adals"]
    assert {r: (of["ece"][0], of["ece_under_shift"][0]) for r, of in found.items()} == by_r
    assert list(found) == [1, 4, 10]
    (panel,) = paper_figures.build(evaluation, workdir)[5].panels
    assert "clean test set 6.0 at R = 1 and 2.0 at R = 10" in panel.description
    # Each R with a value of its own, the least and the largest that have one.
    assert "under shift 10.0 at R = 4 and 8.0 at R = 10" in panel.description


def test_distances_are_those_of_the_source(workdir, evaluation, monkeypatch):
    """A folder, named from where one stands; its subsets are of another number than the page's levels."""
    folder = workdir / "elsewhere"
    folder.mkdir()
    np.savez(folder / "train.npz", distance=np.linspace(0.1, 0.5, 9), subset=np.arange(9) % 2)
    np.savez(folder / "test.npz", score=np.arange(9.0), subset=np.arange(9) // 2)
    monkeypatch.chdir(workdir)
    evaluation["experiment"]["ranking"] |= {"source": "elsewhere", "sources": ["elsewhere"]}
    evaluation["experiment"]["num_subsets"] = 3
    *_, section = sections.build(evaluation, workdir)
    # The scores of a control are no distances.
    (panel,) = section.panels
    assert "median 0.300; 0 of 9 images" in panel.description
    assert "level 3 (most robust)" in panel.svg
    (folder / "train.npz").unlink()
    evaluation["experiment"]["ranking"] |= {"by": "confidence", "attack": None, "settings": {}}
    page = write(workdir, evaluation)
    assert "not run: ranking by an attack" in page
    assert "by confidence (a control, without adversarial robustness levels), elsewhere" in page


def test_soft_labels_are_averaged_and_need_to_adapt(workdir):
    epochs, values = series.soft_labels(workdir, "ar_adals", [0, 1])
    assert epochs.tolist() == [1, 2, 3, 4]
    # epoch 1, least robust of 5: 1 - 0.05 on seed 0, 0.02 less on seed 1
    assert values[0] == pytest.approx([0.94, 0.95, 0.96, 0.97, 0.98])
    assert series.soft_labels(workdir, "vanilla", [0, 1]) is None
    assert series.soft_labels(workdir, "mixup", [0]) is None


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

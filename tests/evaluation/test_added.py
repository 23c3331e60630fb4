"""Predictions from elsewhere, by the command itself."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.special

from arada import add
from arada.evaluation import schema
from arada.experiment import Experiment
from arada.reporting import page
from arada.runtime import files
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

ROOT = pathlib.Path(__file__).parents[2]
CLASSES, COUNT = 4, 40


def save(path, *, seed=0, count=COUNT, classes=CLASSES, **arrays):
    """A file of random predictions; arrays that are None are left out."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % classes
    made = {"logits": 2 * np.eye(classes)[label] + rng.normal(0, 1, (count, classes)), "label": label} | arrays
    np.savez(path, **{name: value for name, value in made.items() if value is not None})
    return path


def run(workdir, name, *arguments):
    add.main([f"--workdir={workdir}", f"--name={name}", *arguments])


@pytest.fixture
def refused(capsys):
    """refused(workdir, name, *arguments) -> the one line that the command ends with; nothing is written."""

    def of(workdir, name, *arguments):
        before = sorted(workdir.rglob("*")) if workdir.exists() else None
        with pytest.raises(SystemExit) as ended:
            run(workdir, name, *arguments)
        assert (sorted(workdir.rglob("*")) if workdir.exists() else None) == before
        message = str(ended.value)
        assert message.startswith("error: ")
        assert "\n" not in message
        return message

    return of


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A report of two networks' predictions, one of them with two seeds, all that can be given."""
    path = tmp_path_factory.mktemp("alone")
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        number = 10 * seed + ord(name)
        sets = {of: save(path / f"{name}_{seed}_{of}.npz", seed=number + i) for i, of in enumerate(("test", "noise_2"))}
        validation = save(path / f"{name}_{seed}_validation.npz", seed=number + 5, count=60)
        ood = save(path / f"{name}_{seed}_ood.npz", seed=number + 6, label=None)
        more = () if (name, seed) == ("b", 0) else ("--more_to_come",)
        arguments = f"--seed={seed}", f"--test={sets['test']}", f"--validation={validation}"
        run(path / "w", name, *arguments, "--shifted", f"noise@2={sets['noise_2']}", "--ood", f"far/away={ood}", *more)
    return path / "w"


def test_the_report_is_of_these_predictions_alone(alone):
    evaluation = files.read_json(alone / "evaluation.json")
    assert {name: method["seeds"] for name, method in evaluation["methods"].items()} == {"a": [0, 1], "b": [0]}
    stored = np.load(alone.parent / "a_1_test.npz")
    measured = evaluation["methods"]["a"]["runs"]["1"]
    assert measured["test"]["accuracy"] == np.mean(stored["logits"].argmax(axis=-1) == stored["label"])
    log_p = scipy.special.log_softmax(stored["logits"], axis=-1)[np.arange(COUNT), stored["label"]]
    assert measured["test"]["nll"] == pytest.approx(-log_p.mean(), rel=1e-5)
    assert set(measured["calibrated"]) == {"temperature", "ets"}
    assert set(measured["shift"]) == {"noise"}
    assert 0 < measured["ood"]["far/away"]["auroc_confidence"] < 1
    assert evaluation["methods"]["a"]["variance"]["test"] > 0
    assert set(evaluation["methods"]["b"]["uncertainty"]["plain"]["images"]["differences"]) == {"test", "shift"}
    text = (alone / "report" / "tables.md").read_text()
    assert "Differences from a" in text
    assert "predictions from elsewhere, at severity 2" in text
    for of_paper in ("Table 1", "Label smoothing", "Figure"):
        assert of_paper not in text
    assert page.header(schema.read(alone))["Ranking"] == "not run"


def test_probabilities_give_what_their_logits_give(tmp_path):
    logits = np.load(save(tmp_path / "l.npz"))["logits"]
    save(tmp_path / "p.npz", logits=None, probabilities=scipy.special.softmax(logits, axis=-1))
    np.save(tmp_path / "p.npy", scipy.special.softmax(logits, axis=-1).astype(np.float16))
    np.save(tmp_path / "y.npy", np.arange(COUNT, dtype=np.uint8) % CLASSES)
    run(tmp_path / "w", "logits", f"--test={tmp_path}/l.npz")
    run(tmp_path / "w", "probabilities", f"--test={tmp_path}/p.npz")
    run(
        tmp_path / "w",
        "arrays",
        f"--test={tmp_path}/p.npy,{tmp_path}/y.npy",
        "--kind=probabilities",
        "--reference=arrays",
    )
    evaluation = files.read_json(tmp_path / "w" / "evaluation.json")
    of = {name: method["runs"]["0"]["test"] for name, method in evaluation["methods"].items()}
    assert of["probabilities"] == pytest.approx(of["logits"], rel=1e-5)
    assert of["arrays"]["nll"] == pytest.approx(of["logits"]["nll"], rel=1e-3)
    assert evaluation["experiment"]["reference"] == "arrays"
    # Without validation images there is nothing to calibrate on.
    assert evaluation["methods"]["logits"]["runs"]["0"]["calibrated"] == {}


def uniform(count=COUNT, classes=CLASSES):
    return np.full((count, classes), 1 / classes)


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"logits": None}, (), r"has neither logits nor probabilities; it has label"),
        ({"label": None}, (), r"has no label; it has logits"),
        ({"logits": np.zeros(COUNT)}, (), r"numbers \[images, classes\], not float64 \[40\]"),
        ({"logits": np.zeros((COUNT, 1))}, (), r"not float64 \[40, 1\]"),
        (
            {"logits": np.full((COUNT, CLASSES), np.nan)},
            (),
            r"40 of 40 images have NaN or infinity, the first in row 0",
        ),
        ({"logits": uniform()}, (), r"look like probabilities: .* add --kind=probabilities, or --kind=logits"),
        ({"logits": None, "probabilities": 0.9 * uniform()}, (), r"but 40 of 40 images differ; row 0 sums to 0.9\."),
        ({}, ("--kind=probabilities",), r"but 40 of 40 images differ; .* Add --kind=logits if they are logits"),
        ({"label": np.full(COUNT, 4)}, (), r"labels range from 4 to 4, but there are 4 classes"),
        ({"label": np.zeros((COUNT, CLASSES), int)}, (), r"label is int64 \[40, 4\]; it must be 40 whole numbers"),
        ({"label": np.zeros(COUNT)}, (), r"label is float64 \[40\]"),
        ({"example_id": np.zeros(COUNT, int)}, (), r"duplicate values in example_id: 1, the first is 0"),
        ({"example_id": np.arange(COUNT) - 1}, (), r"example_id ranges from -1 to 38"),
        ({"label": np.array([{}] * COUNT)}, (), r"cannot be read as npz"),
        ({}, ("--seed=-1",), r"--seed=-1 must be 0 or above"),
        ({}, ("--reference=other",), r"--reference=other is unknown; choose one of new"),
        ({}, ("--shifted", "noise=x.npz"), r"--shifted noise=x.npz: it takes NAME@SEVERITY=FILE"),
        ({}, ("--ood", "far"), r"--ood far: it takes NAME=FILE"),
        ({}, ("--validation=nowhere.npz",), r"--validation=nowhere.npz: .*nowhere.npz does not exist"),
    ],
)
def test_files_that_cannot_be_right(tmp_path, refused, arrays, arguments, message):
    file = save(tmp_path / "test.npz", **arrays)
    assert re.search(message, refused(tmp_path / "w", "new", f"--test={file}", *arguments))


def test_commands_that_say_too_little(tmp_path, refused):
    assert "needs --name and --test" in refused(tmp_path / "w", "new")
    with pytest.raises(SystemExit, match="holds no runs; add predictions"):
        add.main([f"--workdir={tmp_path}/w", "--reference=new"])


def test_a_file_that_is_no_npz(tmp_path, refused):
    (tmp_path / "test.npz").write_bytes(b"nothing of the kind")
    assert "cannot be read as npz" in refused(tmp_path / "w", "new", f"--test={tmp_path}/test.npz")
    assert "give one .npz file, or .npy files" in refused(tmp_path / "w", "new", f"--test={save(tmp_path / 'a.npz')},b")


def test_what_contradicts_the_report(alone, tmp_path, refused):
    def of(message, *arguments, name="c", **arrays):
        file = save(tmp_path / "test.npz", **arrays)
        assert re.search(message, refused(alone, name, f"--test={file}", *arguments))

    of(r"--name=a --seed=0 exists already", name="a")
    of(r"--validation is not given, unlike for a/seed_0", "--seed=2", name="a")
    of(r"--name='a/b' must be a folder's name", name="a/b")
    of(r"--test has 3 classes, but .* has 4", classes=3)
    of(
        r"labels of 40 of 40 images contradict .*; the first is example_id 0: 1 here, 0 there",
        label=(np.arange(40) + 1) % 4,
    )
    of(r"has no example_id, which joins its images with those of", count=39)
    of(r"1 of its 40 example_id are not in .*, the first is 99", example_id=np.array([*range(39), 99]))
    of(r"lacks 1 of the 40 images of .*, the first is 39", count=39, example_id=np.arange(39))
    of(r"--dataset=other, but the data of .* are w; leave the option out", "--dataset=other")
    with pytest.raises(SystemExit, match="--reference=c is unknown; choose one of a, b"):
        add.main([f"--workdir={alone}", "--reference=c"])
    shifted = save(tmp_path / "shifted.npz")
    of(r"noise has severities \[1\], but the report has \[2\]", "--shifted", f"noise@1={shifted}")
    of(r"--shifted cifar10@2 must name one type", "--shifted", f"cifar10@2={shifted}")
    other = save(tmp_path / "other.npz", label=(np.arange(40) + 1) % 4)
    of(r"labels of 40 of 40 images contradict .*noise_2", "--shifted", f"noise@2={other}")


def of_experiment():
    """The config of an experiment that takes seconds."""
    config = digits.get_config("vanilla,testing")
    quick = {"seeds": (0,), "training.epochs": 1, "ranking.attack": "fmn", "ranking.fmn.steps": 2}
    config.update_from_flattened_dict(quick | {"evaluation.shifts": ("noise",)})
    return config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment that is evaluated and has a ranking."""
    path = tmp_path_factory.mktemp("experiment")
    Experiment(of_experiment(), path).run()
    return path


def test_a_method_beside_those_of_an_experiment(experiment, tmp_path, refused):
    before = files.read_json(experiment / "evaluation.json")
    copied = {}
    rng = np.random.default_rng(0)
    for name in ("test", "validation", "noise_1", "noise_5", "ood_photographs"):
        stored = np.load(experiment / "predictions" / "vanilla" / "seed_0" / f"{name}.npz")
        order = rng.permutation(len(stored["label"]))
        copied[name] = tmp_path / f"{name}.npz"
        arrays = {"logits": stored["logits"][0], "label": stored["label"], "example_id": stored["example_id"]}
        np.savez(copied[name], **{key: value[order] for key, value in arrays.items()})
    message = refused(experiment, "vanilla", "--seed=5", f"--test={copied['test']}")
    assert "--name=vanilla is a method that was trained" in message
    message = refused(experiment, "copy", f"--test={copied['test']}", "--shifted", f"fog@1={copied['noise_1']}")
    assert "the experiment has no shift 'fog'; it has noise" in message
    run(
        *(experiment, "copy", f"--test={copied['test']}", f"--validation={copied['validation']}"),
        *("--shifted", f"noise@1={copied['noise_1']}", f"noise@5={copied['noise_5']}"),
        *("--ood", f"photographs={copied['ood_photographs']}"),
    )
    after = files.read_json(experiment / "evaluation.json")
    for name in before["methods"]:
        assert after["methods"][name] == before["methods"][name]
    ignored = {"train_accuracy", "images_per_second"}
    of_copy, of_ours = (after["methods"][name]["runs"]["0"] for name in ("copy", "vanilla"))
    assert of_copy["subsets"]["count"]
    for part in of_ours.keys() - ignored:
        assert of_copy[part] == of_ours[part], part
    # The experiment goes on beside it, and its own commands keep what was added.
    Experiment(of_experiment(), experiment).run("evaluate")
    assert files.read_json(experiment / "evaluation.json")["methods"].keys() == after["methods"].keys()


def test_what_was_never_evaluated_takes_nothing(tmp_path, refused):
    config = digits.get_config("vanilla,testing")
    config.update_from_flattened_dict({"seeds": (0,), "training.epochs": 1})
    Experiment(config, tmp_path / "w").run("train")
    file = save(tmp_path / "test.npz", classes=10)
    assert "has runs that are not evaluated; run --stage=evaluate first" in refused(
        tmp_path / "w", "c", f"--test={file}"
    )


def test_the_page_s_commands_run(tmp_path):
    text = (ROOT / "docs" / "own_predictions.md").read_text()
    exec_in = {"cwd": tmp_path, "check": True, "capture_output": True}
    python, bash = (re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for language in ("python", "bash"))
    subprocess.run([sys.executable, "-c", python[0]], **exec_in)
    command = (bash[0] + bash[1]).replace("python -m", f"PYTHONPATH={ROOT} JAX_PLATFORMS=cpu {sys.executable} -m")
    subprocess.run(["bash", "-ec", command], **exec_in)
    methods = files.read_json(tmp_path / "workdir" / "mine" / "evaluation.json")["methods"]
    # Twice the scale of the same problem: the first is far more confident.
    assert files.read_json(tmp_path / "workdir" / "mine" / "evaluation.json")["experiment"]["reference"] == "vit"
    confidence = {name: method["runs"]["0"]["test"]["confidence"] for name, method in methods.items()}
    assert confidence["resnet"] > confidence["vit"] + 0.1


def test_no_trained_network_is_needed():
    """What takes long to import is not imported."""
    heavy = ("tensorflow", "tensorflow_datasets", "matplotlib", "clu")
    script = f"import sys, arada.evaluation.added; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"

"""Networks, methods and data of others, from config files outside the package: those of docs/own_network.md."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import arada
from arada import data, methods, models
from arada.errors import UserError
from arada.experiment import Experiment
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROOT = pathlib.Path(__file__).parents[1]
VIT, LOAD, METHOD, DATA = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "own_network.md").read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """Names that a test registers are gone after it."""
    registries = models.BY_NAME, methods.BY_NAME, data.REGISTERED
    before = [(dict(of), dict(of.files)) for of in registries]
    yield
    for of, (names, at) in zip(registries, before, strict=True):
        of.clear()
        of.update(names)
        of.files.clear()
        of.files.update(at)


def loaded(folder, name, text, presets, **overrides):
    """The config of a config file with this text, with what makes it quick."""
    file = folder / name
    file.write_text(text)
    config = runpy.run_path(str(file))["get_config"](presets)
    quick = {"seeds": (0,), "training.epochs": 1, "ranking.by": "random", "evaluation.shifts": ()}
    config.update_from_flattened_dict(quick | overrides)
    return config


@pytest.fixture(scope="module")
def of_vit(tmp_path_factory):
    """A stranger's network, trained through all stages by the page's command in a process of its own."""
    path = tmp_path_factory.mktemp("vit")
    (path / "my_vit.py").write_text(VIT)
    command = [sys.executable, "-m", "arada.main", "--config=my_vit.py:ar_adals,testing", "--workdir=workdir/my_vit"]
    quick = "seeds=(0,)", "training.epochs=1", "ranking.attack=fmn", "ranking.fmn.steps=2", "run.num_devices=2"
    quick += "evaluation.shifts=()", "evaluation.out_of_distribution=()"
    command += [f"--config.{field}" for field in quick]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def test_a_stranger_s_network_goes_through_all_stages(of_vit):
    workdir = Workdir(of_vit / "workdir" / "my_vit")
    evaluation = files.read_json(workdir.evaluation)
    assert evaluation["experiment"]["network"] == "my_vit"
    assert set(evaluation["methods"]) == {"ar_adals"}
    assert evaluation["methods"]["ar_adals"]["runs"]["0"]["subsets"]["count"]
    ranking = files.read_npz(workdir.ranking("vanilla/seed_0") / "train.npz")
    assert np.isfinite(ranking["distance"]).mean() > 0.9
    assert (workdir.path / "report" / "index.html").exists()
    made = workdirs.stored(workdir.run("vanilla", 0))["made_with"]
    assert made["registered"] == {"model.name 'my_vit'": str(of_vit / "my_vit.py")}


def test_load_says_what_to_load_first(of_vit, monkeypatch):
    monkeypatch.chdir(of_vit)
    run = "workdir/my_vit/runs/ar_adals/seed_0"
    file = re.escape(str(of_vit / "my_vit.py"))
    with pytest.raises(UserError, match=rf"has the network 'my_vit', which {file} registers; load that file first"):
        arada.load(run)
    namespace = {}
    exec(LOAD, namespace)
    logits = namespace["logits_fn"](namespace["variables"], np.zeros((2, 8, 8, 1), np.uint8))
    assert logits.shape == (2, 10)
    assert "batch_stats" not in namespace["variables"] or not namespace["variables"]["batch_stats"]
    # Weights without batch statistics leave and come back.
    arrays = arada.export(run, of_vit / "vit.safetensors")
    assert arrays.stat().length > 10_000


def test_a_method_of_your_own(tmp_path):
    config = loaded(tmp_path, "bonus.py", METHOD, "testing", **{"training.epochs": 2})
    Experiment(config, tmp_path / "w").run("train")
    identity = workdirs.stored(Workdir(tmp_path / "w").run("entropy_bonus", 0))["identity"]
    assert identity["method"] == {"name": "entropy_bonus", "weight": 0.1}
    config.method.entropy_bonus.weigth = 1.0
    with pytest.raises(
        UserError, match=r"method.name 'entropy_bonus' does not accept its fields of the config.*weigth"
    ):
        Experiment(config, tmp_path / "w2")


def test_a_method_of_your_own_without_soft_labels(tmp_path, caplog):
    """It learns nothing, and its run goes on from a checkpoint."""
    text = METHOD.replace("arada.methods.SoftLabels", "arada.methods.Method").replace(
        "losses, logits, batch_stats = super().loss(network, images, batch, learnt, key)",
        "logits, batch_stats = network.forward(images)\n        losses = jnp.square(logits).sum(axis=-1)",
    )
    often = {"training.epochs": 2, "run.checkpoint_every_steps": 1}
    config = loaded(tmp_path, "bonus.py", text, "testing", **often)
    Experiment(config, tmp_path / "w").run("train")
    run = Workdir(tmp_path / "w").run("entropy_bonus", 0)
    rows = files.read_json_lines(run / "metrics.jsonl")
    logged = {name for row in rows for name in row}
    assert "validation/gap/subset_00" in logged
    assert not any(name.startswith("soft_label") for name in logged)
    last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    last.rmtree()
    with caplog.at_level("INFO"):
        Experiment(config, tmp_path / "w").run("train")
    assert "entropy_bonus/seed_0: resuming at step " in caplog.text
    assert last.exists()
    config.soft_labels.epsilon = 0.1
    with pytest.raises(UserError, match=r"soft_labels.epsilon 0.1, but method.name 'entropy_bonus' has no soft labels"):
        Experiment(config, tmp_path / "w2")


def test_data_of_your_own(tmp_path):
    config = loaded(tmp_path, "my_data.py", DATA, "ar_adals,testing", **{"soft_labels.num_subsets": 4})
    Experiment(config, tmp_path / "w").run()
    evaluation = files.read_json(tmp_path / "w" / "evaluation.json")
    assert (evaluation["experiment"]["dataset"], evaluation["experiment"]["num_classes"]) == ("stripes", 4)
    config.data.contrast = 1.0
    with pytest.raises(UserError, match=r"data.source 'stripes' does not accept the fields of config.data: .*contrast"):
        _ = Experiment(config, tmp_path / "w2").splits


class Wrong(nn.Module):
    """Makes mistakes, one at a time."""

    num_classes: int
    mistake: str = ""

    @nn.compact
    def __call__(self, x, train=False):
        if self.mistake == "dropout":
            x = nn.Dropout(0.5, deterministic=not train)(x)
        if self.mistake == "state":
            self.variable("memory", "last", lambda: jnp.zeros(3))
        x = x.reshape(len(x), -1)
        return nn.Dense(self.num_classes + (self.mistake == "classes"))(
            x if self.mistake != "train" or train else x[:1]
        )


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("classes", r"model.name 'wrong': it returns \[2, 11\] for 2 images; logits of 10 classes are \[2, 10\]"),
        ("train", r"'wrong': it returns \[1, 10\] for 2 images"),
        ("dropout", r"'wrong': it cannot be run on images of \(2, 8, 8, 1\): .*dropout"),
        ("state", r"'wrong': it has variables 'memory', but only params and batch_stats are trained"),
    ],
)
def test_networks_that_cannot_be_trained(tmp_path, mistake, message):
    models.register("wrong", Wrong)
    config = digits.get_config("testing")
    config.model = {"name": "wrong", "mistake": mistake}
    with pytest.raises(UserError, match=message):
        Experiment(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    config.model = {"name": "wrong", "colour": "blue"}
    with pytest.raises(UserError, match=r"model.name 'wrong': .* unexpected keyword argument 'colour'"):
        Experiment(config, tmp_path / "w")


def test_names_of_our_own_are_not_given_away():
    for register, name in ((models.register, "resnet_v1"), (methods.register, "mixup"), (data.register, "tfds")):
        with pytest.raises(ValueError, match=f"'{name}' is built in; choose another name"):
            register(name, methods.SoftLabels)
    with pytest.raises(ValueError, match="register a Python identifier such as 'my_net'"):
        models.register("a/b", Wrong)
    models.register("wrong", Wrong)
    models.register("wrong", Wrong)
    assert models.BY_NAME.files["wrong"] == str(pathlib.Path(__file__).resolve())
    assert isinstance(trained.build_model(with_model({"name": "wrong"})), Wrong)


def with_model(model):
    config = digits.get_config("testing")
    config.model = model
    return config

"""Runs that start from the weights of others."""

import json

import jax
import numpy as np
import pytest

from arada.errors import UserError
from arada.experiment import Experiment
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.workdir import Workdir
from arada.runtime import files, preemption
from arada.training.state import fingerprint
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")


def tiny(presets, **overrides):
    config = digits.get_config(f"{presets},testing")
    # Ranks that need no attack, for the time it takes.
    config.update_from_flattened_dict({"seeds": (0, 1), "ranking.by": "random", "evaluation.shifts": (), **overrides})
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with two vanilla runs, a ranking, and AR-AdaLS fine-tuned from each."""
    path = tmp_path_factory.mktemp("finetuning")
    for stage in ("train", "rank"):
        Experiment(tiny("vanilla", **{"training.epochs": 1}), path).run(stage)
    Experiment(tiny("ar_adals,finetune", **{"training.epochs": 2}), path).run("train")
    return Workdir(path)


def identity(workdir, name, seed):
    return workdirs.stored(workdir.run(name, seed))["identity"]


def test_each_seed_starts_from_its_own_run(workdir, tmp_path):
    for seed in (0, 1):
        weights = trained.final_variables(workdir.run("vanilla", seed))
        assert identity(workdir, "ar_adals_finetuned", seed)["init_weights"] == fingerprint([weights])
    # A learning rate of nothing: the weights and the normalisation are those of the source, statistics move.
    config = tiny("finetune", **{"optimizer.learning_rate": 1e-30, "optimizer.l2": 0.0, "name": "still"})
    Experiment(config, workdir.path).run("train")
    for seed in (0, 1):
        still, source = (trained.final_variables(workdir.run(name, seed)) for name in ("still", "vanilla"))
        for part in ("params", "normalization"):
            jax.tree.map(np.testing.assert_array_equal, still[part], source[part])
        assert fingerprint(still["batch_stats"]) != fingerprint(source["batch_stats"])


def test_a_killed_run_ends_with_the_same_numbers(workdir, monkeypatch):
    config = tiny("ar_adals,finetune", **{"training.epochs": 2, "name": "killed", "seeds": (0,)})
    monkeypatch.setattr(preemption, "is_last", lambda step: step == 3)
    with pytest.raises(preemption.Stopped):
        Experiment(config, workdir.path).run("train")
    monkeypatch.undo()
    Experiment(config, workdir.path).run("train")
    ends = (trained.final_variables(workdir.run(name, 0)) for name in ("killed", "ar_adals_finetuned"))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_other_weights_are_another_run(workdir, tmp_path):
    """The record is what tells: a run begun from weights that have since changed is refused."""
    run_dir = workdir.run("other", 0)
    config = tiny("ar_adals,finetune", **{"name": "other", "seeds": (0,)})
    source = tiny("ar_adals,finetune", **{"name": "other", "seeds": (0,), "training.init_from": "vanilla/seed_1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "is_last", lambda step: step == 1)
        with pytest.raises(preemption.Stopped):
            Experiment(config, workdir.path).run("train")
    with pytest.raises(UserError, match=r"init_from was vanilla/seed_{seed} and is now vanilla/seed_1"):
        Experiment(source, workdir.path).run("train")
    stored = files.read_json(run_dir / "config.json")
    stored["identity"]["init_weights"] += 1
    (run_dir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"was made with another config: init_weights was \d+ and is now \d+"):
        Experiment(config, workdir.path).run("train")


def test_it_is_predicted_and_compared(workdir):
    Experiment(tiny("vanilla", **{"training.epochs": 1}), workdir.path).run("evaluate")
    Experiment(tiny("ar_adals,finetune", **{"training.epochs": 2}), workdir.path).run("evaluate")
    methods = files.read_json(workdir.evaluation)["methods"]
    assert {"vanilla", "ar_adals_finetuned"} <= set(methods)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"training.init_from": "adals/seed_0"},
            r"names adals/seed_0, but .* has no such run \(there: .*vanilla/seed_0",
        ),
        ({"seeds": (0, 2)}, r"names vanilla/seed_2, but .* has no such run"),
        ({"training.normalization": "unit"}, r"normalization is 'standardize', not 'unit'; set it to the same"),
    ],
)
def test_what_cannot_be_started_from(workdir, overrides, message):
    before = workdir.runs()
    with pytest.raises(UserError, match=message):
        Experiment(tiny("ar_adals,finetune", name="new", **overrides), workdir.path).run("train")
    assert workdir.runs() == before


def test_nothing_trains_vanilla_on_the_way(tmp_path):
    """Its epochs would be those of fine-tuning."""
    with pytest.raises(UserError, match=r"has no such run \(there: none\); train or import it first"):
        Experiment(tiny("ar_adals,finetune"), tmp_path).run()
    with pytest.raises(UserError, match=r"needs vanilla/seed_0, which has not finished training; .* preset vanilla"):
        Experiment(tiny("ar_adals,finetune"), tmp_path).run("vanilla")
    assert not Workdir(tmp_path).runs()


def test_members_in_lockstep_start_from_runs_of_their_own(workdir):
    config = tiny("ar_adals_of_ensemble,finetune", **{"seeds": (0,)})
    Experiment(config, workdir.path).run("train")
    weights = [trained.final_variables(workdir.run("vanilla", seed)) for seed in (0, 1)]
    assert identity(workdir, "ar_adals_of_ensemble_finetuned", 0)["init_weights"] == fingerprint(weights)
    source = {"training.init_from": "ar_adals_of_ensemble_finetuned/seed_0", "seeds": (0,), "name": "new"}
    with pytest.raises(UserError, match="is an ensemble; name a single run"):
        Experiment(tiny("adals,finetune", **source), workdir.path).run("train")

"""The CIFAR-10 config on real images: two steps of the full recipe, and all stages in small."""

import itertools
import os

import jax
import numpy as np
import pytest

from arada import data, soft_labels
from arada.data import moments
from arada.experiment import Experiment
from arada.runs import trained, trainer
from arada.runs.workdir import Workdir
from arada.runtime import files
from arada.training import optimizers
from arada.training.replication import Replicas
from arada.training.state import TrainState
from configs import cifar10

pytestmark = [
    pytest.mark.skipif(
        "TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR names no folder with a prepared cifar10"
    ),
    pytest.mark.usefixtures("quickly_compiled"),
]


def small(**overrides):
    config = cifar10.get_config("ar_adals")
    fewer = {"data.num_train": 64, "data.num_validation": 40, "data.num_test": 20}
    config.update_from_flattened_dict({**fewer, **overrides})
    return config


def drawn(shapes):
    """Fresh weights, drawn by NumPy: compiling the drawing takes longer than the steps."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, {"scale": 1, "var": 1, "bias": 0, "mean": 0}[path[-1].key], np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def test_steps_of_the_full_recipe_are_finite_and_move_every_weight(tmp_path):
    config = small(**{"training.batch_size": 8})
    assert (config.model.depth, config.model.width, config.optimizer.name) == (29, 16, "adam")
    splits = data.load_splits(data.build(config.data, ""), config.data)
    replicas = Replicas(jax.devices()[:1])
    step = trainer.Trainer(config, Workdir(tmp_path), splits, replicas)._train_step
    variables = drawn(
        jax.eval_shape(trained.build_model(config).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    )
    state = TrainState(
        np.zeros((), np.int32),
        **variables,
        normalization=moments(splits["train"], config.training.normalization),
        opt_state=optimizers.build(config.optimizer, trained.steps_per_epoch(config)).init(variables["params"]),
    )
    states = [jax.device_get(state)]
    state, key = replicas.replicate((state, jax.random.key(0)))
    labels = replicas.replicate(soft_labels.init(10, 10))
    batches = splits["train"].epoch(8, seed=0, epoch=0)
    for _ in range(2):
        batch = next(batches)
        state, metrics = step(state, batch | {"subset": batch["label"]}, labels, key)
        states.append(jax.device_get(state))
        # log 10, more for logits at random, and the l2 term.
        assert 2 < metrics["loss"] < 8
        assert 0.1 < metrics["gradient_norm"] < 1000
    for before, after in itertools.pairwise(states):
        assert after.step == before.step + 1
        of_both = zip(*(jax.tree_util.tree_leaves_with_path(s.params) for s in (before, after)), strict=True)
        moves = {jax.tree_util.keystr(path): np.abs(now - was).max() for (path, was), (_, now) in of_both}
        # Adam at 1e-3: no first step is longer.
        assert max(moves.values()) < 2e-3
        # Biases before a batch norm cancel: the first convolution's and two of each of the nine blocks.
        still = [path for path, move in moves.items() if move == 0]
        assert len(still) == 1 + 9 * 2
        assert all("Conv" in path and path.endswith("['bias']") for path in still)
        for was, now in zip(*(jax.tree.leaves(s.batch_stats) for s in (before, after)), strict=True):
            assert np.isfinite(now).all()
            assert not np.array_equal(was, now)
        jax.tree.map(np.testing.assert_array_equal, after.normalization, before.normalization)


def test_all_stages_in_small(tmp_path, capsys):
    overrides = {
        "seeds": (0,),
        "model.depth": 11,
        "model.width": 2,
        "training.epochs": 1,
        "training.batch_size": 32,
        "soft_labels.num_subsets": 4,
        "ranking.num_subsets": 4,
        "ranking.attack": "fmn",
        "ranking.fmn.steps": 3,
        "evaluation.shifts": ("contrast",),
        "evaluation.severities": (1,),
        "evaluation.out_of_distribution": ("cmaterdb",),
        "run.num_devices": 2,
        "run.evaluation_batch_size": 20,
        "run.ranking_batch_size": 20,
        "run.log_every_steps": 1,
    }
    Experiment(small(**overrides), tmp_path).run()
    workdir = Workdir(tmp_path)
    assert workdir.runs() == [("ar_adals", 0), ("vanilla", 0)]
    ids = {}
    for name, count in {"train": 64, "validation": 40, "test": 20}.items():
        ranking = files.read_npz(workdir.ranking("vanilla/seed_0") / f"{name}.npz")
        ids[name] = set(ranking["example_id"])
        assert len(ids[name]) == count
        np.testing.assert_array_equal(np.bincount(ranking["subset"]), [count // 4] * 4)
        assert np.all(ranking["distance"] > 0)
        assert np.isfinite(ranking["distance"]).mean() > 0.9
    assert not ids["train"] & ids["validation"]
    rows = files.read_json_lines(workdir.run("ar_adals", 0) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert [rows[1][f"soft_label/subset_{r:02}"] for r in range(4)] == [1, 1, 1, 1]
    for name in ("test", "validation", "generated_contrast_1"):
        stored = files.read_npz(workdir.predictions("ar_adals", 0) / f"{name}.npz")
        assert set(stored["example_id"]) == ids["validation" if name == "validation" else "test"]
        assert np.isfinite(stored["logits"]).all()
    # Generated images are kept; Bangla numerals that nobody prepared stop nothing.
    (kept,) = tmp_path.glob("shifted/*/contrast.npy")
    assert np.load(kept, mmap_mode="r").shape == (5 * 20, 32, 32, 3)
    evaluation = files.read_json(workdir.evaluation)
    assert list(evaluation["experiment"]["ood_missing"]) == ["cmaterdb"]
    run = evaluation["methods"]["ar_adals"]["runs"]["0"]
    assert run["subsets"]["count"] == [5, 5, 5, 5]
    assert len(run["shift"]["contrast"]) == 1
    assert "<svg" in (tmp_path / "report" / "index.html").read_text()
    assert str(tmp_path / "report" / "index.html") in capsys.readouterr().out

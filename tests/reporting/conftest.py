import json
import pathlib

import numpy as np
import pytest

import arada.reporting

NUM_CLASSES, NUM_SUBSETS, EPOCHS, IMAGES = 10, 5, 4, 60


def metrics_of(accuracy, ece):
    return {
        "accuracy": accuracy,
        "confidence": accuracy + ece,
        "ece": ece,
        "ece_quantile": ece,
        "classwise_ece": ece / 10,
        "nll": 10 * ece,
        "brier": 2 * (1 - accuracy),
        "aurc": 0.01,
    }


def make_evaluation():
    """Two methods, two seeds, two types of shift at two severities; the numbers are easy to average by hand."""
    methods = {}
    for rank, name in enumerate(("vanilla", "ar_adals")):
        runs = {}
        for seed in (0, 1):
            # vanilla: ECE 0.04 and 0.06 on seeds 0 and 1; ar_adals: half of that
            ece = (0.04 + 0.02 * seed) / (1 + rank)
            runs[str(seed)] = {
                "test": metrics_of(0.9 + 0.02 * seed, ece),
                "validation": metrics_of(0.9, ece),
                "shift": {
                    "noise": [metrics_of(0.8, 2 * ece), metrics_of(0.7, 4 * ece)],
                    "blur": [metrics_of(0.8, 4 * ece), metrics_of(0.6, 6 * ece)],
                },
                "ood": {"photographs": {"auroc_confidence": 0.9, "auroc_entropy": 0.92 + 0.02 * seed}},
                "subsets": {
                    "count": [12] * NUM_SUBSETS,
                    "accuracy": [0.6, 0.8, 0.9, 1.0, None],
                    "confidence": [0.8, 0.85, 0.9, 0.98, 0.99],
                    "ece": [0.2, 0.05, 0.01, 0.02, 0.01],
                },
                "train_seconds": 12.0,
                "train_accuracy": 0.99,
            }
        variance = {"test": 0.002, "subsets": [0.01, 0.005, 0.001, 0.0, 0.0]}
        variance["shift"] = {"noise": [0.01, 0.03], "blur": [0.02, 0.04]}
        methods[name] = {"seeds": [0, 1], "runs": runs, "variance": variance}
    return {
        "experiment": {
            "dataset": "digits",
            "network": "resnet_v2-11",
            "num_classes": NUM_CLASSES,
            "num_subsets": NUM_SUBSETS,
            "num_bins": 15,
            "shift_types": ["noise", "blur"],
            "shift_severities": [1, 2],
            "shift_source": "simple",
            "shift_missing": {"fog": "no file"},
            "shift_max_examples": 1000,
            "ood": ["photographs"],
            "ood_missing": {"paintings": "not prepared"},
            "variance_of": "predicted_class",
            "ranking": {
                "source": "vanilla/seed_0",
                "by": "attack",
                "attack": "cw",
                "settings": {"max_iterations": 500},
                "success_rate": {"train": 1.0, "validation": 1.0, "test": 0.95},
                "agreement": {},
            },
            "commit": "abc123",
            "hardware": "cpu x 1",
            "versions": {"jax": "0.10.2"},
            "time": "2026-11-22 10:00 UTC",
        },
        "methods": methods,
    }


def fill(workdir, evaluation):
    """Writes the files that an experiment with these numbers leaves behind."""
    random = np.random.default_rng(0)
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    ranking = workdir / "robustness" / "vanilla" / "seed_0"
    ranking.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        distance = np.sort(random.gamma(2, 0.1, IMAGES)).astype(np.float32)
        distance[-3:] = np.inf
        subset = (np.arange(IMAGES) * NUM_SUBSETS // IMAGES).astype(np.int32)
        np.savez(ranking / f"{split}.npz", distance=distance, subset=subset)
    for name, method in evaluation["methods"].items():
        for seed in method["seeds"]:
            predictions = workdir / "predictions" / name / f"seed_{seed}"
            predictions.mkdir(parents=True)
            label = random.integers(NUM_CLASSES, size=IMAGES).astype(np.int32)
            logits = random.normal(size=(1, IMAGES, NUM_CLASSES)) + 3 * np.eye(NUM_CLASSES)[label]
            np.savez(predictions / "test.npz", label=label, logits=logits.astype(np.float32))
            run = workdir / "runs" / name / f"seed_{seed}"
            run.mkdir(parents=True)
            rows = [{"step": 1, "epoch": 0.5, "loss": 2.0}]
            for epoch in range(1, EPOCHS + 1):
                row = {"step": 2 * epoch, "epoch": float(epoch)}
                if name == "vanilla":
                    row["soft_label/subset_00"] = 1.0
                else:
                    for subset in range(NUM_SUBSETS):
                        row[f"soft_label/subset_{subset:02}"] = 1 - 0.01 * epoch * (NUM_SUBSETS - subset) - 0.02 * seed
                rows.append(row)
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fill_gallery(workdir, **arrays):
    """A gallery.npz of two classes, two images each; the last of 60 training images is no adversarial example's."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (4, 6, 5, 3), np.uint8)
    arrays = {
        "example_id": np.array([4, 17, 30, 52], np.int32),
        "label": np.array([0, 7, 0, 7], np.int32),
        "predicted": np.array([0, 7, 3, 7], np.int32),
        "predicted_after": np.array([3, 1, 0, 0], np.int32),
        "distance": np.array([0.5, 0.025, 0.0625, 1.75], np.float32),
        "rank": np.array([40, 0, 12, 56], np.int32),
        "num_ranked": np.int32(IMAGES),
        "confidence": np.array([0.99, 0.51, 0.6, 1.0], np.float32),
        "confidence_after": np.array([0.5, 0.5, 0.51, 0.5], np.float32),
        "image": image,
        "adversarial": np.clip(image / 255 + random.normal(0, 0.01, image.shape), 0, 1).astype(np.float32),
        **arrays,
    }
    np.savez(workdir / "gallery.npz", **arrays)


@pytest.fixture
def with_gallery(workdir):
    """`with_gallery(**arrays)` writes the workdir's gallery.npz, with other arrays in the place of its own."""
    return lambda **arrays: fill_gallery(workdir, **arrays)


@pytest.fixture
def evaluation():
    return make_evaluation()


@pytest.fixture
def workdir(tmp_path, evaluation):
    fill(tmp_path, evaluation)
    return tmp_path


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The folder of a report on all of this."""
    workdir = tmp_path_factory.mktemp("experiment")
    fill(workdir, make_evaluation())
    fill_gallery(workdir)
    return pathlib.Path(arada.reporting.write_report(workdir)).parent


@pytest.fixture
def page(report):
    return (report / "index.html").read_text()

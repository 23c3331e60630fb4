"""An experiment without networks: predictions, rankings and logs are drawn, evaluation.json is `summarize`'s own."""

import json

import numpy as np
from etils import epath

from arada.evaluation import predictions, summary, uncertainty
from arada.reporting.names import in_order
from arada.runs import workdir as workdirs
from arada.runs.identity import ranking_identity, run_identity
from arada.runtime import files
from configs import digits

NUM_CLASSES, NUM_SUBSETS, EPOCHS, IMAGES = 10, 5, 4, 60
SEEDS = (0, 1)
# How much larger than they should be the logits are.
METHODS = {"vanilla": 3.0, "ar_adals": 1.2}


def config_of(method):
    config = digits.get_config(f"{method},testing")
    fields = {
        "ranking.source": "vanilla/seed_0",
        "ranking.num_subsets": NUM_SUBSETS,
        "soft_labels.num_subsets": 1 if method == "vanilla" else NUM_SUBSETS,
        "evaluation.shifts": ("noise", "blur"),
        "evaluation.severities": (1, 2),
    }
    config.update_from_flattened_dict(fields)
    return config


def write(path, methods=METHODS, seeds=SEEDS):
    """Writes an experiment and returns what its evaluation.json holds."""
    workdir, random = workdirs.Workdir(epath.Path(path)), np.random.default_rng(0)
    config = config_of("vanilla")
    ranking = workdir.ranking("vanilla/seed_0")
    workdirs.claim(ranking, ranking_identity(config, "vanilla/seed_0"), config)
    ids, labels = np.arange(IMAGES, dtype=np.int32), random.integers(NUM_CLASSES, size=IMAGES).astype(np.int32)
    for split in ("train", "validation", "test"):
        distance = np.sort(random.gamma(2, 0.1, IMAGES)).astype(np.float32)
        distance[-3:] = np.inf
        subset = (ids * NUM_SUBSETS // IMAGES).astype(np.int32)
        arrays = {"example_id": ids, "distance": distance, "subset": subset, "label": labels, "predicted": labels}
        files.write_npz(ranking / f"{split}.npz", arrays)
    for method, sharpness in methods.items():
        config = config_of(method)
        for seed in seeds:
            identity = run_identity(config, seed, 1)
            for folder in (workdir.run(method, seed), workdir.predictions(method, seed)):
                workdirs.claim(folder, identity, config)
            files.write_bytes(workdir.run(method, seed) / "metrics.jsonl", _log(method, seed).encode())
            for name in predictions.dataset_names(config.evaluation):
                evidence = 2.0 if name in ("test", "validation") else 1.2
                logits = random.normal(size=(1, IMAGES, NUM_CLASSES)) + evidence * np.eye(NUM_CLASSES)[labels]
                label = np.full(IMAGES, -1, np.int32) if name.startswith("ood") else labels
                arrays = {"example_id": ids, "label": label, "logits": (sharpness * logits).astype(np.float32)}
                files.write_npz(workdir.predictions(method, seed) / f"{name}.npz", arrays)
    evaluation = summary.summarize(workdir, config_of("vanilla"))
    files.write_json(workdir.evaluation, evaluation)
    return files.read_json(workdir.evaluation)


def _log(method, seed):
    rows = [{"step": 1, "epoch": 0.5, "loss": 2.0}]
    for epoch in range(1, EPOCHS + 1):
        row = {"step": 2 * epoch, "epoch": float(epoch), "train/accuracy": 0.99, "images_per_second": 100.0}
        if method == "vanilla":
            row["soft_label/subset_00"] = 1.0
        else:
            for subset in range(NUM_SUBSETS):
                row[f"soft_label/subset_{subset:02}"] = 1 - 0.01 * epoch * (NUM_SUBSETS - subset) - 0.02 * seed
        rows.append(row)
    return "".join(json.dumps(row) + "\n" for row in rows)


def by_hand(evaluation):
    """The same with numbers that are easy to average: two types of shift at two severities."""
    evaluation["experiment"] |= {
        "network": "resnet_v2-11",
        "shift_missing": {"fog": "no file"},
        "shift_max_examples": 1000,
        "ood_missing": {"paintings": "not prepared"},
        "commit": "abc123",
        "hardware": "cpu x 1",
        "versions": {"jax": "0.10.2"},
        "time": "2026-11-22 10:00 UTC",
    }
    for rank, name in enumerate(("vanilla", "ar_adals")):
        method = evaluation["methods"][name]
        for seed, run in method["runs"].items():
            # vanilla: ECE 0.04 and 0.06 on seeds 0 and 1; ar_adals: half of that
            ece = (0.04 + 0.02 * int(seed)) / (1 + rank)
            _set(run["test"], 0.9 + 0.02 * int(seed), ece)
            _set(run["validation"], 0.9, ece)
            for name_of_type, values in {
                "noise": [(0.8, 2 * ece), (0.7, 4 * ece)],
                "blur": [(0.8, 4 * ece), (0.6, 6 * ece)],
            }.items():
                for of, (accuracy, error) in zip(run["shift"][name_of_type], values, strict=True):
                    _set(of, accuracy, error)
            run["ood"]["photographs"] |= {"auroc_confidence": 0.9, "auroc_entropy": 0.92 + 0.02 * int(seed)}
            run["subsets"] |= {
                "accuracy": [0.6, 0.8, 0.9, 1.0, None],
                "confidence": [0.8, 0.85, 0.9, 0.98, 0.99],
                "ece": [0.2, 0.05, 0.01, 0.02, 0.01],
            }
        method["variance"] = {
            "test": 0.002,
            "subsets": [0.01, 0.005, 0.001, 0.0, 0.0],
            "shift": {"noise": [0.01, 0.03], "blur": [0.02, 0.04]},
        }
    methods = in_order(evaluation)["methods"]
    for name, method in methods.items():
        for variant, of in method["uncertainty"].items():
            of["seeds"] = json.loads(json.dumps(uncertainty.over_seeds(methods, name, variant, "vanilla")))
    return evaluation | {"methods": methods}


def _set(of, accuracy, ece):
    """Chance alone gives an ECE of 0.02 on average, and up to 0.03 in 95 % of cases."""
    of |= {
        "accuracy": accuracy,
        "confidence": accuracy + ece,
        "ece": ece,
        "ece_floor": 0.02,
        "ece_p95": 0.03,
        "ece_debiased": ece - 0.01,
        "nll": 10 * ece,
        "brier": 2 * (1 - accuracy),
        "aurc": 0.01,
    }
    for key in of.keys() & {"ece_quantile", "classwise_ece"}:
        of[key] = ece if key == "ece_quantile" else ece / 10

"""The base of all configs: every field with its meaning, and the methods as presets.

A preset is a name behind the config's path, several are joined by commas: `configs/cifar10.py:ar_adals,laptop`.
Size presets change the data set's own fields and are applied first, then the method's. `finetune` comes last: it makes
any method start from the finished vanilla run of the same seed, `configs/digits.py:ar_adals,finetune`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

Overrides = Mapping[str, Any]

# Published methods with their own loss, by the names of arada/methods.
# By preset, the share of the epochs used by fine-tuning.
FINETUNING = {"finetune": 0.1, "finetune_quarter": 0.25}
RIVALS = ("mixup", "ccat", "focal", "adafocal", "dual_focal", "mbls", "acls")


def config() -> ml_collections.ConfigDict:
    """The fields of an experiment. Each data set's file sets those that are empty here ("", 0)."""
    return ml_collections.ConfigDict(
        {
            # The method's name, and the folder of its runs.
            "name": "vanilla",
            # Independent runs: each seed decides initial weights, data order and augmentation.
            "seeds": (0,),
            # The data set; fields depend on `source` (arada/data). split_seed is not one of the seeds: all runs of a
            # workdir share one split.
            "data": {},
            "model": {
                "name": "resnet_v2",
                "depth": 29,
                "width": 16,
                # "global" (statistics of the whole batch) or "per_device".
                "batch_norm": "global",
                # Running statistics average about the last 1 / (1 - momentum) steps; keep this below an epoch,
                # because soft labels learn from validation, which uses them. Keras uses 0.99 for this network.
                "batch_norm_momentum": 0.99,
                # Of the arithmetic, "float32" or "bfloat16"; rankings are always float32.
                "dtype": "float32",
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": 1e-3,
                # ((epoch, factor), ...): from that 0-based epoch on the learning rate is multiplied by the factor.
                "decay": (),
                "warmup_epochs": 0.0,
                # For "sgd" only.
                "momentum": 0.9,
                "nesterov": True,
                # l2 * sum of w^2, without the half, over "convolutions" (kernels only), "kernels_and_biases" (all but
                # batch norm) or "everything".
                "l2": 1e-4,
                "l2_on": "convolutions",
            },
            "training": {
                "epochs": 0,
                # Global; divided among the devices. The last partial batch of an epoch is dropped (Keras keeps it).
                "batch_size": 0,
                # Parts of a batch that go through the network one after the other, for a batch that does not fit.
                # Batch norm then takes the statistics of each part.
                "accumulate": 1,
                # The run of this workdir whose final weights a run starts from, such as "vanilla/seed_0", or
                # "vanilla/seed_{seed}" for one run per seed; "" for fresh weights.
                "init_from": "",
                # "none", "flip", "shift_and_flip" (Keras), "crop_and_flip" (2 black pixels around, edward2).
                # ImageNet's random crops and flips are part of its data.
                "augmentation": "none",
                # "mean_image" (subtract the mean of each pixel) or "standardize" (each channel), of training images;
                # "cifar" (edward2's constants), "imagenet" (torchvision's); "unit" leaves them in [0, 1].
                "normalization": "standardize",
            },
            "soft_labels": {
                # R; 1 needs no ranking.
                "num_subsets": 1,
                # Smoothing at the start, eq. (1).
                "epsilon": 0.0,
                # Whether eq. (3) updates the soft labels after every epoch, with learning rate alpha.
                "adaptive": False,
                # ((first epoch, alpha), ...).
                "alpha": ((0, 0.005),),
                # How much subsets share their gaps (arada/soft_labels.py, `shrink`): 0 is the paper's rule,
                # 1 shrinks the gaps towards their mean by the part of their spread that sampling explains.
                "shrinkage": 0.0,
            },
            # The loss of a batch (arada/methods, whose classes explain the fields). All methods use the soft labels
            # above: mixup mixes them, CCAT makes them more uniform, focal losses weight their cross-entropy.
            "method": {
                # "cross_entropy" (vanilla, label smoothing, AdaLS and AR-AdaLS), "mixup", "ccat", "focal", "adafocal",
                # "dual_focal", "mbls", "acls".
                "name": "cross_entropy",
                # The paper's beta, for the lowest calibration error.
                "mixup": {"beta": 0.2, "per_example": False},
                # The paper's radius, step size and steps, and CCAT's own rho. The step size is not the length of a
                # step, see arada/methods/ccat.py.
                "ccat": {"radius": 0.01, "step_size": 0.025, "steps": 10, "rho": 10.0},
                "focal": {"gamma": 3.0},
                # The settings of its authors.
                "adafocal": {
                    "gamma": 1.0,
                    "num_bins": 15,
                    "rate": 1.0,
                    "lowest": -2.0,
                    "highest": 20.0,
                    "switch": 0.2,
                },
                # Settings of the authors' code; "dual_focal" has none there (arada/methods/focal.py).
                "dual_focal": {"gamma": 5.0},
                "mbls": {"margin": 10.0, "weight": 0.1},
                "acls": {"margin": 10.0, "weight": 0.1, "on_predicted": 1.0, "on_others": 0.1},
            },
            # An ensemble: several networks whose probabilities are averaged.
            "ensemble": {
                "members": 1,
                # The method whose runs are averaged: seeds s * members ... for the ensemble's seed s; "" to
                # train the members in lockstep, with the soft labels learnt from their mean prediction.
                "of": "",
                # In lockstep: "shared" (all use the ranks of `ranking.source`) or "per_member" (each uses the ranks of
                # the vanilla run of its own seed). The paper does not say.
                "ranks": "shared",
            },
            "ranking": {
                # The run whose ranks are used: "vanilla/seed_0" for all methods and seeds of a workdir, or
                # "vanilla/seed_{seed}", the vanilla run of the same seed (the paper does not say which
                # it did). Or a folder with train.npz and validation.npz.
                "source": "vanilla/seed_0",
                # "attack", or one of two controls: "confidence" (of the source run, least confident first), "random"
                # (drawn by the seed of the source).
                "by": "attack",
                # A second attack on the same source needs its own folder below the first one's.
                "folder": "",
                # "fmn", "cw" (the paper's), "sdf" or "first_order". docs/attacks.md has the study that chose.
                "attack": "fmn",
                # The number of subsets in files and figures, and for "first_order"'s choice of images to measure
                # again; training uses soft_labels.num_subsets.
                "num_subsets": 10,
                # On the fly: training and validation images are ranked again, by the current weights, after
                # these epochs, counted from 1, and after every refresh_every epochs (0: never). Soft labels stay with
                # their subset; images move.
                "refresh_epochs": (),
                "refresh_every": 0,
                # The attack of a refresh, or "estimate": the distance to the linearised boundary by one gradient, which
                # ranks, but finds no adversarial image. "" for `attack`.
                "refresh_attack": "",
                # The ranks before the first refresh (the paper does not say): "precomputed" (the ranks by `source`),
                # or "one_subset" (all images share one soft label, as in AdaLS; every subset starts from it).
                "before_refresh": "precomputed",
                # The paper's settings (A.4); initial_const, confidence and abort_early are cleverhans' defaults but
                # for abort_early, which there is a decision for a whole batch.
                "cw": {
                    "binary_search_steps": 3,
                    "max_iterations": 500,
                    "learning_rate": 0.005,
                    "initial_const": 0.01,
                    "confidence": 0.0,
                    "abort_early": False,
                },
                "fmn": {"steps": 10},
                # rounds * (steps * candidates + 1) gradients an image.
                "sdf": {"rounds": 3, "steps": 3, "candidates": 1},
                # One gradient per candidate; images with an undecided subset get `refine_steps` of fmn (0: none).
                "first_order": {"candidates": 1, "refine_steps": 0},
                "estimate": {"candidates": 1},
            },
            "evaluation": {
                # Bins of the calibration error. The paper gives no number; its scripts use 15, of equal width.
                "num_bins": 15,
                # Which probability the variance over runs takes (arada/metrics/stability.py). The paper's formula
                # has one number a run and example. With each run's own maximum it could not reach the 0.116 of the
                # paper's Table 5, because maxima of one image seldom differ by more than a half; with one class fixed
                # for all runs it can.
                "variance_of": "predicted_class",
                # Where shifted images come from (arada/data/shifted/sources.py): "simple", "generated", "published" or
                # "tfds". Their predictions are stored side by side; evaluation.json holds the metrics of one.
                "shift_source": "simple",
                # Types, or a list of them: "simple" (six), and the paper's "cifar10" (19), "cifar100" (17) and
                # "imagenet" (15).
                "shifts": ("simple",),
                "severities": (1, 2, 3, 4, 5),
                # Test images of each shifted set, drawn by a separate seed; 0 for all.
                "max_examples_per_shift": 0,
                # ImageNet-C is cropped to 224 pixels before it is corrupted. The paper's script crops once more, which
                # enlarges it; whether the paper did is not known.
                "crop_shifted": False,
                # The stored form of shifted predictions: "logits", or "summaries" (arada/evaluation/compact.py), an
                # eighteenth of the space for 1,000 classes. They cannot fit another calibrator, variances take
                # each image's 20 largest probabilities, and an ensemble's need a pass over all its members.
                "store_shifted": "logits",
                # The ranking of the test images that gives the robustness subsets of reports: "source" (of
                # `ranking.source`, the same for all methods), or "own" (each single run attacks them itself, as much
                # work as a ranking of the test split a run). The paper does not say.
                "subsets_of": "source",
                # The method that all others are compared with, by paired differences and their intervals.
                "reference": "vanilla",
                # The metric of the validation set that a sweep chooses by, the lowest mean over seeds: "nll", "ece"
                # (the paper's), "ece_debiased" or "brier". An ECE of few images is mostly noise (500 of them give a
                # perfect network 3 to 5 %, as much as good settings differ by), and it does not measure how useful the
                # confidences are. The NLL is a mean over images without bins, and lowest for the true probabilities.
                "choose_by": "nll",
                # "photographs" for digits, else names of TFDS such as "cifar100", "svhn_cropped" or
                # "imagenet_resized/32x32". Sets that are not prepared are left out, and evaluation.json says so.
                "out_of_distribution": (),
            },
            # Nothing here changes a result: paths, devices, cadences, batch sizes of passes without gradients on
            # weights. A run may be resumed with other values, except num_devices if batch_norm is "per_device".
            "run": {
                # The folder of TFDS data; "" for TFDS' default (TFDS_DATA_DIR, ~/tensorflow_datasets). For the sources
                # "folder", "npz" and "cifar_archive": the folder or the file; TFDS' default then holds
                # out-of-distribution sets.
                "data_dir": "",
                # An unpacked CIFAR-10-C, CIFAR-100-C or ImageNet-C, for the shift source "published".
                "published_dir": "",
                # The folder of images of the shift source "generated": 2.9 GB for 19 types of 10,000 CIFAR images; ""
                # for the workdir.
                "generated_dir": "",
                # 0 for all, of all processes.
                "num_devices": 0,
                # "pmap" or "shard_map".
                "mapping": "pmap",
                # Members in lockstep on one device: "stacked" by vmap, "unrolled" in one program, whose activations
                # need not exist all at once, or "auto": stacked only on a TPU, because stacked kernels become grouped
                # convolutions, which are slow on CPUs and backward on GPUs.
                "members": "auto",
                # Images per device and batch outside training.
                "evaluation_batch_size": 512,
                "ranking_batch_size": 256,
                "log_every_steps": 50,
                "checkpoint_every_steps": 1000,
                # A folder, or gs://..., that keeps compiled programs from one process to the next; "" for
                # JAX_COMPILATION_CACHE_DIR, or else WORKDIR/compiled.
                "compilation_cache": "",
                # Steps of each run that jax.profiler traces, after compilation, into RUN/profile; 0 for none.
                "profile": 0,
                # On a GPU: only kernels that give the same bits each time, which are slower. A run that was killed
                # then ends with the same numbers if it finds its compiled programs again. CPUs always do so.
                "deterministic": False,
            },
        }
    )


# A size that combines with the others, for the fast units of GPUs and fewer bytes of activations.
BFLOAT16: Mapping[str, Overrides] = {"bfloat16": {"model.dtype": "bfloat16"}}


def methods(
    *, label_smoothing: float, adals: float, ar_adals: float, refresh_epochs: tuple[int, ...], members: int
) -> dict[str, Overrides]:
    """The method presets of a data set: the smoothing of label smoothing, the alpha of AdaLS and of AR-AdaLS, the
    epochs after which AR-AdaLS on the fly ranks again, and the members of ensembles. Two are controls, AR-AdaLS without
    an attack."""

    def adaptive(num_subsets: int, alpha: float) -> Overrides:
        return {
            "soft_labels.num_subsets": num_subsets,
            "soft_labels.adaptive": True,
            "soft_labels.alpha": ((0, alpha),),
        }

    single = {
        "vanilla": {},
        "label_smoothing": {"soft_labels.epsilon": label_smoothing},
        "adals": adaptive(1, adals),
        "ar_adals": adaptive(10, ar_adals),
        "ar_adals_on_the_fly": adaptive(10, ar_adals)
        | {"ranking.refresh_epochs": refresh_epochs, "ranking.refresh_attack": "first_order"},
        "ar_adals_by_confidence": adaptive(10, ar_adals) | {"ranking.by": "confidence"},
        "ar_adals_by_random": adaptive(10, ar_adals) | {"ranking.by": "random"},
        "ar_adals_shrunk": adaptive(10, ar_adals) | {"soft_labels.shrinkage": 1.0},
        **{name: {"method.name": name} for name in RIVALS},
    }
    # One ensemble, whose members have the seeds 0 ... members - 1.
    one = {"seeds": (0,), "ensemble.members": members}
    averaged = ("vanilla", "label_smoothing", "adals", "ar_adals")
    return (
        single
        | {f"ensemble_{name}": single[name] | one | {"ensemble.of": name} for name in averaged}
        | {"ar_adals_of_ensemble": single["ar_adals"] | one}
    )


def with_presets(
    config: ml_collections.ConfigDict,
    presets: str,
    methods: Mapping[str, Overrides],
    sizes: Mapping[str, Overrides],
    methods_of_size: Mapping[str, Mapping[str, Overrides]] | None = None,
) -> ml_collections.ConfigDict:
    """Applies comma-separated `presets`: sizes, then at most one method, whose name the runs get, then `finetune`.

    `methods_of_size` holds the methods of those sizes that need other numbers. Raises ValueError for an unknown preset,
    a second method or a second way to fine-tune.
    """
    names = [name for name in presets.split(",") if name]
    known = [*methods, *sizes, *FINETUNING]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown preset {unknown[0]!r}; there are {', '.join(known)}")
    chosen = [name for name in names if name in methods]
    if len(chosen) > 1:
        raise ValueError(f"one method at a time, not {' and '.join(chosen)}")
    finetuning = [name for name in names if name in FINETUNING]
    if len(finetuning) > 1:
        raise ValueError(f"one way to fine-tune at a time, not {' and '.join(finetuning)}")
    for name in names:
        if name in sizes:
            config.update_from_flattened_dict(sizes[name])
            methods = (methods_of_size or {}).get(name, methods)
    for name in chosen:
        config.name = name
        config.update_from_flattened_dict(methods[name])
    for name in finetuning:
        _finetune(config, FINETUNING[name], name.replace("finetune", "finetuned"))
    return config


def _finetune(config: ml_collections.ConfigDict, share: float, suffix: str) -> None:
    """Starts from vanilla's weights: `share` of the epochs at a tenth of the learning rate, a hundredth at the end.

    The soft labels learn faster by as much as there are fewer epochs, and come as far.
    """

    def sooner(epoch: int) -> int:
        return round(epoch * share)

    epochs = max(1, sooner(config.training.epochs))
    config.name += f"_{suffix}"
    if config.ensemble.of:
        config.ensemble.of += f"_{suffix}"
    config.training.update(epochs=epochs, init_from="vanilla/seed_{seed}")
    config.optimizer.update(warmup_epochs=0.0, decay=((0, 0.1), (epochs * 3 // 4, 0.01)) if epochs > 1 else ((0, 0.1),))
    config.soft_labels.alpha = tuple((sooner(epoch), value / share) for epoch, value in config.soft_labels.alpha)
    refreshes = {max(1, sooner(epoch)) for epoch in config.ranking.refresh_epochs}
    config.ranking.refresh_epochs = tuple(sorted(epoch for epoch in refreshes if epoch < epochs))

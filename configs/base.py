"""The base of all configs: every field with its meaning, and the methods as presets.

Presets follow the config's path after a colon, separated by commas: `configs/cifar10.py:ar_adals,laptop`. Size presets
are applied first, then the method's, then `finetune`, which starts any method from the finished vanilla run of the same
seed: `configs/digits.py:ar_adals,finetune`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

Overrides = Mapping[str, Any]

# By preset, the share of the epochs that fine-tuning takes.
FINETUNING = {"finetune": 0.1, "finetune_quarter": 0.25}
# Published methods with their own loss, by their names in arada/methods.
RIVALS = ("mixup", "ccat", "focal", "adafocal", "dual_focal", "mbls", "acls")


def config() -> ml_collections.ConfigDict:
    """The fields of an experiment. The config of a data set fills the empty ones ("", 0)."""
    return ml_collections.ConfigDict(
        {
            # The method's name, and the folder of its runs.
            "name": "vanilla",
            # One independent run for each seed, which decides initial weights, data order and augmentation.
            "seeds": (0,),
            # The data set; the fields depend on `source` (arada/data). `split_seed` is independent of the seeds: all
            # runs of a workdir share one split.
            "data": {},
            "model": {
                "name": "resnet_v2",
                "depth": 29,
                "width": 16,
                # "global" (statistics of the whole batch) or "per_device".
                "batch_norm": "global",
                # Running statistics average about the last 1 / (1 - momentum) steps. Keep this below an epoch, because
                # validation uses them, and soft labels learn from validation. Keras uses 0.99 for this network.
                "batch_norm_momentum": 0.99,
                # "float32" or "bfloat16" arithmetic; rankings are always float32.
                "dtype": "float32",
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": 1e-3,
                # ((epoch, factor), ...): from this 0-based epoch on the learning rate is multiplied by the factor.
                "decay": (),
                "warmup_epochs": 0.0,
                # Only for "sgd".
                "momentum": 0.9,
                "nesterov": True,
                # l2 * sum of w^2 (not half of it) over "convolutions" (kernels only), "kernels_and_biases" (all except
                # batch norm) or "everything".
                "l2": 1e-4,
                "l2_on": "convolutions",
            },
            "training": {
                "epochs": 0,
                # Global; divided among the devices. The last partial batch of an epoch is dropped (Keras keeps it).
                "batch_size": 0,
                # The number of parts in which a batch goes through the network, if it does not fit into memory. Batch
                # norm then takes the statistics of each part.
                "accumulate": 1,
                # The run of this workdir that provides the initial weights, such as "vanilla/seed_0", or
                # "vanilla/seed_{seed}" for the run with the same seed; "" for fresh weights.
                "init_from": "",
                # "none", "flip", "shift_and_flip" (Keras), "crop_and_flip" (2 black pixels around, edward2).
                # ImageNet's random crops and flips are part of its data.
                "augmentation": "none",
                # "mean_image" (subtracts the mean of each pixel) or "standardize" (each channel), by the training
                # images; "cifar" (edward2's constants), "imagenet" (torchvision's); "unit" keeps images in [0, 1].
                "normalization": "standardize",
            },
            "soft_labels": {
                # R; 1 needs no ranking.
                "num_subsets": 1,
                # The initial smoothing, eq. (1).
                "epsilon": 0.0,
                # Whether eq. (3) updates the soft labels after every epoch, with the learning rate alpha.
                "adaptive": False,
                # ((first epoch, alpha), ...).
                "alpha": ((0, 0.005),),
                # How much subsets share their gaps (arada/soft_labels.py, `shrink`): 0 is the paper's rule, 1 shrinks
                # the gaps towards their mean by the share of their variance that sampling explains.
                "shrinkage": 0.0,
            },
            # The loss of a batch (the classes in arada/methods explain the fields). All methods use the soft labels
            # above: mixup mixes them, CCAT makes them more uniform, focal losses weight their cross-entropy.
            "method": {
                # "cross_entropy" (vanilla, label smoothing, AdaLS and AR-AdaLS), "mixup", "ccat", "focal", "adafocal",
                # "dual_focal", "mbls", "acls".
                "name": "cross_entropy",
                # The paper's beta, which gave the lowest calibration error.
                "mixup": {"beta": 0.2, "per_example": False},
                # The paper's radius, step size and steps, and rho of the CCAT paper. The step size is not the length of
                # a step, see arada/methods/ccat.py.
                "ccat": {"radius": 0.01, "step_size": 0.025, "steps": 10, "rho": 10.0},
                "focal": {"gamma": 3.0},
                # The authors' settings.
                "adafocal": {
                    "gamma": 1.0,
                    "num_bins": 15,
                    "rate": 1.0,
                    "lowest": -2.0,
                    "highest": 20.0,
                    "switch": 0.2,
                },
                # Settings of the authors' code, which has none for "dual_focal" (arada/methods/focal.py).
                "dual_focal": {"gamma": 5.0},
                "mbls": {"margin": 10.0, "weight": 0.1},
                "acls": {"margin": 10.0, "weight": 0.1, "on_predicted": 1.0, "on_others": 0.1},
            },
            # An ensemble: several networks whose probabilities are averaged.
            "ensemble": {
                "members": 1,
                # The method with the runs to average: seeds s * members ... for the ensemble's seed s. "" trains the
                # members in lockstep, with soft labels that learn from their mean prediction.
                "of": "",
                # In lockstep: "shared" (all use the ranks of `ranking.source`) or "per_member" (each uses the ranks of
                # the vanilla run with its own seed). The paper does not say.
                "ranks": "shared",
            },
            "ranking": {
                # The run that ranks the images: "vanilla/seed_0" for all methods and seeds of a workdir, or
                # "vanilla/seed_{seed}", the vanilla run with the same seed (the paper does not say which it used). Or a
                # folder with train.npz and validation.npz.
                "source": "vanilla/seed_0",
                # "attack", or one of two controls: "confidence" (of the source run, least confident first) and "random"
                # (drawn with the seed of the source).
                "by": "attack",
                # A second attack on the same source needs its own folder below the first attack's folder.
                "folder": "",
                # "fmn", "cw" (the paper's), "sdf" or "first_order"; docs/attacks.md compares them.
                "attack": "fmn",
                # The number of subsets in files and figures, and for the images that "first_order" measures again;
                # training uses soft_labels.num_subsets.
                "num_subsets": 10,
                # On the fly: the current weights rank training and validation images again after these epochs, counted
                # from 1, and after every refresh_every epochs (0: never). Images change their subset; the soft labels
                # of subsets stay.
                "refresh_epochs": (),
                "refresh_every": 0,
                # The attack of a refresh, or "estimate": the distance to the linearised boundary by one gradient, which
                # ranks images but finds no adversarial ones. "" for `attack`.
                "refresh_attack": "",
                # The ranks before the first refresh (the paper does not say): "precomputed" (the ranks of `source`),
                # or "one_subset" (all images share one soft label, as in AdaLS; every subset starts from it).
                "before_refresh": "precomputed",
                # The paper's settings (A.4); initial_const and confidence are cleverhans' defaults. abort_early is not:
                # cleverhans' default aborts a whole batch together.
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
                # One gradient per candidate; images with an uncertain subset get `refine_steps` of fmn (0: none).
                "first_order": {"candidates": 1, "refine_steps": 0},
                "estimate": {"candidates": 1},
            },
            "evaluation": {
                # Bins of the calibration error. The paper gives no number; its scripts use 15 of equal width.
                "num_bins": 15,
                # The probability in the variance over runs (arada/metrics/stability.py). The paper's formula has one
                # number for each run and example. With each run's own maximum the variance could not reach the 0.116 of
                # the paper's Table 5, because the maxima of one image seldom differ by more than 0.5; with the same
                # class for all runs it can.
                "variance_of": "predicted_class",
                # The source of shifted images (arada/data/shifted/sources.py): "simple", "generated", "published" or
                # "tfds". Predictions of several sources are stored side by side; evaluation.json has one source.
                "shift_source": "simple",
                # Types, or a list of types: "simple" (six), and the paper's "cifar10" (19), "cifar100" (17) and
                # "imagenet" (15).
                "shifts": ("simple",),
                "severities": (1, 2, 3, 4, 5),
                # The number of test images in each shifted set, drawn with a separate seed; 0 for all.
                "max_examples_per_shift": 0,
                # ImageNet-C was cropped to 224 pixels before its corruption. The paper's script crops the images again,
                # which enlarges them; whether the paper did so is not known.
                "crop_shifted": False,
                # The stored form of shifted predictions: "logits", or "summaries" (arada/evaluation/compact.py), which
                # need an eighteenth of the space for 1,000 classes. With summaries calibrators cannot be fitted again,
                # variances use each image's 20 largest probabilities, and ensembles need a pass over all members.
                "store_shifted": "logits",
                # The ranking behind the robustness subsets in reports: "source" (`ranking.source`, the same for all
                # methods), or "own" (each single run attacks the test images itself, which costs a ranking of the test
                # split for each run). The paper does not say.
                "subsets_of": "source",
                # The method that all others are compared with, by paired differences and their intervals.
                "reference": "vanilla",
                # The validation metric for a sweep's choice, the lowest mean over seeds: "nll", "ece" (the paper's),
                # "ece_debiased" or "brier". With few images an ECE is mostly noise (with 500 images a perfectly
                # calibrated network has 3 to 5 %, as much as good settings differ by), and it does not measure how
                # useful the confidences are. The NLL is a mean over images without bins, and lowest for the true
                # probabilities.
                "choose_by": "nll",
                # "photographs" for digits, otherwise names of TFDS such as "cifar100", "svhn_cropped" or
                # "imagenet_resized/32x32". Unprepared sets are left out, and evaluation.json lists them.
                "out_of_distribution": (),
            },
            # These fields change no result beyond the rounding by cpu_kernels: paths, devices, cadences, batch sizes of
            # passes without gradients of the weights. A run may be resumed with other values, except num_devices if
            # batch_norm is "per_device".
            "run": {
                # The folder of TFDS data; "" for TFDS' default (TFDS_DATA_DIR, ~/tensorflow_datasets). For the sources
                # "folder", "npz" and "cifar_archive": the folder or the file; out-of-distribution sets are then read
                # from TFDS' default.
                "data_dir": "",
                # An unpacked CIFAR-10-C, CIFAR-100-C or ImageNet-C, for the shift source "published".
                "published_dir": "",
                # The folder for images of the shift source "generated": 2.9 GB for 19 types of 10,000 CIFAR images; ""
                # for the workdir.
                "generated_dir": "",
                # 0 for all devices of all processes.
                "num_devices": 0,
                # "pmap" or "shard_map".
                "mapping": "pmap",
                # Members in lockstep on one device: "stacked" by vmap, "unrolled" in one program, which does not need
                # all activations at once, or "auto": stacked only on a TPU, because stacked kernels become grouped
                # convolutions, which are slow on CPUs, and slow backward on GPUs.
                "members": "auto",
                # Convolutions of training and attacks on a CPU: "stock" (by XLA, or as matrix products if these are
                # faster), "onednn" (part of jaxlib for Linux on x86-64; a fifth faster, other rounding), or "auto":
                # oneDNN for one device in float32 if a trial of its results has passed. A resumed run keeps its
                # kernels unless this names others.
                "cpu_kernels": "auto",
                # Images per device and batch outside training.
                "evaluation_batch_size": 512,
                "ranking_batch_size": 256,
                "log_every_steps": 50,
                "checkpoint_every_steps": 1000,
                # A folder, or gs://..., that caches compiled programs for later processes; "" for
                # JAX_COMPILATION_CACHE_DIR, or else WORKDIR/compiled.
                "compilation_cache": "",
                # Steps of each run that jax.profiler traces after compilation, into RUN/profile (0: none).
                "profile": 0,
                # On a GPU: use only kernels that give the same bits each time, which are slower. A killed run then ends
                # with the same numbers if it finds its compiled programs. On a CPU this always holds.
                "deterministic": False,
            },
        }
    )


# A size preset that combines with the others: uses the fast units of GPUs and less memory for activations.
BFLOAT16: Mapping[str, Overrides] = {"bfloat16": {"model.dtype": "bfloat16"}}


def methods(
    *, label_smoothing: float, adals: float, ar_adals: float, refresh_epochs: tuple[int, ...], members: int
) -> dict[str, Overrides]:
    """The method presets of a data set, given the smoothing of label smoothing, the alpha of AdaLS and of AR-AdaLS, the
    epochs after which AR-AdaLS on the fly ranks again, and the number of ensemble members. Two presets are controls:
    AR-AdaLS without an attack."""

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
    # One ensemble; its members have the seeds 0 ... members - 1.
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
    """Applies comma-separated `presets`: sizes, then at most one method, which names the runs, then `finetune`.

    `methods_of_size` holds the methods of sizes with other settings. Raises ValueError for an unknown preset, a second
    method or a second `finetune` preset.
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
        finetune(config, name)
    return config


def finetune(config: ml_collections.ConfigDict, preset: str) -> None:
    """Starts from vanilla's weights, for the preset's share of the epochs, at a tenth of the learning rate, a hundredth
    at the end. The soft labels learn faster by the inverse of this share, so that they move as far in total.
    """
    share, suffix = FINETUNING[preset], preset.replace("finetune", "finetuned")

    def scaled(epoch: int) -> int:
        return round(epoch * share)

    epochs = max(1, scaled(config.training.epochs))
    config.name += f"_{suffix}"
    if config.ensemble.of:
        config.ensemble.of += f"_{suffix}"
    config.training.update(epochs=epochs, init_from="vanilla/seed_{seed}")
    config.optimizer.update(warmup_epochs=0.0, decay=((0, 0.1), (epochs * 3 // 4, 0.01)) if epochs > 1 else ((0, 0.1),))
    config.soft_labels.alpha = tuple((scaled(epoch), value / share) for epoch, value in config.soft_labels.alpha)
    refreshes = {max(1, scaled(epoch)) for epoch in config.ranking.refresh_epochs}
    config.ranking.refresh_epochs = tuple(sorted(epoch for epoch in refreshes if epoch < epochs))

"""WRN-28-10 as edward2's baselines train it (sections A.1 and A.2 of the paper), shared by both CIFAR data sets."""

import ml_collections

from configs import base

SIZES = {
    **base.BFLOAT16,
    # For tests: all parts of the recipe with a network of 78,000 parameters; the results have no meaning.
    "testing": {
        "data.num_train": 128,
        "data.num_validation": 128,
        "data.num_test": 128,
        "model.depth": 10,
        "model.width": 1,
        "model.batch_norm_momentum": 0.75,
        "training.epochs": 3,
        "training.batch_size": 32,
        "optimizer.decay": ((2, 0.2),),
        "evaluation.shift_source": "simple",
        "evaluation.shifts": ("noise", "rotation"),
        "evaluation.out_of_distribution": (),
        "evaluation.severities": (1, 5),
        "run.cpu_kernels": "stock",
        "run.evaluation_batch_size": 128,
        "run.ranking_batch_size": 64,
        "run.log_every_steps": 2,
        "run.checkpoint_every_steps": 3,
    },
}


def config(name: str, num_classes: int) -> ml_collections.ConfigDict:
    """The experiment without its method."""
    config = base.config()
    config.seeds = (0, 1, 2, 3)
    config.data = {
        "source": "tfds",
        "name": name,
        "num_classes": num_classes,
        "image_shape": (32, 32, 3),
        # The scripts train on all 50,000 images. The paper needs validation images; it gives 45,000 for its other
        # network.
        "num_train": 45_000,
        "num_validation": 5_000,
        "num_test": 10_000,
        "split_seed": 0,
    }
    # The scripts take the statistics of each of 8 cores' 64 images; a single device takes those of all 512.
    config.model.update(name="wide_resnet", depth=28, width=10, batch_norm="per_device", batch_norm_momentum=0.9)
    # Generated images need no download; the paper's CIFAR-100-C was never published. CIFAR-10 and CIFAR-100 are each
    # other's out-of-distribution set.
    other = "cifar100" if name == "cifar10" else "cifar10"
    config.evaluation.update(shift_source="generated", shifts=(name,), out_of_distribution=(other, "svhn_cropped"))
    config.training.update(epochs=200, batch_size=512, augmentation="crop_and_flip", normalization="cifar")
    config.optimizer.name = "sgd"
    # Linear in the batch size; a field reference, so that overrides of the batch size apply.
    config.optimizer.learning_rate = 0.1 * config.training.get_ref("batch_size").to_float() / 128
    config.optimizer.update(
        warmup_epochs=1.0,
        decay=((60, 0.2), (120, 0.04), (160, 0.008)),
        momentum=0.9,
        nesterov=True,
        l2=2e-4,
        l2_on="everything",
    )
    return config


def methods(label_smoothing: float) -> dict[str, base.Overrides]:
    """The presets with the paper's settings; the paper ranked again after 65 and 130 epochs."""
    rates = {"label_smoothing": label_smoothing, "adals": 0.005, "ar_adals": 0.005}
    return base.methods(**rates, refresh_epochs=(65, 130), members=4)


def with_presets(
    config: ml_collections.ConfigDict, presets: str, methods: dict[str, base.Overrides]
) -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals_on_the_fly"."""
    on_the_fly = methods["ar_adals_on_the_fly"] | {"ranking.refresh_epochs": (1, 2)}
    methods_of_size = {"testing": methods | {"ar_adals_on_the_fly": on_the_fly}}
    return base.with_presets(config, presets, methods, SIZES, methods_of_size)

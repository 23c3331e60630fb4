"""CIFAR-10 with the paper's ResNet-29 v2 (section A.1; recipe of keras' cifar10_resnet.py).

    python -m arada.main --config=configs/cifar10.py:ar_adals --workdir=workdir/cifar10

Hardware: one GPU or TPU core. A run is 35,000 steps of 0.15 TFLOP: less than an hour if a step takes 0.1 s (an
estimate, not measured); 20 hours on two CPU cores at the measured 126 images/s. Paper, five seeds: accuracy of vanilla
91.4 %; mean ECE on CIFAR-10-C, in %: vanilla 16.7, label smoothing 10.1, AdaLS 9.6, AR-AdaLS 6.4 (Table 3); its figures
show the ECE on clean images. The data come from TensorFlow Datasets:
`python -m arada.prepare --config=configs/cifar10.py` downloads them once.

`laptop` runs in less than an hour on two CPU cores: depth 11, 4,000 training images, flips only, so that the vanilla
model fits its training images and is over-confident, like the paper's. Its smoothing and alphas are not tuned. One seed
(0; oneDNN, commit c5647e1; 2,000 test images; ECE with 15 bins of equal width in %, its floor 2.4 to 2.7 %; shift: six
simple types at five severities) shows what to expect, and decides nothing:

                accuracy    ECE    ECE under shift    after temperature scaling
    vanilla         50.4   20.8               43.0                         22.3
    AdaLS           49.1    2.5               19.9                         21.3
    AR-AdaLS        48.1    3.3               22.0                         23.4

    python -m arada.main --config=configs/cifar10.py:ar_adals,laptop --workdir=workdir/cifar10_laptop
"""

import ml_collections

from configs import base

# The paper refreshes ranks after 65 and 130 epochs for WRN-28-10; its ResNet-29 was ranked beforehand.
METHODS = base.methods(label_smoothing=0.02, adals=0.05, ar_adals=0.005, refresh_epochs=(65, 130), members=5)
# A fifth of the epochs: fewer updates of the soft labels, and far more over-confidence.
LAPTOP_METHODS = base.methods(label_smoothing=0.05, adals=0.1, ar_adals=0.1, refresh_epochs=(13, 26), members=3)

SIZES = {
    **base.BFLOAT16,
    "laptop": {
        "seeds": (0,),
        "data.num_train": 4000,
        "data.num_validation": 1000,
        "data.num_test": 2000,
        "model.depth": 11,
        # An epoch has 31 steps.
        "model.batch_norm_momentum": 0.9,
        "optimizer.decay": ((25, 0.1), (35, 0.01)),
        "training.epochs": 40,
        "training.batch_size": 128,
        "training.augmentation": "flip",
        "ranking.fmn.steps": 20,
        "evaluation.shift_source": "simple",
        "evaluation.shifts": ("simple",),
        "evaluation.out_of_distribution": (),
        "run.ranking_batch_size": 64,
        "run.log_every_steps": 10,
        "run.checkpoint_every_steps": 150,
    },
}


def get_config(presets: str = "") -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals" or "ar_adals,laptop"."""
    config = base.config()
    config.seeds = (0, 1, 2, 3, 4)
    config.data = {
        "source": "tfds",
        "name": "cifar10",
        "num_classes": 10,
        "image_shape": (32, 32, 3),
        # Random, by split_seed; the paper gives neither seed nor method. The 50,000 of `train` are split.
        "num_train": 45_000,
        "num_validation": 5_000,
        "num_test": 10_000,
        "split_seed": 0,
    }
    # Keras' boundaries: 1e-3 up to and with epoch 80 (0-based), then 1e-4, 1e-5, 1e-6 and 0.5e-6.
    config.optimizer.decay = ((81, 1e-1), (121, 1e-2), (161, 1e-3), (181, 0.5e-3))
    config.training.epochs = 200
    config.training.batch_size = 256
    config.training.augmentation = "shift_and_flip"
    config.training.normalization = "mean_image"
    # Generated images need no download; "published" has the images that the paper used.
    config.evaluation.update(shift_source="generated", shifts=("cifar10",))
    # The paper's set, and the most common one.
    config.evaluation.out_of_distribution = ("cifar100", "svhn_cropped")
    return base.with_presets(config, presets, METHODS, SIZES, {"laptop": LAPTOP_METHODS})

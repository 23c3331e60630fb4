"""CIFAR-100 with the paper's WRN-28-10 (section A.2; recipe of edward2's baselines).

    python -m arada.main --config=configs/cifar100_wrn.py:ar_adals_on_the_fly --workdir=workdir/cifar100_wrn

Hardware: 8 TPU cores, or one GPU of 40 GB. A run is 280,000 TFLOP, 1.7 hours on one A100 at 30 % of its TF32 peak (an
estimate, not measured). Paper, four seeds: accuracy of vanilla 79.2 %; ECE of vanilla 6.11 %, of AR-AdaLS on the fly
2.27 %. The data come from TensorFlow Datasets; this command downloads them once:

    python -m arada.prepare --config=configs/cifar100_wrn.py
"""

import ml_collections

from configs import cifar_wrn

METHODS = cifar_wrn.methods(label_smoothing=0.07)
SIZES = cifar_wrn.SIZES


def get_config(presets: str = "") -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals_on_the_fly"."""
    return cifar_wrn.with_presets(cifar_wrn.config("cifar100", num_classes=100), presets, METHODS)

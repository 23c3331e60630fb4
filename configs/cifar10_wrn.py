"""CIFAR-10 with the paper's WRN-28-10 (section A.1; recipe of edward2's baselines).

    python -m arada.main --config=configs/cifar10_wrn.py:ar_adals_on_the_fly --workdir=workdir/cifar10_wrn

Hardware: 8 TPU cores, or one GPU of 40 GB. A run is 280,000 TFLOP, 1.7 hours on one A100 at 30 % of its TF32 peak (an
estimate, not measured). Paper, four seeds: ECE of vanilla 2.49 %, of AR-AdaLS on the fly 0.64 %; its figures show the
accuracies. edward2's accuracy of vanilla is 96.0 %, trained on all 50,000 images. The data come from TensorFlow
Datasets; this command downloads them once:

    python -m arada.prepare --config=configs/cifar10_wrn.py
"""

import ml_collections

from configs import cifar_wrn

METHODS = cifar_wrn.methods(label_smoothing=0.02)
SIZES = cifar_wrn.SIZES


def get_config(presets: str = "") -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals_on_the_fly"."""
    return cifar_wrn.with_presets(cifar_wrn.config("cifar10", num_classes=10), presets, METHODS)

"""Does the ranking by robustness help? AR-AdaLS with subsets by attack, with random subsets, and AdaLS, on CIFAR-10.

    python -m arada.study --study=configs/studies/ranking.py --workdir=DIR

Stated on 2026-11-26, before its first run. The paper says that subsets by adversarial robustness calibrate better than
one adaptive label for all images, especially under shift (ResNet-29, mean ECE on CIFAR-10-C: AdaLS 9.6 %, AR-AdaLS
6.4 %). It has no control with random subsets, and AdaLS has ten times the alpha of AR-AdaLS. Here:

* All adaptive arms have the same alpha: the one with the lowest validation ECE for AdaLS, so that any bias is against
  the claim. The epsilon of label smoothing is chosen in the same way. Both are chosen with seed 0.
* Each seed is ranked by its own vanilla run, and has its own random subsets.
* Only the budget stops the runs, never their results.

The network is a ResNet v2 of depth 11, the smallest of its family. It trains on 10,000 images with flips only, so that
it fits them and is over-confident, like the paper's networks. There are 5,000 validation images, as in the paper, and
10,000 test images. In a pilot with 20,000 training images (vanilla, seed 0, batch-norm momentum 0.9; 28 minutes) it
fitted 98.8 % of them, with a test accuracy of 68.4 % and an ECE of 14.6 %.

Shifts: all 19 types of CIFAR-10-C, generated, and six simple types, at five severities on the same 2,000 test images.
The rules use the generated ones, because the paper's claim is about them.

Changed on 2026-11-26, before the first run: 10,000 and 5,000 images in place of 20,000 and 10,000. Two cores at hand
train 350 images/s in two processes, so that the 29 runs of the five arms and the choices would have taken a day. The
budget is in hours of one process on one core: two of them at a time, with half of the seeds each, take half as long.
"""

import ml_collections

from configs import cifar10
from configs.studies import design

ADAPTIVE = ("adals", "ar_adals", "ar_adals_by_random")
IF_AFFORDABLE = ("ar_adals_by_confidence", "ar_adals_shrunk", "ar_adals_on_the_fly")

OVERRIDES = {
    "data.num_train": 10_000,
    "data.num_validation": 5_000,
    "model.depth": 11,
    "model.batch_norm_momentum": 0.9,
    "optimizer.decay": ((25, 0.1), (35, 0.01)),
    "training.epochs": 40,
    "training.batch_size": 128,
    "training.augmentation": "flip",
    "ranking.source": "vanilla/seed_{seed}",
    "evaluation.max_examples_per_shift": 2_000,
    "evaluation.out_of_distribution": ("imagenet_resized/32x32",),
    "run.checkpoint_every_steps": 300,
}

SHIFTS = {
    "generated": {"shift_source": "generated", "shifts": ("cifar10",)},
    "simple": {"shift_source": "simple", "shifts": ("simple",)},
}


def get_config() -> ml_collections.ConfigDict:
    """The study."""
    names = ("vanilla", "label_smoothing", *ADAPTIVE, *IF_AFFORDABLE)
    arms = design.arms({name: cifar10.get_config(name) for name in names}, OVERRIDES)
    # After a third and two thirds of the epochs, as in the paper.
    arms["ar_adals_on_the_fly"].ranking.refresh_epochs = (13, 26)
    return design.study(
        name="ranking",
        question="Does the ranking by adversarial robustness help?",
        stated="2026-11-26",
        seeds=(0, 1, 2, 3, 4),
        arms=arms,
        if_affordable=IF_AFFORDABLE,
        choices={
            "alpha": {
                "arm": "adals",
                "field": "alpha",
                "candidates": (0.05, 0.1, 0.2),
                "seed": 0,
                "arms": (*ADAPTIVE, *IF_AFFORDABLE),
            },
            "epsilon": {
                "arm": "label_smoothing",
                "field": "epsilon",
                "candidates": (0.05, 0.1, 0.2),
                "seed": 0,
                "arms": ("label_smoothing",),
            },
        },
        shifts=SHIFTS,
        outcomes=design.outcomes("generated"),
        comparisons=design.comparisons(
            attack_minus_random=("ar_adals", "ar_adals_by_random"),
            attack_minus_adals=("ar_adals", "adals"),
            random_minus_adals=("ar_adals_by_random", "adals"),
            adals_minus_vanilla=("adals", "vanilla"),
            attack_minus_label_smoothing=("ar_adals", "label_smoothing"),
            attack_minus_confidence=("ar_adals", "ar_adals_by_confidence"),
            shrunk_minus_attack=("ar_adals_shrunk", "ar_adals"),
            shrunk_minus_adals=("ar_adals_shrunk", "adals"),
            on_the_fly_minus_attack=("ar_adals_on_the_fly", "ar_adals"),
        ),
        claims={"ranking_helps": design.ranking_helps("attack_minus_random")},
        budget_hours=24.0,
        results="docs/studies/ranking",
    )

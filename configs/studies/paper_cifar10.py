"""The paper's Tables 2 and 3 for CIFAR-10 at full size, with a control that the paper lacks. Needs a GPU.

    python -m arada.study --study=configs/studies/paper_cifar10.py --workdir=DIR
    python -m arada.study --study=configs/studies/paper_cifar10.py:wrn --workdir=DIR_WRN

The first command runs Table 3's network, ResNet-29; `wrn` runs Table 2's, WRN-28-10. M = 5 runs of each method, and
ensembles of these five. Alphas and smoothing are the paper's; `ar_adals_by_random` has the alpha of AR-AdaLS, which is
a tenth of AdaLS' alpha for ResNet-29. Unlike in the paper, each seed is ranked by its own vanilla run.

Hours and cost on one device: ResNet-29 takes 5 hours on an A100 (25 dollars) or 3 on an H100 (32 dollars), WRN-28-10 52
hours on an A100 (260 dollars) or 16 on an H100 (180 dollars), for 30 trainings, 800,000 images ranked by FMN and 29
million evaluated. These are estimates from one training by `python -m launch.benchmarks.roofline`, at prices of about
2025; the study has not been run.
"""

import ml_collections

from configs import cifar10, cifar10_wrn
from configs.studies import design

SINGLE = ("vanilla", "label_smoothing", "adals", "ar_adals", "ar_adals_by_random", "ar_adals_on_the_fly")
ENSEMBLES = ("ensemble_vanilla", "ensemble_label_smoothing", "ensemble_adals", "ensemble_ar_adals")
NETWORKS = {"": cifar10, "wrn": cifar10_wrn}


def get_config(network: str = "") -> ml_collections.ConfigDict:
    """The study of ResNet-29, or of WRN-28-10 with "wrn"."""
    if network not in NETWORKS:
        raise ValueError(f"unknown preset {network!r}; there is wrn")
    get_experiment, ranked = NETWORKS[network].get_config, {"ranking.source": "vanilla/seed_{seed}"}
    arms = design.arms({name: get_experiment(name) for name in SINGLE}, ranked)
    arms |= design.arms({name: get_experiment(name) for name in ENSEMBLES}, ranked | {"ensemble.members": 5})
    return design.study(
        name="_".join(filter(None, ("paper_cifar10", network))),
        question="The paper's CIFAR-10 tables, with a control",
        stated="2026-11-26",
        seeds=(0, 1, 2, 3, 4),
        arms=arms,
        if_affordable=("ar_adals_on_the_fly",),
        shifts={"generated": {"shift_source": "generated", "shifts": ("cifar10",)}},
        outcomes=design.outcomes("generated"),
        comparisons=design.comparisons(
            attack_minus_random=("ar_adals", "ar_adals_by_random"),
            attack_minus_adals=("ar_adals", "adals"),
            attack_minus_vanilla=("ar_adals", "vanilla"),
            on_the_fly_minus_adals=("ar_adals_on_the_fly", "adals"),
        ),
        claims={
            "beats_adals": design.claim(
                "AR-AdaLS is better calibrated under shift than AdaLS, as in the paper's Table 3.",
                "attack_minus_adals",
                (("attack_minus_adals", "shift_ece"),),
                share=1 / 6,
            ),
            "ranking_helps": design.ranking_helps("attack_minus_random"),
        },
        budget_hours=100.0,
    )

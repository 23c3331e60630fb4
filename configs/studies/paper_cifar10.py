"""The paper's Tables 2 and 3 for CIFAR-10 at full size, with the control that it lacks: for an owner of a GPU.

    python -m arada.study --study=configs/studies/paper_cifar10.py --workdir=DIR
    python -m arada.study --study=configs/studies/paper_cifar10.py:wrn --workdir=DIR_WRN

The first is Table 3's network, ResNet-29; `wrn` is Table 2's, WRN-28-10. M = 5 runs of each method, and ensembles of
these five. Learning rates and smoothing are the paper's; `ar_adals_by_random` has those of AR-AdaLS, of which AdaLS'
alpha is ten times for ResNet-29. Not in the paper: each seed is ranked by its own vanilla run.

Hours and cost on one device: ResNet-29 takes 5 hours of an A100 (25 dollars) or 3 of an H100 (32 dollars), WRN-28-10 52
hours of an A100 (260 dollars) or 16 of an H100 (180 dollars), for 30 trainings, 800,000 images ranked by FMN and 29
million evaluated. Estimates from one training by `python -m launch.benchmarks.roofline`, at prices of about 2025;
nobody has run the study yet.
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
    random, one = "attack_minus_random", "attack_minus_adals"
    return design.study(
        name="_".join(filter(None, ("paper_cifar10", network))),
        question="The paper's CIFAR-10 tables, with a control",
        stated="2026-11-26",
        seeds=(0, 1, 2, 3, 4),
        arms=arms,
        if_affordable=("ar_adals_on_the_fly",),
        shifts={"generated": {"shift_source": "generated", "shifts": ("cifar10",)}},
        outcomes=design.outcomes("generated"),
        comparisons={
            random: {"arm": "ar_adals", "reference": "ar_adals_by_random"},
            one: {"arm": "ar_adals", "reference": "adals"},
            "attack_minus_vanilla": {"arm": "ar_adals", "reference": "vanilla"},
            "on_the_fly_minus_adals": {"arm": "ar_adals_on_the_fly", "reference": "adals"},
        },
        claims={
            "beats_adals": {
                "says": "AR-AdaLS is better calibrated under shift than AdaLS, as in the paper's Table 3.",
                "upheld_by": ((one, "shift_ece"),),
                "refuted_by": (one, "shift_ece"),
                "smallest_effect": {"arm": "adals", "outcome": "shift_ece", "share": 1 / 6},
            },
            "ranking_helps": {
                "says": "Subsets by adversarial robustness calibrate better under shift than random subsets do.",
                "upheld_by": ((random, "shift_ece_tempered"), (random, "shift_ece")),
                "refuted_by": (random, "shift_ece"),
                "smallest_effect": {"arm": "adals", "outcome": "shift_ece", "share": 1 / 6},
            },
        },
        budget_hours=100.0,
    )

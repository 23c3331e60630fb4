"""How much of AR-AdaLS' gain does fine-tuning buy? AR-AdaLS from finished vanilla networks, on CIFAR-10.

    python -m arada.study --study=configs/studies/finetuning.py --workdir=DIR

Stated on 2026-11-27, before its first run. Data, network and shifts are those of `ranking.py`: in its workdir this
study needs only the fine-tuned runs, a tenth and a quarter of the epochs from the vanilla run of the same seed. Alpha
is the value that `ranking.py` chose. The alternative that costs nothing is temperature scaling, so that a gain counts
only if it is there before and after it.
"""

import ml_collections

from configs import base, cifar10
from configs.studies import design, ranking

# docs/studies/ranking/index.md, chosen by validation ECE.
ALPHA = 0.2


def _config(method: str, finetuning: str = "") -> ml_collections.ConfigDict:
    config = cifar10.get_config(method)
    config.update_from_flattened_dict(ranking.OVERRIDES)
    if config.soft_labels.adaptive:
        config.soft_labels.alpha = ((0, ALPHA),)
    if finetuning:
        base.finetune(config, finetuning)
    return config


def get_config() -> ml_collections.ConfigDict:
    """The study."""
    tuned = [_config("ar_adals", preset) for preset in base.FINETUNING]
    arms = {config.name: config for config in (_config("vanilla"), _config("ar_adals"), *tuned)}
    return design.study(
        name="finetuning",
        question="How much of AR-AdaLS' gain does fine-tuning buy?",
        stated="2026-11-27",
        seeds=(0, 1, 2, 3, 4),
        arms=arms,
        shifts=ranking.SHIFTS,
        outcomes=design.outcomes("generated"),
        comparisons=design.comparisons(
            scratch_minus_vanilla=("ar_adals", "vanilla"),
            tenth_minus_vanilla=("ar_adals_finetuned", "vanilla"),
            quarter_minus_vanilla=("ar_adals_finetuned_quarter", "vanilla"),
            tenth_minus_scratch=("ar_adals_finetuned", "ar_adals"),
            quarter_minus_scratch=("ar_adals_finetuned_quarter", "ar_adals"),
        ),
        claims={
            "a_tenth_helps": {
                "says": "A tenth of the training makes a vanilla network better calibrated under shift.",
                "upheld_by": (("tenth_minus_vanilla", "shift_ece_tempered"), ("tenth_minus_vanilla", "shift_ece")),
                "refuted_by": ("tenth_minus_vanilla", "shift_ece"),
                "smallest_effect": {"arm": "vanilla", "outcome": "shift_ece", "share": 1 / 6},
            }
        },
        budget_hours=12.0,
        results="docs/studies/finetuning",
    )

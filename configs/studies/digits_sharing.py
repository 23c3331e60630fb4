"""Do shrunk gaps keep AR-AdaLS' gain under shift with AdaLS' proper scores? Digits, 20 seeds.

    python -m arada.study --study=configs/studies/digits_sharing.py --workdir=DIR

Stated on 2026-11-26, before its first run. The gap (confidence - accuracy) of each of ten subsets of 50 validation
images has a sampling error of about 6 points, as much as the true gaps differ, and eq. (3) adds this error up over
epochs. `soft_labels.shrinkage` removes it (arada/soft_labels.py, `shrink`). All arms have alpha 0.1; each seed is
ranked by its own vanilla run. Also with 30 subsets of 16 images each.

The 140 runs took 1.5 hours on two cores.
"""

import ml_collections

from configs import digits
from configs.studies import design

OVERRIDES = {"soft_labels.alpha": ((0, 0.1),)}
# By arm, its preset and its number of subsets.
ARMS = {
    "vanilla": ("vanilla", 1),
    "adals": ("adals", 1),
    "ar_adals": ("ar_adals", 10),
    "ar_adals_shrunk": ("ar_adals_shrunk", 10),
    "ar_adals_by_random": ("ar_adals_by_random", 10),
    "ar_adals_30": ("ar_adals", 30),
    "ar_adals_shrunk_30": ("ar_adals_shrunk", 30),
}


def get_config() -> ml_collections.ConfigDict:
    """The study."""
    configs = {name: digits.get_config(preset) for name, (preset, _) in ARMS.items()}
    for name, (_, num_subsets) in ARMS.items():
        configs[name].soft_labels.num_subsets = num_subsets
    return design.study(
        name="digits_sharing",
        question="Should subsets share what they learn?",
        stated="2026-11-26",
        seeds=tuple(range(20)),
        arms=design.arms(configs, OVERRIDES),
        if_affordable=("ar_adals_by_random", "ar_adals_30", "ar_adals_shrunk_30"),
        shifts={"simple": {"shift_source": "simple", "shifts": ("simple",)}},
        outcomes=design.outcomes("simple"),
        comparisons=design.comparisons(
            shrunk_minus_adals=("ar_adals_shrunk", "adals"),
            shrunk_minus_ar_adals=("ar_adals_shrunk", "ar_adals"),
            ar_adals_minus_adals=("ar_adals", "adals"),
            ar_adals_minus_random=("ar_adals", "ar_adals_by_random"),
            shrunk_minus_adals_30=("ar_adals_shrunk_30", "adals"),
            shrunk_minus_ar_adals_30=("ar_adals_shrunk_30", "ar_adals_30"),
        ),
        claims={
            "keeps_both": design.claim(
                "Shrunk gaps are better under shift than AdaLS, and have a better NLL than AR-AdaLS.",
                "shrunk_minus_adals",
                (("shrunk_minus_adals", "shift_ece"), ("shrunk_minus_ar_adals", "nll")),
                # Half of AR-AdaLS' gain over AdaLS in nine seeds: 0.9 of about 30 points.
                share=0.03,
            )
        },
        budget_hours=1.5,
        results="docs/studies/digits_sharing",
    )

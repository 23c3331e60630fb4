"""Do subsets that share what they learn keep AR-AdaLS' gain under shift at AdaLS' proper scores? Digits, 20 seeds.

    python -m arada.study --study=configs/studies/digits_sharing.py --workdir=DIR

Stated on 2026-11-26, before its first run. Ten subsets of 50 validation images have gaps with a sampling error of about
6 points each, as much as their true gaps differ, and eq. (3) adds that error up over epochs. `soft_labels.shrinkage`
takes it out (arada/soft_labels.py, `shrink`). One alpha of 0.1 for all; each seed ranked by its own vanilla run. Also
with 30 subsets, of 16 images each.

Seven arms of 20 seeds are half an hour of two cores.
"""

import ml_collections

from configs import digits
from configs.studies import design

OVERRIDES = {"soft_labels.alpha": ((0, 0.1),)}
# The arms by their preset and number of subsets.
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
    shrunk, one, paper = "ar_adals_shrunk", "shrunk_minus_adals", "shrunk_minus_ar_adals"
    return design.study(
        name="digits_sharing",
        question="Should subsets share what they learn?",
        stated="2026-11-26",
        seeds=tuple(range(20)),
        arms=design.arms(configs, OVERRIDES),
        if_affordable=("ar_adals_by_random", "ar_adals_30", "ar_adals_shrunk_30"),
        shifts={"simple": {"shift_source": "simple", "shifts": ("simple",)}},
        outcomes=design.outcomes("simple"),
        comparisons={
            one: {"arm": shrunk, "reference": "adals"},
            paper: {"arm": shrunk, "reference": "ar_adals"},
            "ar_adals_minus_adals": {"arm": "ar_adals", "reference": "adals"},
            "ar_adals_minus_random": {"arm": "ar_adals", "reference": "ar_adals_by_random"},
            "shrunk_minus_adals_30": {"arm": "ar_adals_shrunk_30", "reference": "adals"},
            "shrunk_minus_ar_adals_30": {"arm": "ar_adals_shrunk_30", "reference": "ar_adals_30"},
        },
        claims={
            "keeps_both": {
                "says": "Shrunk gaps are better under shift than AdaLS, and have a better NLL than AR-AdaLS.",
                "upheld_by": ((one, "shift_ece"), (paper, "nll")),
                "refuted_by": (one, "shift_ece"),
                # Half of what AR-AdaLS gains on AdaLS in nine seeds: 0.9 of about 30 points.
                "smallest_effect": {"arm": "adals", "outcome": "shift_ece", "share": 0.03},
            }
        },
        budget_hours=1.5,
        results="docs/studies/digits_sharing",
    )

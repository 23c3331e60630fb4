"""The paper's numbers, as printed: Tables 1 to 5 and section 5.5."""

from typing import NamedTuple


class Quoted(NamedTuple):
    """A number of the paper, in its printed unit, with its standard deviation if the paper gives one."""

    mean: float
    deviation: float | None = None
    digits: int = 2
    # Marks a number that the paper quotes from another paper.
    mark: str = ""

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.{self.digits}f}"
        return f"{self.mean:.{self.digits}f}{spread}{self.mark}"


def _one_digit(mean: float, deviation: float | None = None) -> Quoted:
    return Quoted(mean, deviation, 1)


WRN = "WRN-28-10"
# Table 1: network and accuracy of the vanilla model, x100.
TABLE_1 = {
    "cifar10": ("ResNet-29", _one_digit(91.4)),
    "cifar100": (WRN, _one_digit(79.2)),
    "imagenet2012": ("ResNet-101", _one_digit(77.7)),
}
# Table 2: ECE x100 on the clean test set; AR-AdaLS ranked on the fly.
TABLE_2 = {
    "cifar10": {
        "vanilla": Quoted(2.49, 0.10),
        "vanilla+temperature": Quoted(0.80, 0.05),
        "label_smoothing": Quoted(1.07, 0.09),
        "adals": Quoted(1.23, 0.02),
        "ar_adals_on_the_fly": Quoted(0.64, 0.02),
        "mixup": Quoted(0.78, 0.20),
        "ccat": Quoted(2.37, 0.07),
        "vanilla+ets": Quoted(0.97, mark="*"),
        "ensemble_vanilla": Quoted(0.90),
    },
    "cifar100": {
        "vanilla": Quoted(6.11, 0.24),
        "vanilla+temperature": Quoted(4.26, 0.07),
        "label_smoothing": Quoted(2.76, 0.26),
        "adals": Quoted(2.65, 0.31),
        "ar_adals_on_the_fly": Quoted(2.27, 0.16),
        "mixup": Quoted(1.69, 0.08),
        "ccat": Quoted(7.95, 0.35),
        "vanilla+ets": Quoted(2.80, mark="*"),
        "ensemble_vanilla": Quoted(2.21),
    },
}
# Table 3: mean ECE x100 under shift.
TABLE_3_NETWORK = {"cifar10": "ResNet-29", "imagenet2012": "ResNet-101"}
TABLE_3 = {
    "cifar10": {
        "vanilla": _one_digit(16.7, 0.5),
        "label_smoothing": _one_digit(10.1, 0.4),
        "adals": _one_digit(9.6, 0.5),
        "ar_adals": _one_digit(6.4, 0.6),
        "ensemble_vanilla": _one_digit(6.5),
        "ensemble_label_smoothing": _one_digit(4.6),
        "ensemble_adals": _one_digit(5.2),
        "ensemble_ar_adals": _one_digit(5.5),
        "ar_adals_of_ensemble": _one_digit(4.4),
    },
    "imagenet2012": {
        "vanilla": _one_digit(10.7, 0.5),
        "label_smoothing": _one_digit(8.1, 0.4),
        "adals": _one_digit(8.0, 0.2),
        "ar_adals": _one_digit(6.9, 0.2),
        "ensemble_vanilla": _one_digit(4.2),
        "ensemble_label_smoothing": _one_digit(4.7),
        "ensemble_adals": _one_digit(4.8),
        "ensemble_ar_adals": _one_digit(5.1),
        "ar_adals_of_ensemble": _one_digit(4.0),
    },
}
# Table 4, only for CIFAR-100: accuracy, accuracy under shift, ECE, ECE under shift, x100.
TABLE_4 = {
    "cifar100": {
        "vanilla": tuple(map(_one_digit, (79.2, 52.0, 6.1, 18.2))),
        "label_smoothing": tuple(map(_one_digit, (78.9, 51.7, 2.8, 16.3))),
        "vanilla+temperature": tuple(map(_one_digit, (79.2, 52.0, 4.3, 14.0))),
        "ar_adals": tuple(map(_one_digit, (79.3, 52.2, 2.6, 14.2))),
        "ar_adals_on_the_fly": tuple(map(_one_digit, (79.2, 52.1, 2.3, 13.2))),
    }
}
# Table 5: variance x100 at severities 1 to 5, and their mean.
TABLE_5 = {
    "cifar10": {
        "vanilla": (7.85, 9.69, 11.2, 13.1, 16.0, 11.6),
        "label_smoothing": (5.54, 6.95, 8.11, 9.65, 11.8, 8.41),
        "adals": (5.47, 6.87, 7.95, 9.44, 11.5, 8.25),
        "ar_adals": (4.21, 5.06, 5.73, 6.66, 8.24, 5.98),
    },
    "imagenet2012": {
        "vanilla": (5.28, 6.39, 7.37, 8.23, 8.29, 7.11),
        "label_smoothing": (4.86, 5.84, 6.78, 7.55, 7.41, 6.49),
        "adals": (4.79, 5.77, 6.66, 7.51, 7.56, 6.46),
        "ar_adals": (4.53, 5.49, 6.12, 6.76, 6.66, 5.91),
    },
}
# Section 5.5: AUROC of CIFAR-10 against CIFAR-100 with WRN-28-10; the paper does not name the score.
AUROC = {
    ("cifar10", "cifar100"): {
        "label_smoothing": Quoted(0.832, 0.005, 3),
        "mixup": Quoted(0.821, 0.003, 3),
        "ar_adals_on_the_fly": Quoted(0.885, 0.003, 3),
    }
}

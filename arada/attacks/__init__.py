"""Attacks: all except PGD measure robustness. Pure functions of a logits function; the caller jits or maps them."""

from arada.attacks.checks import check_images, classifier_warnings
from arada.attacks.cw import cw_l2
from arada.attacks.first_order import first_order, first_order_estimate, first_order_l2
from arada.attacks.fmn import fmn_l2
from arada.attacks.pgd import pgd_linf
from arada.attacks.result import AttackResult, LogitsFn
from arada.attacks.sdf import sdf_l2
from arada.attacks.subsets import agreement, equal_subsets, refined, undecided

# The values of `config.ranking.attack`.
BY_NAME = {"cw": cw_l2, "fmn": fmn_l2, "sdf": sdf_l2, "first_order": first_order_l2}

__all__ = [
    "BY_NAME",
    "AttackResult",
    "LogitsFn",
    "agreement",
    "check_images",
    "classifier_warnings",
    "cw_l2",
    "equal_subsets",
    "first_order",
    "first_order_estimate",
    "first_order_l2",
    "fmn_l2",
    "pgd_linf",
    "refined",
    "sdf_l2",
    "undecided",
]

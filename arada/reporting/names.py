"""The label, colour, marker and line of each method, the same in every table and figure."""

import zlib
from typing import NamedTuple

# The colours of Okabe & Ito, which colour-blind readers can distinguish, without yellow, which vanishes on white.
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
# Two more that differ from them clearly.
GREY, OLIVE = "#888888", "#999933"
MARKERS = "osD^vP*X<>hpd8"


class Style(NamedTuple):
    """A method's name for readers, its colour, marker and line."""

    label: str
    color: str
    marker: str
    line: str = "-"


_STYLES = {
    "vanilla": Style("Vanilla", VERMILLION, "o"),
    "label_smoothing": Style("Label smoothing", PURPLE, "s"),
    "adals": Style("AdaLS", GREEN, "^"),
    "ar_adals": Style("AR-AdaLS", BLUE, "D"),
    "ar_adals_on_the_fly": Style("AR-AdaLS, on the fly", SKY, "d"),
    "ar_adals_by_confidence": Style("AR-AdaLS, subsets by confidence", GREY, "h", ":"),
    "ar_adals_by_random": Style("AR-AdaLS, random subsets", GREY, "d", "-."),
    "ar_adals_shrunk": Style("AR-AdaLS, shrunk gaps", BLUE, "d", "-."),
    "mixup": Style("mixup", ORANGE, "P"),
    "ccat": Style("CCAT", OLIVE, "X"),
    "focal": Style("Focal loss", ORANGE, "v", ":"),
    "adafocal": Style("AdaFocal", GREY, "<", ":"),
    "dual_focal": Style("Dual focal loss", OLIVE, "v", ":"),
    "mbls": Style("MbLS", PURPLE, "P", ":"),
    "acls": Style("ACLS", GREEN, "X", ":"),
    "ensemble_vanilla": Style("Ensemble of vanilla", VERMILLION, ">", "--"),
    "ensemble_label_smoothing": Style("Ensemble of label smoothing", PURPLE, "p", "--"),
    "ensemble_adals": Style("Ensemble of AdaLS", GREEN, "8", "--"),
    "ensemble_ar_adals": Style("Ensemble of AR-AdaLS", BLUE, "h", "--"),
    "ar_adals_of_ensemble": Style("AR-AdaLS of ensemble", SKY, "*", "-."),
}


# A calibrator's label, appended to the method's.
CALIBRATORS = {"temperature": "temperature", "ets": "ETS"}


# The label of a fine-tuned method, by the suffix that the presets `finetune` and `finetune_quarter` append to its name.
_FINETUNED = {"": "fine-tuned", "_quarter": "fine-tuned (quarter)"}


def style(method: str) -> Style:
    """The style of a method, by its folder's name under `runs`; that of an unknown name depends only on the name."""
    if method in _STYLES:
        return _STYLES[method]
    base, _, suffix = method.partition("_finetuned")
    if base in _STYLES and suffix in _FINETUNED:
        return _STYLES[base]._replace(label=f"{_STYLES[base].label}, {_FINETUNED[suffix]}", line=":")
    colors = (SKY, ORANGE, GREY, GREEN, PURPLE, BLUE, VERMILLION)
    number = zlib.crc32(method.encode())  # hash() differs between processes
    return Style(method, colors[number % len(colors)], MARKERS[number // len(colors) % len(MARKERS)], ":")


def label(system: str) -> str:
    """The label of a method ("adals"), or of one with a calibrator ("adals+temperature")."""
    method, _, calibrator = system.partition("+")
    return style(method).label + (f" + {CALIBRATORS.get(calibrator, calibrator)}" if calibrator else "")


def in_order(evaluation: dict) -> dict:
    """The evaluation with its methods in the order of `_STYLES`, unknown ones last, by name."""
    order = list(_STYLES)
    names = sorted(evaluation["methods"], key=lambda name: (order.index(name) if name in order else len(order), name))
    return evaluation | {"methods": {name: evaluation["methods"][name] for name in names}}

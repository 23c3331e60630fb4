"""The schema of evaluation.json, which `summarize` writes and the report reads; checked whenever it is read."""

import json
import types
from typing import Any, NamedTuple

from etils import epath

from arada.errors import UserError

NUMBER = int | float
METRICS = {
    "accuracy": NUMBER,
    "confidence": NUMBER,
    "ece": NUMBER,
    "ece_floor": NUMBER,
    "ece_p95": NUMBER,
    "ece_debiased": NUMBER,
    "nll": NUMBER,
    "brier": NUMBER,
}


class Nullable(NamedTuple):
    """A value of this schema, or null."""

    schema: Any


# Added predictions may lack validation images, and then have no calibrators.
PARTS = {"test": METRICS, "validation": Nullable(METRICS), "shift": {str: [METRICS]}}
UNCERTAINTY = {
    kind: {"intervals": {str: {str: [NUMBER]}}, "differences": {str: {str: [NUMBER]}}} for kind in ("seeds", "images")
}
EXPERIMENT = {
    "dataset": str,
    "network": str,
    "num_classes": int,
    "num_examples": {str: int},
    "num_subsets": int,
    "num_bins": int,
    "variance_of": str,
    "ranking": {
        "source": str,
        "sources": [str],
        "by": str,
        "attack": Nullable(str),
        "settings": dict,
        "success_rate": {str: NUMBER},
        "agreement": dict,
    },
    "ranked_by": {str: str},
    "commit": str,
    "hardware": str,
    "versions": {str: str},
    "time": str,
    "shift_source": str,
    "shift_types": [str],
    "shift_missing": {str: str},
    "shift_severities": [int],
    "shift_max_examples": int,
    "shift_cropped": bool,
    "ood": [str],
    "ood_missing": {str: str},
    "subsets_of": str,
    "reference": str,
    "bootstrap": {"resamples": int, "level": NUMBER},
    "intervals": {"seeds": str, "images": str},
}
RUN = PARTS | {
    "calibrated": {str: PARTS},
    "ood": {str: {str: NUMBER}},
    # Empty without a ranking.
    "subsets": {str: [Nullable(NUMBER)]},
    "train_accuracy": Nullable(NUMBER),
    "images_per_second": Nullable(NUMBER),
}
METHOD = {
    "seeds": [int],
    "runs": {str: RUN},
    # Null for a single run.
    "variance": Nullable({"test": NUMBER, "subsets": Nullable([Nullable(NUMBER)]), "shift": {str: [NUMBER]}}),
    "uncertainty": {str: UNCERTAINTY},
}
EVALUATION = {"experiment": EXPERIMENT, "methods": {str: METHOD}, "pairs": dict}


def read(workdir: epath.Path) -> dict[str, Any]:
    """The content of a workdir's evaluation.json. Raises UserError if it is missing or does not fit the schema."""
    file = workdir / "evaluation.json"
    if not file.exists():
        raise UserError(f"{file} does not exist: run --stage=evaluate first")
    try:
        evaluation = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}); run --stage=evaluate again") from None
    if mistake := mistake_in(evaluation, EVALUATION):
        raise UserError(f"{file} is not in this version's format: {mistake}; run --stage=evaluate again")
    return evaluation


def mistake_in(value: Any, expected: Any, path: str = "it") -> str:
    """The first mistake in a JSON value; "" if there is none.

    Additional fields are allowed. `{str: x}` is an object with any names, `[x]` a list.
    """
    if isinstance(expected, Nullable):
        return "" if value is None else mistake_in(value, expected.schema, path)
    parts: list[tuple[str, Any, Any]]
    kind: Any = expected if isinstance(expected, type | types.UnionType) else type(expected)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"{path} is {_short(value)}"
    if isinstance(expected, list):
        parts = [(f"{path}[{index}]", item, expected[0]) for index, item in enumerate(value)]
    elif isinstance(expected, dict) and str in expected:
        parts = [(f"{path}.{name}", item, expected[str]) for name, item in value.items()]
    elif isinstance(expected, dict):
        if missing := [name for name in expected if name not in value]:
            return f"{path} has no {missing[0]}"
        parts = [(f"{path}.{name}", value[name], part) for name, part in expected.items()]
    else:
        parts = []
    mistakes = (mistake_in(item, part, where.removeprefix("it.")) for where, item, part in parts)
    return next(filter(None, mistakes), "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:40]}..."

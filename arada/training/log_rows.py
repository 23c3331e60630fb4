"""The rows that a run has logged."""

import itertools

from etils import epath

from arada.errors import UserError
from arada.runtime import files


def logged(path: epath.Path) -> list[dict[str, float]]:
    """The rows that a run has logged, empty before its start. Raises UserError if they are broken."""
    rows = files.read_json_lines(path / "metrics.jsonl")
    numbers = all(isinstance(row, dict) and all(type(x) in (int, float) for x in row.values()) for row in rows)
    steps = [0, *(row.get("step") for row in rows)] if numbers else []
    if not numbers or not all(type(after) is int and after > before for before, after in itertools.pairwise(steps)):
        raise UserError(f"{path / 'metrics.jsonl'} is not a log of steps; put it back, or delete {path}")
    return rows

"""A ranking of the images of a split, from least to most robust, and its file."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from etils import epath

from arada import attacks
from arada.data.splits import Examples
from arada.errors import UserError
from arada.runtime import files


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """N images by ascending id, and the score by which they are ordered: the lowest is the least robust.

    example_id: int32[N].
    score: float[N]; a distance may be `inf`, where the attack failed.
    kind: "distance" if an attack measured it, "score" if it is a control's, or the first-order estimate alone.
    label, predicted: int32[N], the network's class among them; None where another tool or a control left them out.
    estimate, refined: float32[N] and bool[N], of a refined ranking only. Where `refined` is False, the score is
      the distance that the second attack is expected to find.
    """

    example_id: np.ndarray
    score: np.ndarray
    kind: Literal["distance", "score"]
    label: np.ndarray | None = None
    predicted: np.ndarray | None = None
    estimate: np.ndarray | None = None
    refined: np.ndarray | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Ranking":
        """From arrays by name, in any order of the ids: the score is called "distance" or "score", as its kind."""
        order = np.argsort(arrays["example_id"], kind="stable")
        kind: Literal["distance", "score"] = "distance" if "distance" in arrays else "score"
        fields = {field.name for field in dataclasses.fields(cls)} - {"kind", "score"}
        return cls(
            score=arrays[kind][order],
            kind=kind,
            **{name: values[order] for name, values in arrays.items() if name in fields},
        )

    @classmethod
    def read(cls, file: epath.Path, *, labelled: bool = False) -> "Ranking":
        """From a file that `write` or another tool wrote. Raises UserError if it is no ranking, or with `labelled` if
        its distances come without `label` and `predicted`."""
        arrays = files.read_npz(file)
        kind = "distance" if "distance" in arrays else "score"
        needed = {"label": ("i", 1), "predicted": ("i", 1)} if labelled and kind == "distance" else {}
        files.check_arrays(file, arrays, example_id=("i", 1), **{kind: ("f", 1)}, **needed)
        values = [arrays[name] for name in (kind, "label", "predicted", "estimate", "refined") if name in arrays]
        if any(value.shape != arrays["example_id"].shape for value in values) or np.isnan(arrays[kind]).any():
            raise UserError(f"{file} does not hold a {kind} of each image; delete it and rank again")
        return cls.of(arrays)

    def write(self, file: epath.Path, subset: np.ndarray) -> None:
        """Writes the arrays, and beside them the subset of each image for readers that do not cut their own."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        arrays[self.kind] = arrays.pop("score")
        files.write_npz(file, arrays | {"subset": subset})

    def __len__(self) -> int:
        return len(self.example_id)

    @property
    def correct(self) -> np.ndarray:
        """Whether the network predicted the label, bool[N]."""
        return np.equal(self.predicted, self.label)  # type: ignore[arg-type]

    @property
    def success_rate(self) -> float:
        """The fraction of images on which the attack succeeded."""
        return float(np.isfinite(self.score).mean())

    def subsets(self, num_subsets: int) -> np.ndarray:
        """The subset int32[N] of each image, 0 = least robust."""
        return attacks.equal_subsets(self.score, num_subsets)

    def subsets_at(self, example_id: np.ndarray, num_subsets: int) -> np.ndarray:
        """The subset int32[B] of each image, cut from all that are ranked. Raises LookupError if one is not ranked."""
        at = np.minimum(np.searchsorted(self.example_id, example_id), len(self) - 1)
        if not np.array_equal(self.example_id[at], example_id):
            raise LookupError("an image is not ranked")
        return self.subsets(num_subsets)[at]


def stored_subsets(directory: epath.Path, name: str, split: Examples, num_subsets: int) -> np.ndarray:
    """The subset int32[N] of each image of `split`, from a ranking's file. Raises UserError unless ids match."""
    file = directory / f"{name}.npz"
    if not file.exists():
        raise UserError(f"there is no ranking {file}; make it with --stage=rank, or set ranking.source")
    ranking = Ranking.read(file)
    if not np.array_equal(ranking.example_id, split.example_id):
        raise UserError(f"ranking.source: {file} ranks other images than the {name} split holds")
    return ranking.subsets(num_subsets)

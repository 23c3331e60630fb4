"""The results folder of a study: all files that later runs and the page need, small enough to commit.

    RESULTS/runs/<name>/seed_<s>.json          metrics, config, commit, hardware and hours of a finished run
    RESULTS/predictions/<name>/seed_<s>.npz    its probabilities on the test images, for the variance over seeds
    RESULTS/robustness/<source>/...            the rankings that other arms of that seed are trained with
    RESULTS/index.md                           the page

Another machine continues from this folder alone: it copies the rankings into its workdir, and does not need the weights
of finished runs.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from arada.errors import UserError
from arada.runs import workdir as workdirs
from arada.runs.identity import differences, ranking_sources, run_identity, uses_precomputed
from arada.runtime import files
from arada.studies.design import Task

# The splits of a ranking.
RANKED = ("train", "validation", "test")
# Test probabilities are stored as whole numbers from 0 to `_ONE`, up to `MOST_PROBABILITIES` of them.
_ONE, MOST_PROBABILITIES = np.iinfo(np.uint16).max, 2_000_000


class Results:
    """The results folder of one study."""

    def __init__(self, path: epath.PathLike):
        self.path = files.absolute(path)

    def _run(self, task: Task) -> epath.Path:
        return self.path / "runs" / task.name / f"seed_{task.seed}.json"

    def read(self, task: Task) -> dict[str, Any] | None:
        """The record of a finished run; None if it has not finished. Raises UserError for a broken file."""
        file = self._run(task)
        if not file.exists():
            return None
        run = files.read_json(file)
        needed = {"metrics": dict, "identity": dict, "hours": float, "commit": str, "hardware": str, "data": dict}
        if not (isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in needed.items())):
            raise UserError(f"{file} is not a study's record with {', '.join(needed)}; restore it, or delete it")
        return run

    def check(self, task: Task, config: ml_collections.ConfigDict) -> None:
        """Raises UserError if the finished run `task` has another config than the study."""
        if run := self.read(task):
            now = run_identity(config, task.seed, run["identity"].get("num_devices", 1))
            if differing := differences(run["identity"], now):
                raise UserError(
                    f"{self._run(task)} has another config: {'; '.join(differing)}. Set these fields to the file's "
                    f"values, give the study another name or results folder, or delete the file"
                )

    def check_data(self, data: Mapping[str, str]) -> None:
        """Raises UserError if a finished run used images or labels with other digests."""
        for file in (path for depth in ("*", "*/*") for path in files.matching(self.path, f"runs/{depth}/seed_*.json")):
            if (stored := files.read_json(file).get("data")) != data:
                raise UserError(
                    f"{file} used other images or labels ({differences(stored, dict(data))[0]}); use the same data, or "
                    f"delete the file"
                )

    def write(self, task: Task, run: Mapping[str, Any]) -> None:
        """Writes the record of a finished run, with floats to seven digits."""
        files.write_json(self._run(task), _rounded(run))

    def write_probabilities(self, task: Task, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Stores float[N, Z] on the test images, unless they are too many."""
        if probabilities.size <= MOST_PROBABILITIES:
            scaled = np.round(probabilities * _ONE).astype(np.uint16)
            arrays: dict[str, Any] = {"probability": scaled, "label": labels.astype(np.int32)}
            files.write_npz(self._probabilities(task), arrays, compressed=True)

    def read_probabilities(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """Probabilities float32[N, Z] and labels int32[N] of a run's test images; None if they were not stored."""
        file = self._probabilities(task)
        if not file.exists():
            return None
        arrays = files.read_npz(file)
        files.check_arrays(file, arrays, probability=("u", 2), label=("i", 1))
        return arrays["probability"].astype(np.float32) / _ONE, arrays["label"]

    def _probabilities(self, task: Task) -> epath.Path:
        return self.path / "predictions" / task.name / f"seed_{task.seed}.npz"

    def keep_rankings(self, workdir: workdirs.Workdir, config: ml_collections.ConfigDict) -> None:
        """Copies the complete rankings that a run of `config` is trained with; random ones are not copied."""
        for directory in ranking_folders(workdir, config):
            copy = self.path / directory.relative_to(workdir.path)
            if is_complete(directory) and not is_complete(copy):
                for name in RANKED:
                    files.write_npz(copy / f"{name}.npz", files.read_npz(directory / f"{name}.npz"), compressed=True)
                files.write_bytes(copy / "config.json", (directory / "config.json").read_bytes())

    def restore_rankings(self, workdir: workdirs.Workdir) -> None:
        """Copies rankings back into a workdir that lacks them."""
        folders = "robustness/*/seed_*"
        for file in (
            path for deeper in ("", "*/") for path in files.matching(self.path, f"{folders}/{deeper}config.json")
        ):
            directory = workdir.path / file.parent.relative_to(self.path)
            if is_complete(file.parent) and not is_complete(directory):
                for name in RANKED:
                    files.write_bytes(directory / f"{name}.npz", (file.parent / f"{name}.npz").read_bytes())
                files.write_bytes(directory / "config.json", file.read_bytes())


def ranking_folders(workdir: workdirs.Workdir, config: ml_collections.ConfigDict) -> list[epath.Path]:
    """The folders in the workdir of the rankings for a run of `config` with its first seed, without random ones."""
    ranking = config.ranking
    if not uses_precomputed(config) or ranking.by == "random":
        return []
    sources = ranking_sources(config, config.seeds[0])
    folders = [workdir.ranking(source, ranking.by, ranking.folder) for source in sources]
    return [folder for folder in folders if workdir.path in folder.parents]


def is_complete(directory: epath.Path) -> bool:
    """Whether a ranking has all its files."""
    return all((directory / name).exists() for name in ("config.json", *(f"{split}.npz" for split in RANKED)))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value

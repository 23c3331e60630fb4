"""The results folder of a study: all that later runs and the page need, small enough to be committed.

    RESULTS/runs/<name>/seed_<s>.json          metrics, config, commit, hardware and hours of a finished run
    RESULTS/predictions/<name>/seed_<s>.npz    its probabilities on the test images, for the variance over seeds
    RESULTS/robustness/<source>/...            the rankings by which other arms of that seed are trained
    RESULTS/index.md                           the page

A machine that has only this folder goes on with the runs that are missing: rankings are put back into its workdir, and
the weights of finished runs are not needed any more.
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

# What is kept of each ranking.
RANKED = ("train", "validation", "test")
# Test probabilities are kept as whole numbers up to this one, where they are at most so many.
_ONE, MOST_PROBABILITIES = np.iinfo(np.uint16).max, 2_000_000


class Results:
    """The results folder of one study."""

    def __init__(self, path: epath.PathLike):
        self.path = files.absolute(path)

    def _run(self, task: Task) -> epath.Path:
        return self.path / "runs" / task.name / f"seed_{task.seed}.json"

    def read(self, task: Task) -> dict[str, Any] | None:
        """What a finished run has left; None if it has not finished. Raises UserError if it is not such a file."""
        file = self._run(task)
        if not file.exists():
            return None
        run = files.read_json(file)
        needed = {"metrics": dict, "identity": dict, "hours": float, "commit": str, "hardware": str, "data": dict}
        if not (isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in needed.items())):
            raise UserError(f"{file} is not what a study writes: {', '.join(needed)}; put it back, or delete it")
        return run

    def check(self, task: Task, config: ml_collections.ConfigDict) -> None:
        """Raises UserError if the finished run `task` was made by another config than the study's."""
        if run := self.read(task):
            now = run_identity(config, task.seed, run["identity"].get("num_devices", 1))
            if differing := differences(run["identity"], now):
                raise UserError(
                    f"{self._run(task)} was made with another config: {'; '.join(differing)}. Set them as they are "
                    f"there, give the study another name or results folder, or delete the file"
                )

    def check_data(self, data: Mapping[str, str]) -> None:
        """Raises UserError if a finished run saw other images than those with these digests."""
        for file in (path for depth in ("*", "*/*") for path in files.matching(self.path, f"runs/{depth}/seed_*.json")):
            if (there := files.read_json(file).get("data")) != data:
                raise UserError(f"{file} was made with other images or labels ({differences(there, dict(data))[0]})")

    def write(self, task: Task, run: Mapping[str, Any]) -> None:
        """Keeps what a finished run leaves; floats to seven digits."""
        files.write_json(self._run(task), _rounded(run))

    def write_probabilities(self, task: Task, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Keeps float[N, Z] on the test images, unless they are too many."""
        if probabilities.size <= MOST_PROBABILITIES:
            kept = np.round(probabilities * _ONE).astype(np.uint16)
            arrays: dict[str, Any] = {"probability": kept, "label": labels.astype(np.int32)}
            files.write_npz(self._probabilities(task), arrays, compressed=True)

    def read_probabilities(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """(float32[N, Z], int32[N]) of a run's test images; None if they were not kept."""
        file = self._probabilities(task)
        if not file.exists():
            return None
        arrays = files.read_npz(file)
        files.check_arrays(file, arrays, probability=("u", 2), label=("i", 1))
        return arrays["probability"].astype(np.float32) / _ONE, arrays["label"]

    def _probabilities(self, task: Task) -> epath.Path:
        return self.path / "predictions" / task.name / f"seed_{task.seed}.npz"

    def keep_rankings(self, workdir: workdirs.Workdir, config: ml_collections.ConfigDict) -> None:
        """Copies the rankings by which a run of `config` is trained, if they are complete; random ones need not be."""
        for directory in ranking_folders(workdir, config):
            kept = self.path / directory.relative_to(workdir.path)
            if is_complete(directory) and not is_complete(kept):
                for name in RANKED:
                    files.write_npz(kept / f"{name}.npz", files.read_npz(directory / f"{name}.npz"), compressed=True)
                files.write_bytes(kept / "config.json", (directory / "config.json").read_bytes())

    def restore_rankings(self, workdir: workdirs.Workdir) -> None:
        """Puts rankings back into a workdir that lacks them."""
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
    """Those that a run of `config` with its first seed is trained by and that take work to make."""
    ranking = config.ranking
    if not uses_precomputed(config) or ranking.by == "random":
        return []
    sources = ranking_sources(config, config.seeds[0])
    folders = [workdir.ranking(source, ranking.by, ranking.folder) for source in sources]
    return [folder for folder in folders if workdir.path in folder.parents]


def is_complete(directory: epath.Path) -> bool:
    """Whether a ranking has all its files; config.json is copied last."""
    return all((directory / name).exists() for name in ("config.json", *(f"{split}.npz" for split in RANKED)))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(of) for of in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value

"""Checkpoints by orbax: everything that a run needs to continue as if it had never stopped."""

import contextlib
import functools
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from arada.errors import UserError
from arada.runtime import files, hosts
from arada.training.state import Supervision, TrainState, fingerprint

logger = logging.getLogger(__name__)

# The last file that orbax writes into a checkpoint before it names it.
_METADATA = "_CHECKPOINT_METADATA"
# Attempts to list the checkpoints of a run that another process trains: it may delete one at any moment.
_LISTINGS = 10


class Restored(NamedTuple):
    """A run as its checkpoint holds it; `window` has the metrics of the steps that are not logged yet."""

    state: TrainState
    supervision: Supervision
    window: list[dict[str, np.float32]]


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them, numbered by step."""

    def __init__(self, directory: epath.PathLike, keep: int = 2, create: bool = True):
        options = ocp.CheckpointManagerOptions(
            # Two at least: a newest one that turns out broken must not be the only one.
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            create=create,
        )
        self._directory = epath.Path(directory)
        files.check_name(self._directory, "checkpoints")
        try:
            self._manager = _opened(self._directory, options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # orbax reads this file of all checkpoints, and accepts broken JSON.
            raise UserError(
                f"a {_METADATA} in {self._directory} is not what orbax writes ({_one_line(error)}); delete the folder "
                f"that it is in, and the checkpoint before it is used"
            ) from None

    def steps(self) -> list[int]:
        """The steps of the checkpoints that were committed, newest first."""
        # orbax treats any folder with a number as its name as a checkpoint.
        committed = (step for step in self._manager.all_steps() if (self._directory / str(step) / _METADATA).exists())
        return sorted(committed, reverse=True)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return next(iter(self.steps()), None)

    def save(
        self, step: int, state: TrainState, supervision: Supervision, run: dict, window: Sequence[dict] = ()
    ) -> None:
        """Saves in the background; `run` is a JSON dict (config and seed) kept beside the arrays, `window` holds the
        metrics of the steps that are not logged yet. Raises UserError if this or the save before cannot be written."""
        # On the host: a checkpoint then knows nothing of devices, and restores onto any number of them.
        items = jax.device_get({"state": state, "supervision": supervision})
        beside = run | {
            "window": [{key: float(value) for key, value in metrics.items()} for metrics in window],
            "weights": fingerprint(items["state"].variables),
            "arrays": {name: {"fields": _fields(tree), "crc32": fingerprint(tree)} for name, tree in items.items()},
        }
        args = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
            run=ocp.args.JsonSave(beside | {"crc32": _crc32_of_json(beside)}),
        )
        with self._writing():
            if not self._manager.save(step, args=args):
                raise RuntimeError(f"orbax declined to save step {step} in {self._directory}")

    def restore(self, state: TrainState, supervision: Supervision) -> Restored | None:
        """The newest checkpoint that can be read, in the shape of the arguments; None if there is no checkpoint.

        A broken checkpoint is named in a warning, deleted, and the one before it is used. Raises UserError if there
        are checkpoints and none can be read, or if they are of another network.
        """
        step, restored = self._newest(state=state, supervision=supervision)
        self.drop_after(-1 if step is None else step)
        if step is None:
            return None
        # As the step made them: their mean is one of float32.
        window = [{k: np.float32(v) for k, v in metrics.items()} for metrics in restored["run"].get("window", [])]
        return Restored(restored["state"], restored["supervision"], window)

    def restore_state(self, state: TrainState) -> TrainState:
        """The newest weights alone, in the shape of `state`. Raises UserError if there are none."""
        step, restored = self._newest(state=state)
        if step is None:
            raise UserError(f"there is no checkpoint in {self._directory}; train the run first")
        return restored["state"]

    def weights(self, step: int) -> int | None:
        """The fingerprint of a checkpoint's variables by its record; None if it has no record, or a broken one."""
        try:
            return self._beside(step).get("weights")
        except Exception:  # orbax raises many kinds for broken files
            return None

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints after `step`, which cannot be read: else they would have been restored."""
        if hosts.is_first():
            for broken in self._manager.all_steps():
                if broken > step:
                    (self._directory / str(broken)).rmtree()
        hosts.wait(f"{self._directory} holds nothing after {step}")
        self._manager.reload()

    def _newest(self, **templates):
        """The newest checkpoint that can be read, as (step, items); (None, {}) if there is no checkpoint."""
        for step in self.steps():
            try:
                return step, self._read(step, templates)
            except UserError:
                raise
            except Exception as error:  # orbax raises many kinds for broken files
                logger.warning(
                    "checkpoint %s cannot be read and is skipped: %s", self._directory / str(step), _one_line(error)
                )
        if self.steps():
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; delete the folder to start again"
            )
        return None, {}

    def _read(self, step: int, templates: dict) -> dict[str, Any]:
        """Items of one checkpoint. orbax does not notice a changed bit in an array: the sums do."""
        beside = self._beside(step)
        # Older checkpoints have no sums.
        known = beside.get("arrays", {})
        for name, template in templates.items():
            if known and (differing := _differences(known[name]["fields"], _fields(template))):
                raise UserError(
                    f"checkpoint {self._directory / str(step)} is of another network, optimizer or method, or was "
                    f"written by another version of them: {differing}. Use those, or another --workdir"
                )
        args = {name: ocp.args.StandardRestore(template) for name, template in templates.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        for name in templates:
            if known and fingerprint(restored[name]) != known[name]["crc32"]:
                raise ValueError(f"its {name} has changed since it was written")
        return {name: restored[name] for name in templates} | {"run": beside}

    def _beside(self, step: int) -> dict[str, Any]:
        """The record beside the arrays."""
        beside = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        crc32 = beside.pop("crc32", None)
        if beside.get("arrays") and crc32 != _crc32_of_json(beside):
            raise ValueError("its config and metrics do not match their checksum")
        return beside

    def close(self) -> None:
        """Waits for the save in progress. Call it before the process ends. Raises UserError if the save fails."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # orbax', and tensorstore's
            raise UserError(
                f"a checkpoint cannot be written to {self._directory} ({_one_line(error)}); earlier ones are kept, "
                f"and when there is room the same command continues from the newest"
            ) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _opened(directory: epath.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """orbax' manager, whose listing fails when a checkpoint is deleted meanwhile."""
    opened = functools.partial(
        ocp.CheckpointManager, directory, options=options, item_names=("state", "supervision", "run")
    )
    for _ in range(_LISTINGS - 1):
        with contextlib.suppress(FileNotFoundError):
            return opened()
    return opened()


def _one_line(error: Exception) -> str:
    """The error in one line, without the source locations and settings that tensorstore adds."""
    lines = str(error).partition(" [")[0].splitlines() or [type(error).__name__]
    return ": ".join(lines[0].split(": ")[-2:])


def _fields(tree) -> dict[str, str]:
    """The dtype and shape of every array by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{np.result_type(leaf)}{list(np.shape(leaf))}"
        for path, leaf in leaves
    }


def _differences(stored: dict[str, str], new: dict[str, str]) -> str:
    differing = [key for key in sorted(stored.keys() | new.keys()) if stored.get(key) != new.get(key)]
    fields = [f"{key} was {stored.get(key, 'absent')} and is now {new.get(key, 'absent')}" for key in differing[:3]]
    return "; ".join(fields) + (f", and {len(differing) - 3} more" if len(differing) > 3 else "")


def _crc32_of_json(value: dict) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())

"""Checkpoints by orbax: everything that a run needs to go on as if it had never stopped."""

import logging

import jax
import orbax.checkpoint as ocp
from etils import epath

from arada import hosts
from arada.errors import UserError
from arada.training.state import Supervision, TrainState

logger = logging.getLogger(__name__)

# What orbax writes into a checkpoint last but its name.
_METADATA = "_CHECKPOINT_METADATA"


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them, numbered by step."""

    def __init__(self, directory: epath.PathLike, keep: int = 2, create: bool = True):
        options = ocp.CheckpointManagerOptions(
            # Two at least: a newest one that turns out broken must not be the only one.
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            create=create,
        )
        self._directory = epath.Path(directory)
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_names=("state", "supervision", "run")
        )

    def steps(self) -> list[int]:
        """The steps of the checkpoints that were committed, newest first."""
        # orbax takes any folder with a number for a name as a checkpoint.
        committed = (step for step in self._manager.all_steps() if (self._directory / str(step) / _METADATA).exists())
        return sorted(committed, reverse=True)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return next(iter(self.steps()), None)

    def save(self, step: int, state: TrainState, supervision: Supervision, run: dict) -> None:
        """Saves in the background; `run` is a JSON dict (config and seed) kept beside the arrays."""
        # On the host: a checkpoint then knows nothing of devices, and restores onto any number of them.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.device_get(state)),
            supervision=ocp.args.StandardSave(jax.device_get(supervision)),
            run=ocp.args.JsonSave(run),
        )
        if not self._manager.save(step, args=args):
            raise RuntimeError(f"orbax declined to save step {step} in {self._directory}")

    def restore(self, state: TrainState, supervision: Supervision) -> tuple[TrainState, Supervision] | None:
        """The newest checkpoint that can be read, in the shape of the arguments; None if there is none at all.

        A broken checkpoint is named in a warning, deleted, and the one before it is used. Raises UserError if there
        are checkpoints and none can be read.
        """
        step, restored = self._newest(state=state, supervision=supervision)
        self.drop_after(-1 if step is None else step)
        return None if step is None else (restored["state"], restored["supervision"])

    def restore_state(self, state: TrainState) -> TrainState:
        """The newest weights alone, in the shape of `state`. Raises UserError if there are none."""
        step, restored = self._newest(state=state)
        if step is None:
            raise UserError(f"there is no checkpoint in {self._directory}; train the run first")
        return restored["state"]

    def drop_after(self, step: int) -> None:
        """Deletes what lies there for later steps: broken, or they would have been restored."""
        if hosts.is_first():
            for broken in self._manager.all_steps():
                if broken > step:
                    (self._directory / str(broken)).rmtree()
        hosts.wait(f"{self._directory} holds nothing after {step}")
        self._manager.reload()

    def _newest(self, **templates):
        """The newest checkpoint that can be read, as (step, items); (None, {}) if there is none at all."""
        args = {name: ocp.args.StandardRestore(template) for name, template in templates.items()}
        for step in self.steps():
            try:
                return step, self._manager.restore(step, args=ocp.args.Composite(**args))
            except Exception as error:  # orbax raises many kinds for broken files
                logger.warning(
                    "checkpoint %s cannot be read and is passed over: %s", self._directory / str(step), error
                )
        if self.steps():
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; delete the folder to start anew"
            )
        return None, {}

    def close(self) -> None:
        """Waits for what is being saved. To be called before the process ends."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

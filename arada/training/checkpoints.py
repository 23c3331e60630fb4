"""Checkpoints by orbax: everything that a run needs to go on as if it had never stopped."""

import logging

import jax
import orbax.checkpoint as ocp
from etils import epath

from arada.errors import UserError
from arada.training.state import Supervision, TrainState

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them, numbered by step."""

    def __init__(self, directory: epath.PathLike, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            # Two at least: a newest one that turns out broken must not be the only one.
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            create=True,
        )
        self._directory = epath.Path(directory)
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_names=("state", "supervision", "run")
        )

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

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
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._restore(step, state=state, supervision=supervision)
            except Exception as error:  # orbax raises many kinds for broken files
                logger.warning(
                    "checkpoint %s cannot be read and is passed over: %s", self._directory / str(step), error
                )
                continue
            for broken in steps[: steps.index(step)]:
                (self._directory / str(broken)).rmtree()
            self._manager.reload()
            return restored["state"], restored["supervision"]
        if steps:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; delete the folder to start anew"
            )
        return None

    def restore_state(self, state: TrainState) -> TrainState:
        """The newest weights alone, in the shape of `state`. Raises UserError if there are none."""
        step = self.latest_step()
        if step is None:
            raise UserError(f"there is no checkpoint in {self._directory}; train the run first")
        return self._restore(step, state=state)["state"]

    def _restore(self, step: int, **templates):
        args = {name: ocp.args.StandardRestore(template) for name, template in templates.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**args))

    def close(self) -> None:
        """Waits for what is being saved. To be called before the process ends."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

"""Training the members of an ensemble in lockstep: one state, one step, one batch that holds a batch for each."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arada.data.splits import ALL, Batch, Examples, Share
from arada.models.ensemble import member_seeds, over_members
from arada.training.state import TrainState

# The fields with a leading axis [M]; members take the same steps on data with the same normalisation.
AXES: dict[str, Any] = {"step": None, "params": 0, "batch_stats": 0, "normalization": None, "opt_state": 0}
STATE_AXES = TrainState(**AXES)


def stack(states: Sequence[TrainState]) -> TrainState:
    """The states of M members as one, see `STATE_AXES`; a single state is returned unchanged."""
    if len(states) == 1:
        return states[0]
    return jax.tree.map(
        lambda axis, *trees: trees[0] if axis is None else jax.tree.map(lambda *x: jnp.stack(x), *trees),
        STATE_AXES,
        *states,
        is_leaf=lambda axis: axis is None,
    )


def lockstep(step: Callable, members: int, *, unrolled: bool | None = None) -> Callable:
    """Turns the train step of one member into a step of M: (state, batch, learnt, key) -> (state, metrics).

    `state` as `stack` makes it, batch [B, M, ...] of `MemberOrders`, key [M]; `learnt` is shared. Metrics are
    means over the members.
    """
    each = over_members(step, (STATE_AXES, 1, None, 0), (STATE_AXES, 0), members=members, unrolled=unrolled)

    def step_of_all(state, batch, learnt, key):
        state, metrics = each(state, batch, learnt, key)
        return state, jax.tree.map(jnp.mean, metrics)

    return step_of_all


@dataclasses.dataclass(frozen=True)
class MemberOrders:
    """A training split in the orders of M members, each by its own seed."""

    split: Examples
    members: int

    def __len__(self) -> int:
        return len(self.split)

    @property
    def example_id(self) -> np.ndarray:
        """int32[N], ascending."""
        return self.split.example_id

    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0, share: Share = ALL) -> Iterator[Batch]:
        """Like `Split.epoch`, with the members' batches side by side: image [B, M, H, W, C], label [B, M] ..."""
        orders = (
            self.split.epoch(batch_size, seed=member, epoch=epoch, skip=skip, share=share)
            for member in member_seeds(seed, self.members)
        )
        for batches in zip(*orders, strict=True):
            yield {key: np.stack([batch[key] for batch in batches], axis=1) for key in batches[0]}

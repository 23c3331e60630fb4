"""Applies a mapped function to every example of a split, once each, in padded batches.

Several processes share the batches: each makes its own on its own devices and all get the outputs of all. They need not
keep in step, nor have equally many.
"""

import collections
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from arada.data.splits import Examples
from arada.training.replication import Replicas


def batches_over(
    mapped: Callable,
    variables,
    split: Examples,
    *,
    batch_size: int,
    replicas: Replicas,
    batches: Sequence[int] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The outputs of mapped(variables, batch), a dict of arrays [B, ...], batch by batch, or for `batches` by number.

    Padding is removed, and example_id and label are added. The next batch is under way while one is read.
    """
    pending: collections.deque = collections.deque()

    def read():
        batch, outputs = pending.popleft()
        outputs = replicas.fetch(outputs) | {"example_id": batch["example_id"], "label": batch["label"]}
        return {key: value[batch["mask"]] for key, value in outputs.items()}

    for batch in split.in_order(batch_size, batches=batches):
        pending.append((batch, mapped(variables, batch)))
        if len(pending) > 1:
            yield read()
    while pending:
        yield read()


def over(mapped: Callable, variables, split: Examples, *, batch_size: int, replicas: Replicas) -> dict[str, np.ndarray]:
    """The outputs of mapped(variables, batch) for a whole split, [N, ...], by ascending id, on every process.

    `replicas` are the process' own.
    """
    own = of_process(-(-len(split) // batch_size))
    # Who has no batch must know the outputs to exchange them, and repeats the first.
    batches = batches_over(mapped, variables, split, batch_size=batch_size, replicas=replicas, batches=own or [0])
    return joined(list(batches), split, batch_size)


def of_process(batches: int) -> range:
    """The numbers of the batches that this process makes: neighbours, so that it reads no files of the others."""
    each = _most(batches)
    return range(jax.process_index() * each, min((jax.process_index() + 1) * each, batches))


def _most(batches: int) -> int:
    return -(-batches // jax.process_count())


def joined(parts: list[dict[str, np.ndarray]], split: Examples, batch_size: int) -> dict[str, np.ndarray]:
    """The parts of a pass over `split` as one, every example counted once, on every process."""
    parts = _exchanged(parts, len(split), batch_size)
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if not np.array_equal(whole["example_id"], split.example_id):
        raise RuntimeError(f"counted {len(whole['example_id'])} examples of a split of {len(split)}")
    return whole


def _exchanged(parts: list[dict[str, np.ndarray]], count: int, size: int) -> list[dict[str, np.ndarray]]:
    """The parts of all processes in order, from those of this one (see `of_process`)."""
    if jax.process_count() == 1:
        return parts
    # Of one shape everywhere; all but the last batch are full, and what is too much is behind them.
    examples = size * _most(-(-count // size))

    def padded(key):
        value = np.concatenate([part[key] for part in parts])[:examples]
        return np.concatenate([value, np.zeros((examples - len(value), *value.shape[1:]), value.dtype)])

    gathered = multihost_utils.process_allgather({key: padded(key) for key in parts[0]}, tiled=True)
    return [{key: value[:count] for key, value in gathered.items()}]

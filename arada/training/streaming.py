"""Applies a mapped function to every example of a split, once each, in padded batches.

Each device takes one batch at a time, so that a batch's number means the same examples on every machine. Each process
computes its own batches, and all processes receive all outputs. They need not be synchronous, nor have equally many.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from arada.data.splits import Batch, Examples
from arada.training.ahead import Prefetcher
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

    Padding is removed, and example_id and label are added. The next batch is read and under way while one is fetched.
    """
    every = _batches_of_runs(mapped, [variables], split, batch_size=batch_size, replicas=replicas, batches=batches)
    return (outputs for (outputs,) in every)


def _batches_of_runs(mapped, runs, split, *, batch_size, replicas, batches) -> Iterator[list[dict[str, np.ndarray]]]:
    """Like `batches_over`, for the variables of several runs: each batch is read once for all of them."""
    pending: collections.deque = collections.deque()

    def fetched():
        parts, outputs_of_runs = pending.popleft()
        whole = [replicas.fetch(outputs) for outputs in outputs_of_runs]
        for number, part in enumerate(parts):
            at = slice(number * batch_size, (number + 1) * batch_size)
            known = {"example_id": part["example_id"], "label": part["label"]}
            yield [
                {key: value[part["mask"]] for key, value in ({k: v[at] for k, v in run.items()} | known).items()}
                for run in whole
            ]

    with Prefetcher(_together(split.in_order(batch_size, batches=batches), len(replicas))) as groups:
        for parts, batch in groups:
            if len(runs) > 1:  # copied once for all of them
                batch = replicas.place(batch)
            pending.append((parts, [mapped(variables, batch) for variables in runs]))
            if len(pending) > 1:
                yield from fetched()
        while pending:
            yield from fetched()


def _together(batches: Iterator[Batch], devices: int) -> Iterator[tuple[list[Batch], Batch]]:
    """Up to `devices` batches, and their concatenation, filled to a fixed size with copies of the last."""
    while parts := list(itertools.islice(batches, devices)):
        full = parts + parts[-1:] * (devices - len(parts))
        yield (
            parts,
            parts[0] if devices == 1 else {key: np.concatenate([part[key] for part in full]) for key in full[0]},
        )


def map_split(
    mapped: Callable, variables, split: Examples, *, batch_size: int, replicas: Replicas
) -> dict[str, np.ndarray]:
    """The outputs of mapped(variables, batch) for a whole split, [N, ...], by ascending id, on every process.

    `replicas` are the process' own; `batch_size` is per device.
    """
    (whole,) = map_split_runs(mapped, [variables], split, batch_size=batch_size, replicas=replicas)
    return whole


def map_split_runs(
    mapped: Callable, runs: Sequence, split: Examples, *, batch_size: int, replicas: Replicas
) -> list[dict[str, np.ndarray]]:
    """Like `map_split`, for the variables of several runs: examples are read and decoded once for all of them."""
    own = own_batches(-(-len(split) // batch_size))
    # A process without a batch must know the shapes of the outputs, and repeats the first batch.
    parts = list(_batches_of_runs(mapped, runs, split, batch_size=batch_size, replicas=replicas, batches=own or [0]))
    return [joined(list(parts_of_run), split, batch_size) for parts_of_run in zip(*parts, strict=True)]


def own_batches(batches: int) -> range:
    """The numbers of the batches that this process makes: neighbours, so that it does not read the others' files."""
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
    """The parts of all processes in order, from the parts that this one made (see `own_batches`)."""
    if jax.process_count() == 1:
        return parts
    # The same shape everywhere; all but the last batch are full, and padding is at the end.
    examples = size * _most(-(-count // size))

    def padded(key):
        value = np.concatenate([part[key] for part in parts])[:examples]
        return np.concatenate([value, np.zeros((examples - len(value), *value.shape[1:]), value.dtype)])

    gathered = multihost_utils.process_allgather({key: padded(key) for key in parts[0]}, tiled=True)
    return [{key: value[:count] for key, value in gathered.items()}]

"""Applies a mapped function to every example of a split, once each, in padded batches."""

import collections
from collections.abc import Callable, Iterator, Sequence

import numpy as np

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
    """The outputs of mapped(variables, batch) for a whole split, [N, ...], by ascending id."""
    parts = list(batches_over(mapped, variables, split, batch_size=batch_size, replicas=replicas))
    return joined(parts, split)


def joined(parts: list[dict[str, np.ndarray]], split: Examples) -> dict[str, np.ndarray]:
    """Parts of a pass over `split` as one, every example counted once."""
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if not np.array_equal(whole["example_id"], split.example_id):
        raise RuntimeError(f"counted {len(whole['example_id'])} examples of a split of {len(split)}")
    return whole

"""Streamed examples that are read after every epoch: decoded once, then kept in memory if they fit."""

import logging
import math
from collections.abc import Iterator, Sequence

from arada.data.splits import Batch, Examples, Split
from arada.runtime import machine

logger = logging.getLogger(__name__)

# The share of the memory that is free at the start; training needs the rest.
SHARE = 0.5


def cached(split: Examples) -> Examples:
    """`split`, with the batches of `in_order` kept in memory once they are decoded, if all of them fit."""
    if isinstance(split, Split):
        return split
    needed, free = len(split) * math.prod(split.image_shape), machine.available_memory()
    if needed > SHARE * free:
        logger.info(
            "validation: %.1f GB decoded, more than %d %% of the %.1f GB that are free: the files are read again "
            "every epoch",
            needed / 1e9,
            100 * SHARE,
            free / 1e9,
        )
        return split
    return _Cached(split)


class _Cached:
    """An `Examples` that decodes each batch of `in_order` once; each process keeps its own share."""

    def __init__(self, split: Examples):
        self._split = split
        self._batches: dict[tuple[int, int], Batch] = {}

    def __getattr__(self, name: str):
        return getattr(self._split, name)

    def __len__(self) -> int:
        return len(self._split)

    def in_order(self, batch_size: int, *, batches: Sequence[int] | None = None) -> Iterator[Batch]:
        numbers = range(-(-len(self) // batch_size)) if batches is None else batches
        missing = [number for number in numbers if (batch_size, number) not in self._batches]
        made = self._split.in_order(batch_size, batches=missing) if missing else iter(())
        for number in numbers:
            key = batch_size, number
            if key not in self._batches:
                self._batches[key] = next(made)
            yield dict(self._batches[key])

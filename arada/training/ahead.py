"""Reading ahead: a thread prepares the next batch while the devices compute on this one."""

import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


class Prefetcher(Iterator[T]):
    """The items of an iterable in their order, always one ahead; the first is read immediately.

    An error in the thread is raised where its item would have come. `close` it, or use it in a `with`.
    """

    def __init__(self, items: Iterable[T]):
        self._items: Iterator[Any] = iter(items)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._next = self._thread.submit(next, self._items, _END)

    def __next__(self) -> T:
        item: Any = self._next.result()
        if item is _END:
            raise StopIteration
        self._next = self._thread.submit(next, self._items, _END)
        return item

    def close(self) -> None:
        """Stops reading; waits for the item that is being read."""
        self._thread.shutdown(cancel_futures=True)
        if hasattr(self._items, "close"):
            self._items.close()

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *_) -> None:
        self.close()

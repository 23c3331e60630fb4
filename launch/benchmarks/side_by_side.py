"""Contestants side by side: each in a process of its own, taking turns, and the table of what came out.

The threads of JAX and of PyTorch wait for one another in a common process. All contestants are built and have done
their work once (compilation, memory) before the first measurement; while one works the others sleep.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np

from launch.benchmarks.contestants import Contestant


class Skipped(Exception):
    """Why a row is not measured."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contestant by name, and how to build it. The fastest of those of one name stands for it in the table."""

    name: str
    build: Callable[..., Contestant]
    settings: dict
    variant: str = ""
    optional: bool = False

    @property
    def label(self) -> str:
        """The name with its variant."""
        return f"{self.name}, {self.variant}" if self.variant else self.name


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Contestants that do the same work; the first is what the others are compared with.

    Figures are amounts of work a second, or with `seconds_for` the seconds for so much work.
    """

    title: str
    unit: str
    entries: tuple[Entry, ...]
    seconds_for: float = 0.0


def _serve(connection, entry: Entry, cpus: int, seconds: float) -> None:
    """A worker's life: builds its contestant, runs it once, and then measures whenever it is asked to."""
    jax.config.update("jax_platforms", "cpu")
    if hasattr(os, "sched_setaffinity"):  # before the first thread of JAX and torch
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
    try:
        contestant = entry.build(**entry.settings)
        contestant.turn()
    except ImportError as error:
        connection.send(("absent", str(error)))
        return
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("ready", contestant.witness))
    idle, spent_idle = 0.0, 0.0
    done, worked = time.perf_counter(), time.process_time()
    while connection.recv() == "measure":
        idle += time.perf_counter() - done
        spent_idle += time.process_time() - worked
        turns = [contestant.turn()]
        while sum(spent for _, spent in turns) < seconds:
            turns.append(contestant.turn())
        connection.send((sum(amount for amount, _ in turns) / sum(spent for _, spent in turns), spent_idle / idle))
        done, worked = time.perf_counter(), time.process_time()


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, entry: Entry, cpus: int, seconds: float):
        self._label = entry.label
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, entry, cpus, seconds), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.state, self.told = self._connection.recv()
        except EOFError:
            self.state, self.told = "failed", f"{entry.label}: its process died"

    def measure(self) -> tuple[float, float]:
        """Amount of work a second; and how much of a CPU the process has used while it was waiting."""
        try:
            self._connection.send("measure")
            return self._connection.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"{self._label}: its process died") from None

    def close(self) -> None:
        """Ends the process."""
        if self.state == "ready":
            with contextlib.suppress(BrokenPipeError):
                self._connection.send("stop")
        self._process.join()
        self._connection.close()


def measure(comparison: Comparison, *, repeats: int, cpus: int, seconds: float) -> dict:
    """Lets the contestants take turns; the figures of each, in the order of the repeats.

    Raises Skipped if a library is missing without which the comparison has no point.
    """
    tell(comparison.title)
    workers, witnesses, load = {}, {}, os.getloadavg()[0]
    try:
        for entry in reversed(comparison.entries):  # peers first: what is missing shows itself before compilations
            tell(f"  preparing {entry.label}")
            worker = workers[entry.label] = Worker(entry, cpus, seconds)
            if worker.state == "failed":
                raise RuntimeError(worker.told)
            if worker.state == "absent":
                workers.pop(entry.label).close()
                if not entry.optional:
                    raise Skipped(f"{worker.told}; pip install -r tests/requirements-peers.txt")
                tell(f"  without {entry.label}: {worker.told}")
            else:
                witnesses[entry.label] = worker.told
        check_witnesses(witnesses)
        entries = [entry for entry in comparison.entries if entry.label in workers]
        figures, idle = {entry.label: [] for entry in entries}, dict.fromkeys(workers, 0.0)
        for repeat in range(repeats):
            # To and fro, so that a drift of the machine's speed meets everyone.
            for entry in entries if repeat % 2 == 0 else reversed(entries):
                rate, idle[entry.label] = workers[entry.label].measure()
                figure = comparison.seconds_for / rate if comparison.seconds_for else rate
                figures[entry.label].append(figure)
                tell(f"  repeat {repeat + 1}/{repeats}: {entry.label}: {figure:.4g} {comparison.unit}")
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "title": comparison.title,
        "unit": comparison.unit,
        "seconds": bool(comparison.seconds_for),
        "load_before": load,
        "contestants": [
            {"name": entry.name, "variant": entry.variant, "witness": witnesses[entry.label]}
            | {"cpu_while_waiting": idle[entry.label]}
            | summary(figures[entry.label])
            for entry in entries
        ],
    }


def check_witnesses(witnesses: dict[str, float | None]) -> None:
    """Raises RuntimeError if contestants differ by more than a percent in what they should have in common."""
    values = {label: value for label, value in witnesses.items() if value is not None}
    if values and not np.allclose(list(values.values()), next(iter(values.values())), rtol=0.01):
        raise RuntimeError(f"the contestants do not compute the same: {values}")


def summary(figures: list[float]) -> dict:
    """Median, extremes and all repeats."""
    median = statistics.median(figures)
    return {"median": median, "min": min(figures), "max": max(figures), "repeats": figures}


def standings(result: dict) -> list[dict]:
    """One contestant for each name, the fastest by its median, with `speedup`: how many times as fast as it the first
    one is."""
    best = {}
    for contestant in result["contestants"]:
        rival = best.get(contestant["name"], contestant)
        better = min if result["seconds"] else max
        best[contestant["name"]] = better((rival, contestant), key=lambda one: one["median"])
    first = next(iter(best.values()))["median"]
    ratios = {name: one["median"] / first if result["seconds"] else first / one["median"] for name, one in best.items()}
    return [one | {"speedup": ratios[name]} for name, one in best.items()]


def table(results: list[dict]) -> str:
    """Medians, extremes and ratios as text."""
    lines = []
    for result in results:
        rows = [("", result["unit"], "min - max", "first is x times as fast")]
        for one in standings(result):
            label = f"{one['name']} ({one['variant']})" if one["variant"] else one["name"]
            extremes = f"{one['min']:.4g} - {one['max']:.4g}"
            rows.append((label, f"{one['median']:.4g}", extremes, f"{one['speedup']:.2f}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [result["title"]]
        for label, *cells in rows:
            right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join((label.ljust(widths[0]), *right)))
        lines.append("")
    return "\n".join(lines)


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)

"""Contestants side by side: each in a process of its own, taking turns, and how they compare.

The threads of JAX and of PyTorch wait for one another in a common process. All contestants are built and have done
their work once (compilation, memory) before the first measurement; while one works the others sleep. What anything else
on the machine uses of its CPUs during a turn is measured with it.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np
import tabulate

from launch.benchmarks.contestants import Contestant


class Skipped(Exception):
    """Why a row is not measured."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contestant by name, and how to build it. The table shows the fastest entry of each name."""

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

    Figures are amounts of work a second, or with `seconds_for` the seconds for so much work. `goals` says by name how
    many times as fast as a contestant the first one should be.
    """

    title: str
    unit: str
    entries: tuple[Entry, ...]
    seconds_for: float = 0.0
    goals: dict[str, float] = dataclasses.field(default_factory=dict)


def _serve(connection, entry: Entry, cpus: int, seconds: float, device: str) -> None:
    """A worker's life: builds its contestant, runs it once, and then measures whenever it is asked to."""
    jax.config.update("jax_platforms", device)
    jax.config.update("jax_enable_compilation_cache", False)  # the first call compiles, as a newcomer's does
    if hasattr(os, "sched_setaffinity"):  # before the first thread of JAX and torch
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
    try:
        contestant = entry.build(**entry.settings)
        start = time.perf_counter()
        contestant.turn()
        first = time.perf_counter() - start
    except ImportError as error:
        connection.send(("absent", str(error)))
        return
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        return
    about = {"witness": contestant.witness, "first_seconds": contestant.first_seconds or first}
    about["peak_bytes"] = _peak_bytes(device)
    connection.send(("ready", about))
    idle, spent_idle = 0.0, 0.0
    done, worked = time.perf_counter(), time.process_time()
    while connection.recv() == "measure":
        idle += time.perf_counter() - done
        spent_idle += time.process_time() - worked
        busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
        turns = [contestant.turn()]
        while sum(spent for _, spent in turns) < seconds:
            turns.append(contestant.turn())
        others = (_busy_seconds() - busy - (time.process_time() - own)) / (time.perf_counter() - start)
        rate = sum(amount for amount, _ in turns) / sum(spent for _, spent in turns)
        connection.send((rate, spent_idle / idle, max(0.0, others)))
        done, worked = time.perf_counter(), time.process_time()


def _peak_bytes(device: str) -> int:
    """The most memory that this process has had: of the accelerator, by JAX and by PyTorch, or of the host."""
    if device == "cpu":
        # Kilobytes on Linux, bytes on a Mac.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    by_torch = sys.modules["torch"].cuda.max_memory_allocated() if "torch" in sys.modules else 0
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) + by_torch


def _busy_seconds() -> float:
    """CPU time that the machine has spent working or lent to another machine since it was started; NaN off Linux."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except FileNotFoundError:
        return float("nan")
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, entry: Entry, cpus: int, seconds: float, device: str = "cpu"):
        self._label = entry.label
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, entry, cpus, seconds, device), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.state, self.message = self._connection.recv()
        except EOFError:
            self.state, self.message = "failed", f"{entry.label}: its process died"

    def measure(self) -> tuple[float, float, float]:
        """Amount of work a second; how many CPUs the process has used while it was waiting; and how many CPUs others
        have used while it was working."""
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


def measure(comparison: Comparison, *, repeats: int, cpus: int, seconds: float, device: str = "cpu") -> dict:
    """Lets the contestants take turns; the figures of each, in the order of the repeats.

    Raises Skipped if a library is missing without which the comparison has no point.
    """
    tell(comparison.title)
    workers, about, load = {}, {}, os.getloadavg()[0]
    try:
        for entry in reversed(comparison.entries):  # peers first: what is missing shows itself before compilations
            tell(f"  preparing {entry.label}")
            worker = workers[entry.label] = Worker(entry, cpus, seconds, device)
            if worker.state == "failed":
                raise RuntimeError(worker.message)
            if worker.state == "absent":
                workers.pop(entry.label).close()
                if not entry.optional:
                    raise Skipped(f"{worker.message}; pip install -r tests/requirements-peers.txt")
                tell(f"  without {entry.label}: {worker.message}")
            else:
                about[entry.label] = worker.message
        check_witnesses({label: message["witness"] for label, message in about.items()})
        entries = [entry for entry in comparison.entries if entry.label in workers]
        figures, idle, others = {entry.label: [] for entry in entries}, dict.fromkeys(workers, 0.0), []
        for repeat in range(repeats):
            # To and fro, so that a drift of the machine's speed meets everyone.
            for entry in entries if repeat % 2 == 0 else reversed(entries):
                rate, idle[entry.label], disturbance = workers[entry.label].measure()
                others.append(disturbance)
                figure = comparison.seconds_for / rate if comparison.seconds_for else rate
                figures[entry.label].append(figure)
                progress = f"  repeat {repeat + 1}/{repeats}: {entry.label}: {figure:.4g} {comparison.unit}"
                tell(f"{progress}; others used {disturbance:.2f} CPUs")
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "title": comparison.title,
        "unit": comparison.unit,
        "seconds": bool(comparison.seconds_for),
        "goals": comparison.goals,
        "load_before": load,
        "cpus_of_others": statistics.mean(others),
        "contestants": [
            {"name": entry.name, "variant": entry.variant}
            | about[entry.label]
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
    one is, turn by turn; median, min and max."""
    best = {}
    for contestant in result["contestants"]:
        rival = best.get(contestant["name"], contestant)
        better = min if result["seconds"] else max
        best[contestant["name"]] = better((rival, contestant), key=lambda one: one["median"])
    first = next(iter(best.values()))["repeats"]

    def speedup(one):
        pairs = zip(first, one["repeats"], strict=True)
        return summary([theirs / ours if result["seconds"] else ours / theirs for ours, theirs in pairs])

    return [one | {"speedup": speedup(one)} for one in best.values()]


def markdown(results: list[dict]) -> str:
    """The tables of the documentation: medians with extremes, ratios turn by turn, goals, first call and memory."""
    lines = []
    for result in results:
        faster = f"{result['contestants'][0]['name']} is x times as fast"
        rows = []
        for place, one in enumerate(standings(result)):
            label = f"{one['name']} ({one['variant']})" if one["variant"] else one["name"]
            ratio, goal = one["speedup"], result["goals"].get(one["name"])
            cells = [
                label,
                f"{one['median']:.4g} ({one['min']:.4g} - {one['max']:.4g})",
                f"{ratio['median']:.2f} ({ratio['min']:.2f} - {ratio['max']:.2f})" if place else "",
                f"{goal:.2f}" if goal else "",
                f"{one['first_seconds']:.1f}",
                f"{one['peak_bytes'] / 2**30:.2f}",
            ]
            rows.append(cells)
        headings = ["", result["unit"], faster, "goal", "first call, s", "peak, GiB"]
        lines += [f"**{result['title']}**", "", tabulate.tabulate(rows, headings, "pipe", disable_numparse=True), ""]
    return "\n".join(lines)


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)

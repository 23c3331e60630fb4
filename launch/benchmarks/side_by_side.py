"""Compares contestants side by side: each has its own process, and they take turns.

In a common process the threads of JAX and PyTorch would wait for one another. All contestants are built and have worked
once (compilation, memory) before the first measurement; while one works the others sleep. The CPU time of other
processes on the machine is measured in every turn.
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
    """A row is not measured; the message has the reason."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contestant's name, and the function that builds it. The table shows the fastest entry of each name."""

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
    """Contestants with the same work; the others are compared with the first.

    Figures are amounts of work a second, or with `seconds_for` the seconds for this amount. `goals` has, by name, the
    factor by which the first contestant should be faster than another one.
    """

    title: str
    unit: str
    entries: tuple[Entry, ...]
    seconds_for: float = 0.0
    goals: dict[str, float] = dataclasses.field(default_factory=dict)


def _serve(connection, entry: Entry, cpus: int, seconds: float, device: str) -> None:
    """The main function of a worker: builds its contestant, runs it once, and then measures on request."""
    jax.config.update("jax_platforms", device)
    jax.config.update("jax_enable_compilation_cache", False)  # so that the first call compiles
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
    """The peak memory of this process: on the accelerator, by JAX and PyTorch, or on the host."""
    if device == "cpu":
        # Kilobytes on Linux, bytes on a Mac.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    by_torch = sys.modules["torch"].cuda.max_memory_allocated() if "torch" in sys.modules else 0
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) + by_torch


def _busy_seconds() -> float:
    """CPU time that the machine has used, or lost to other virtual machines, since its start; NaN except on Linux."""
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
        """The amount of work a second, the CPUs that the process used while waiting, and the CPUs that other processes
        used while it was working."""
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
    """Lets the contestants take turns; returns the figures of each, in the order of the repeats.

    Raises Skipped if a required library is missing.
    """
    log(comparison.title)
    workers, about, load = {}, {}, os.getloadavg()[0]
    try:
        for entry in reversed(comparison.entries):  # peers first, so that a missing library shows before compilations
            log(f"  preparing {entry.label}")
            worker = workers[entry.label] = Worker(entry, cpus, seconds, device)
            if worker.state == "failed":
                raise RuntimeError(worker.message)
            if worker.state == "absent":
                workers.pop(entry.label).close()
                if not entry.optional:
                    raise Skipped(f"{worker.message}; pip install -r tests/requirements-peers.txt")
                log(f"  without {entry.label}: {worker.message}")
            else:
                about[entry.label] = worker.message
        check_witnesses({label: message["witness"] for label, message in about.items()})
        entries = [entry for entry in comparison.entries if entry.label in workers]
        figures, idle, others = {entry.label: [] for entry in entries}, dict.fromkeys(workers, 0.0), []
        for repeat in range(repeats):
            # In alternating order, so that a drift of the machine's speed affects all alike.
            for entry in entries if repeat % 2 == 0 else reversed(entries):
                rate, idle[entry.label], disturbance = workers[entry.label].measure()
                others.append(disturbance)
                figure = comparison.seconds_for / rate if comparison.seconds_for else rate
                figures[entry.label].append(figure)
                progress = f"  repeat {repeat + 1}/{repeats}: {entry.label}: {figure:.4g} {comparison.unit}"
                log(f"{progress}; others used {disturbance:.2f} CPUs")
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
    """Raises RuntimeError if the contestants' witnesses differ by more than a percent."""
    values = {label: value for label, value in witnesses.items() if value is not None}
    if values and not np.allclose(list(values.values()), next(iter(values.values())), rtol=0.01):
        raise RuntimeError(f"the contestants do not compute the same: {values}")


def summary(figures: list[float]) -> dict:
    """The median, the extremes and all repeats."""
    median = statistics.median(figures)
    return {"median": median, "min": min(figures), "max": max(figures), "repeats": figures}


def standings(result: dict) -> list[dict]:
    """The fastest contestant of each name by its median, with `speedup`: the factor by which the first contestant is
    faster, turn by turn; median, min and max."""
    best = {}
    for contestant in result["contestants"]:
        rival = best.get(contestant["name"], contestant)
        better = min if result["seconds"] else max
        best[contestant["name"]] = better((rival, contestant), key=lambda contestant: contestant["median"])
    first = next(iter(best.values()))["repeats"]

    def speedup(contestant):
        pairs = zip(first, contestant["repeats"], strict=True)
        return summary([theirs / ours if result["seconds"] else ours / theirs for ours, theirs in pairs])

    return [contestant | {"speedup": speedup(contestant)} for contestant in best.values()]


def markdown(results: list[dict]) -> str:
    """The tables of the documentation: medians with extremes, ratios turn by turn, goals, first call and memory."""
    lines = []
    for result in results:
        faster = f"{result['contestants'][0]['name']} is x times as fast"
        rows = []
        for place, contestant in enumerate(standings(result)):
            name, variant = contestant["name"], contestant["variant"]
            ratio, goal = contestant["speedup"], result["goals"].get(name)
            cells = [
                f"{name} ({variant})" if variant else name,
                f"{contestant['median']:.4g} ({contestant['min']:.4g} - {contestant['max']:.4g})",
                f"{ratio['median']:.2f} ({ratio['min']:.2f} - {ratio['max']:.2f})" if place else "",
                f"{goal:.2f}" if goal else "",
                f"{contestant['first_seconds']:.1f}",
                f"{contestant['peak_bytes'] / 2**30:.2f}",
            ]
            rows.append(cells)
        headings = ["", result["unit"], faster, "goal", "first call, s", "peak, GiB"]
        lines += [f"**{result['title']}**", "", tabulate.tabulate(rows, headings, "pipe", disable_numparse=True), ""]
    return "\n".join(lines)


def log(line: str) -> None:
    """Prints a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)

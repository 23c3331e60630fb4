"""How training scales over devices and processes of one machine, and the cost of soft labels in an epoch. On a CPU.

    python -m launch.benchmarks.scaling                                       # digits, on one core and on two
    python -m launch.benchmarks.scaling --config=configs/cifar10.py --presets=adals,laptop --cores=1,2,4

Runs `arada.main`: several virtual devices in one process, and several processes of one device each, connected by
jax.distributed. Every device has its own core (Linux only) and its own batch. The figures are images a second from the
runs' logs, without the first epoch. An epoch is measured like in `launch.benchmarks.speed`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import tabulate

from launch.benchmarks import side_by_side, speed

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The number of processes, and of virtual devices in each."""

    processes: int
    devices: int

    @property
    def cores(self) -> int:
        """One for each device."""
        return self.processes * self.devices

    def __str__(self) -> str:
        return (
            f"{self.processes} process{'es' * (self.processes > 1)} x {self.devices} device{'s' * (self.devices > 1)}"
        )


def layouts(cores: list[int]) -> list[Layout]:
    """One process with all devices, and as many processes as devices; 1 x 1 only once."""
    return list(dict.fromkeys(layout for count in cores for layout in (Layout(1, count), Layout(count, 1))))


def commands(layout: Layout, arguments: argparse.Namespace, workdir: str) -> list[list[str]]:
    """The command of each process."""
    shared = [sys.executable, "-m", "arada.main", f"--config={arguments.config}:{arguments.presets}", "--stage=train"]
    shared += [f"--workdir={workdir}", "--config.seeds=(0,)", f"--config.training.epochs={arguments.epochs}"]
    shared += [f"--config.training.batch_size={arguments.batch_per_device * layout.cores}"]
    shared += ["--config.optimizer.decay=()", "--config.run.log_every_steps=2"]
    if layout.processes == 1:
        return [shared]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared += [f"--coordinator_address={address}", f"--num_processes={layout.processes}"]
    return [[*shared, f"--process_id={process}"] for process in range(layout.processes)]


def images_per_second(layout: Layout, arguments: argparse.Namespace) -> float:
    """The speed of training in this layout. Raises RuntimeError with the end of a failed process' log."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={layout.devices}",
    }
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="arada_scaling_") as folder:
        started = []
        for process, command in enumerate(commands(layout, arguments, f"{folder}/workdir")):
            # A child inherits the cores; with `preexec_fn` the fork would happen in a process with JAX's threads.
            os.sched_setaffinity(0, cores[process * layout.devices : (process + 1) * layout.devices])
            try:
                with open(f"{folder}/{process}.log", "w") as log:
                    started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log))
            finally:
                os.sched_setaffinity(0, cores)
        for process, child in enumerate(started):
            if child.wait():
                for other in started:
                    other.kill()
                log = pathlib.Path(f"{folder}/{process}.log").read_text()
                raise RuntimeError(f"{layout}: process {process} failed:\n{log[-2000:]}")
        (metrics,) = pathlib.Path(folder).glob("workdir/runs/*/seed_0/metrics.jsonl")
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return statistics.median(
        row["images_per_second"] for row in rows if row["epoch"] > 1 and "images_per_second" in row
    )


def table(figures: dict[Layout, list[float]], batch_per_device: int) -> str:
    """Medians, and their share of the ideal: the first layout's speed times the number of cores."""
    rows = []
    single = statistics.median(next(iter(figures.values())))
    for layout, rates in figures.items():
        median, batch = statistics.median(rates), batch_per_device * layout.cores
        speed = f"{median:,.0f} ({min(rates):,.0f} - {max(rates):,.0f})"
        rows.append((f"{layout}", layout.cores, batch, speed, f"{100 * median / (layout.cores * single):.0f}"))
    headings = ("processes x devices", "cores", "batch", "images/s, median (min - max)", "of ideal, %")
    return tabulate.tabulate(rows, headings, "pipe", disable_numparse=True)


def main(argv: list[str]) -> int:
    """Measures and prints both tables; 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="launch.benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits.py", help="path of a config, without presets")
    parser.add_argument("--presets", default="adals", help="a method that needs no ranking, and a size")
    parser.add_argument("--cores", default="1,2", help="comma-separated; the others are compared with the first")
    parser.add_argument("--batch_per_device", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    cores, usable = [int(count) for count in arguments.cores.split(",")], len(os.sched_getaffinity(0))
    if max(cores) > usable:
        parser.error(f"--cores={arguments.cores}, but this process may use {usable}")
    figures = {layout: [] for layout in layouts(cores)}
    try:
        for repeat in range(arguments.repeats):
            # In alternating order, so that a drift of the machine's speed affects all alike.
            for layout in list(figures) if repeat % 2 == 0 else reversed(list(figures)):
                figures[layout].append(images_per_second(layout, arguments))
                side_by_side.log(f"{layout}: {figures[layout][-1]:,.0f} images/s")
    except RuntimeError as error:
        side_by_side.log(f"error: {error}")
        return 1
    (epoch,) = speed.epoch(arguments)
    result = side_by_side.measure(epoch, repeats=arguments.repeats, cpus=usable, seconds=1)
    made_with = speed.made_with(usable)
    print(f"{arguments.config}:{arguments.presets}, {made_with['cpu']}, commit {made_with['commit']}\n")
    print(f"{table(figures, arguments.batch_per_device)}\n\n{side_by_side.markdown([result])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

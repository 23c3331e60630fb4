"""Measures arada and its peers side by side on one machine, on its CPU or on its first GPU.

    python -m launch.benchmarks.speed                           # all rows but `ranking`; about an hour on two cores
    python -m launch.benchmarks.speed --rows=train_resnet29,gradients --repeats=3
    python -m launch.benchmarks.speed --device=cuda --output=workdir/benchmark_gpu.json
    python -m launch.benchmarks.speed --rows=ranking --run=WORKDIR/runs/vanilla/seed_0 --study=FILE
    python -m launch.benchmarks.speed --markdown                # the tables of --output; measures nothing
    python -m launch.benchmarks.speed --page=docs/benchmarks.md --output=docs/benchmark.json    # puts them into a page

Contestants take turns, each in its own process and after a warm-up; a measurement repeats the work for at least
`--seconds`. All contestants of a comparison have the same weights, images, number of CPUs and allocator settings (of
`launch/environment.sh`), and must agree in a number computed from them.

Results are written to `--output`, which keeps earlier rows of the same commit. A row during which other processes used
more than a tenth of a CPU is stored, but no table is made of it.

The peers need `pip install -r tests/requirements-peers.txt`; torchattacks and adv-lib take part if they are installed,
and compiled PyTorch if there is a C++ compiler.
"""

import argparse
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from arada import data
from arada.errors import UserError
from arada.runs import workdir as workdirs
from arada.runtime import backend, files, kernels, provenance
from configs import base
from launch.benchmarks import contestants, torch_contestants
from launch.benchmarks.contestants import Network
from launch.benchmarks.side_by_side import Comparison, Entry, Skipped, log, markdown, measure

RESNET_29 = Network("resnet_v2", depth=29, width=16)
WRN_28_10 = Network("wide_resnet", depth=28, width=10)
ADAM = {"name": "adam", "learning_rate": 1e-3, "l2": 1e-4, "l2_on": "convolutions"}
SGD = {"name": "sgd", "learning_rate": 0.1, "l2": 2e-4, "l2_on": "everything"}
LAYOUTS = ("channels-last", "contiguous")
# Carlini-Wagner with the paper's settings has 3 x 500 steps; its time is extrapolated from fewer steps.
PAPERS_STEPS, SHORT_STEPS, SHORT_IMAGES = 3 * 500, 50, 64
# The tables of a page are between these lines.
PAGE_MARKS = "<!-- tables -->\n", "<!-- end of tables -->\n"
RANKED_IMAGES, LEAST_SPEARMAN = 512, 0.99
# A row is published only if other processes used at most this many CPUs on average while contestants worked.
QUIET = 0.1


def train(name: str, network: Network, batch_size: int, optimizer: dict, goal: float, arguments) -> list[Comparison]:
    """Training steps: normalisation, forward, backward and update, without augmentation."""
    settings = {"network": network, "batch_size": batch_size, "optimizer": optimizer}
    entries = _of_arada(contestants.arada_training, settings)
    entries += _of_pytorch(torch_contestants.training, settings)
    title = f"Training, {name}, batch {batch_size}, {optimizer['name']}"
    return [Comparison(title, "images/s", entries, goals={"PyTorch": goal})]


def gradients(arguments) -> list[Comparison]:
    """Gradients of the margin with respect to the images, the work of every attack."""
    settings = {"network": RESNET_29, "batch_size": 64}
    entries = _of_arada(contestants.arada_gradients, settings)
    entries += _of_pytorch(torch_contestants.gradients, settings)
    return [Comparison("Input gradients, ResNet-29, batch 64", "gradients/s", entries, goals={"PyTorch": 1.4})]


def attack(arguments) -> list[Comparison]:
    """Carlini-Wagner, one search of 50 steps on 64 images, without abort."""
    images = contestants.draw_images(SHORT_IMAGES, RESNET_29.image_shape)
    shared = {"network": RESNET_29, "images": images, "amount": SHORT_IMAGES}
    entries = _of_arada(contestants.arada_attack, shared | _carlini_wagner(SHORT_STEPS))
    for library in ("foolbox", "torchattacks", "adv-lib"):
        settings = shared | {"library": library, "iterations": SHORT_STEPS}
        entries += _in_layouts(library, torch_contestants.attack, settings, optional=library != "foolbox")
    title = f"Carlini-Wagner 1x{SHORT_STEPS}, ResNet-29, {SHORT_IMAGES} images"
    return [Comparison(title, "images/s", entries, goals={"foolbox": 1.4})]


def ranking(arguments) -> list[Comparison]:
    """The time to rank images by Carlini-Wagner 3x500, and by the cheapest attack with almost the same order."""
    if not (arguments.run and arguments.study):
        raise Skipped("needs --run=DIR (a trained run) and --study=FILE (agreement.json of arada.agreement)")
    chosen = cheapest(read_study(arguments.study))
    images, kind = _training_images(arguments.run)
    network, few = Network(run=arguments.run), images[:SHORT_IMAGES]
    amount = papers_images(len(few), SHORT_STEPS)
    settings = {"network": network, "images": images, "amount": len(images), "batch_size": SHORT_IMAGES}
    settings |= {"attack": chosen["attack"], "settings": chosen["settings"], "cpu_kernels": auto_kernels()}
    extrapolated = f"CW 3x500, extrapolated from 1x{SHORT_STEPS} on {len(few)} images"
    shared = {"network": network, "images": few, "amount": amount}
    by_arada = shared | _carlini_wagner(SHORT_STEPS) | {"cpu_kernels": auto_kernels()}
    by_foolbox = shared | {"library": "foolbox", "iterations": SHORT_STEPS}
    entries = (
        Entry(
            f"arada {chosen['name']}, Spearman {chosen['spearman']:.3f}",
            contestants.arada_attack,
            settings,
            auto_kernels(),
        ),
        Entry(f"arada {extrapolated}", contestants.arada_attack, by_arada, auto_kernels()),
        *_in_layouts(f"foolbox {extrapolated}", torch_contestants.attack, by_foolbox),
    )
    title = f"Ranking {len(images)} {kind} with the network of {arguments.run}"
    return [Comparison(title, "s", entries, seconds_for=len(images))]


def epoch(arguments) -> list[Comparison]:
    """An epoch of AR-AdaLS (R = 10) and of vanilla training, each with its validation pass, and of vanilla with almost
    no validation: the cost of the pass, and of the soft labels."""
    overrides = {"data.num_train": 2048, "data.num_validation": 512, "run.evaluation_batch_size": 512}
    unvalidated = overrides | {"data.num_validation": 10, "run.evaluation_batch_size": 10}
    entries = tuple(
        _epochs(name, {"method": method, "overrides": overrides, "epochs": 2})
        for name, method, overrides in (
            ("AR-AdaLS", "ar_adals", overrides),
            ("vanilla", "vanilla", overrides),
            ("vanilla, 10 validation images", "vanilla", unvalidated),
        )
    )
    title = "One epoch, ResNet v2 of depth 11, batch 128, 2,048 training and 512 validation images"
    return [Comparison(title, "s", entries, seconds_for=1)]


def refresh(arguments) -> list[Comparison]:
    """Ten epochs of AR-AdaLS without and with one refresh of the ranks: the cost of a refresh every ten epochs."""
    overrides = {"data.num_train": 256, "data.num_validation": 32, "run.evaluation_batch_size": 32}
    refreshed = overrides | {"ranking.refresh_every": 10}
    entries = tuple(
        _epochs(name, {"method": "ar_adals", "overrides": overrides, "epochs": 10})
        for name, overrides in (
            ("without a refresh", overrides),
            ("by the estimate alone", refreshed | {"ranking.refresh_attack": "estimate"}),
            ("by first_order", refreshed | {"ranking.refresh_attack": "first_order"}),
        )
    )
    title = "Ten epochs with one refresh, ResNet v2 of depth 11, batch 128, 256 training and 32 validation images"
    return [Comparison(title, "s", entries, seconds_for=10)]


PEERS = ("torch", "foolbox", "torchattacks", "adv-lib")
ROWS = {
    "train_resnet29": functools.partial(train, "ResNet-29", RESNET_29, 64, ADAM, 1.0),
    "train_resnet29_256": functools.partial(train, "ResNet-29", RESNET_29, 256, ADAM, 1.0),
    "train_wrn": functools.partial(train, "WRN-28-10", WRN_28_10, 8, SGD, 0.95),
    "gradients": gradients,
    "attack": attack,
    "ranking": ranking,
    "epoch": epoch,
    "refresh": refresh,
}


@functools.cache
def auto_kernels() -> str:
    """What `run.cpu_kernels=auto` takes on this machine."""
    return kernels.choose(base.config(), jax.local_devices(backend="cpu")[:1])


def _of_arada(build, settings: dict) -> tuple[Entry, ...]:
    """With the kernels that `auto` takes, with stock ones, and by stock flax."""
    by_auto = Entry("arada", build, settings | {"cpu_kernels": auto_kernels()}, auto_kernels())
    without = (Entry("arada, stock kernels", build, settings),) if auto_kernels() != "stock" else ()
    return by_auto, *without, Entry("stock flax", build, settings | {"stock": True})


def _epochs(name: str, settings: dict) -> Entry:
    return Entry(name, contestants.training_epoch, settings | {"cpu_kernels": auto_kernels()}, auto_kernels())


def _in_layouts(name: str, build, settings: dict, optional: bool = False) -> tuple[Entry, ...]:
    return tuple(Entry(name, build, settings | {"layout": layout}, layout, optional) for layout in LAYOUTS)


def _of_pytorch(build, settings: dict) -> tuple[Entry, ...]:
    """PyTorch, eager in both layouts and compiled in the faster one."""
    settings_compiled = settings | {"layout": LAYOUTS[0], "compiled": True}
    compiled = Entry("PyTorch compiled", build, settings_compiled, LAYOUTS[0], optional=True)
    return (*_in_layouts("PyTorch", build, settings), compiled)


def _carlini_wagner(iterations: int) -> dict:
    options = {"binary_search_steps": 1, "max_iterations": iterations}
    return {"attack": "cw", "settings": options, "batch_size": SHORT_IMAGES}


def papers_images(count: int, steps: int) -> float:
    """The number of images for which Carlini-Wagner 3x500 is as much work as `steps` steps on `count` images. Every
    step costs the same, because nothing is aborted early."""
    return count * steps / PAPERS_STEPS


def read_study(path: str) -> list[dict]:
    """The attacks in `arada.agreement`'s file: name, attack, settings, gradients (an image), images_per_second, and the
    Spearman correlation on training images. Rankings that attack some images twice are left out, because they need more
    than one call."""
    study = []
    for row in files.read_json(files.absolute(path))["candidates"]:
        settings = {key: value for key, value in row["settings"].items() if key != "refine_steps"}
        if row["by"] == "attack" and not row["settings"].get("refine_steps"):
            study.append(row | {"settings": settings, "spearman": row["train"]["spearman"]})
    return study


def cheapest(study: list[dict]) -> dict:
    """The attack with the fewest gradients among those with a high rank correlation with Carlini-Wagner 3x500."""
    good = [row for row in study if row["spearman"] >= LEAST_SPEARMAN]
    if not good:
        raise Skipped(f"no attack of the study has a Spearman correlation of {LEAST_SPEARMAN}")
    return min(good, key=lambda row: (row["gradients"], -row["images_per_second"]))


def _training_images(run: str) -> tuple[np.ndarray, str]:
    config = workdirs.stored_config(files.absolute(run))
    try:
        dataset = data.build(config.data, config.run.data_dir)
        return data.load_splits(dataset, config.data)["train"].image[:RANKED_IMAGES], "training images"
    except UserError as error:
        log(f"random images in place of training images: {error}")
        return contestants.draw_images(RANKED_IMAGES, tuple(config.data.image_shape)), "random images"


def made_with(cpus: int, device: str) -> dict:
    """The commit, the machine and the versions. Raises UserError if JAX cannot use the device."""
    cpu_info = pathlib.Path("/proc/cpuinfo")
    models = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.exists() else []
    versions = provenance.versions()
    for package in ("jaxlib", *PEERS):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": cpus,
        "device": backend.devices()[0].device_kind if device != "cpu" else "cpu",
        "python": platform.python_version(),
        "allocator": os.environ.get("GLIBC_TUNABLES", ""),
        "versions": versions,
    }


def keep_memory() -> None:
    """Sets the allocator settings of `launch/environment.sh` for all contestants, whose processes start later."""
    script = 'source launch/environment.sh && keep_memory && printf %s "$GLIBC_TUNABLES"'
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, check=True)
    os.environ["GLIBC_TUNABLES"] = done.stdout


def earlier_results(output: str, commit: str) -> list[dict]:
    """The results in `output`, if they were measured at the same commit."""
    path = files.absolute(output)
    stored = files.read_json(path) if path.exists() else {}
    return stored["results"] if stored.get("commit") == commit else []


def published(output: str) -> str:
    """The table of `output` in Markdown. Raises UserError if the machine was busy during one of its rows."""
    stored = files.read_json(files.absolute(output))
    for result in stored["results"]:
        others = result["cpus_of_others"]
        if not others <= QUIET:
            raise UserError(
                f"{output}: other processes used {others:.2f} CPUs while {result['title']!r} was measured, more than "
                f"{QUIET}. Measure this row again on a quiet machine"
            )
    versions, threads = stored["versions"], stored["threads"]
    peers = ", ".join(f"{name} {versions[name]}" for name in PEERS if versions[name] != "absent")
    device = "" if stored.get("device", "cpu") == "cpu" else f"{stored['device']}, "
    machine = f"{device}{stored['cpu']}, {threads} CPUs; jax {versions['jax']}, {peers}"
    return f"{markdown(stored['results'])}\nCommit {stored['commit']}, {stored['date'][:10]}, {machine}.\n"


def with_tables(page: str, tables: str) -> str:
    """A page's text with `tables` between its two marks. Raises UserError if it has no marks."""
    before, start, rest = page.partition(PAGE_MARKS[0])
    _, end, after = rest.partition(PAGE_MARKS[1])
    if not end:
        raise UserError(f"the page has no lines {PAGE_MARKS[0].strip()} and {PAGE_MARKS[1].strip()}")
    return f"{before}{start}\n{tables}\n{end}{after}"


def main(argv: list[str]) -> int:
    """Measures the rows of `--rows`; returns 1 if one of them failed or none was measured."""
    parser = argparse.ArgumentParser(prog="launch.benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated: %(default)s")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="the minimum length of a measurement")
    parser.add_argument("--threads", type=int, default=contestants.usable_cpus(), help="CPUs for each contestant")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "tpu"), help="default: %(default)s")
    parser.add_argument("--run", default="", help="folder of a trained run, for the row `ranking`")
    parser.add_argument("--study", default="", help="agreement.json of arada.agreement, for the row `ranking`")
    parser.add_argument("--output", default="workdir/benchmark.json")
    parser.add_argument("--markdown", action="store_true", help="print the tables of --output, measure nothing")
    parser.add_argument("--page", default="", help="put the tables of --output into this page, measure nothing")
    arguments = parser.parse_args(argv)
    if arguments.markdown or arguments.page:
        return _publish(arguments.output, arguments.page)
    rows = arguments.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"--rows: {unknown[0]!r} is unknown; choose from {', '.join(ROWS)}")
    run = functools.partial(measure, repeats=arguments.repeats, cpus=arguments.threads, seconds=arguments.seconds)
    run = functools.partial(run, device=arguments.device)
    keep_memory()
    # Contestants share the device; none may take all of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_platforms", arguments.device)
    log(f"load of the machine: {os.getloadavg()[0]:.1f} processes on average in the last minute")
    try:
        made = made_with(arguments.threads, arguments.device)
    except UserError as error:
        log(f"error: {error}")
        return 1
    measured, failed = 0, False
    for row in rows:
        try:
            for comparison in ROWS[row](arguments):
                result = run(comparison)
                measured += 1
                # After each row, so that an interrupted benchmark keeps its results.
                earlier = earlier_results(arguments.output, made["commit"])
                results = [row for row in earlier if row["title"] != result["title"]] + [result]
                files.write_json(files.absolute(arguments.output), made | {"results": results})
        except (Skipped, UserError) as reason:
            log(f"row {row} skipped: {reason}")
        except RuntimeError as error:
            log(f"row {row} failed: {error}")
            failed = True
    if measured:
        failed |= bool(_publish(arguments.output))
    return int(failed or not measured)


def _publish(output: str, page: str = "") -> int:
    """Prints the tables, or writes them into a page; returns 1 if there are none."""
    try:
        tables = published(output)
        if page:
            path = pathlib.Path(page)
            path.write_text(with_tables(path.read_text("utf-8"), tables), "utf-8")
        else:
            print(tables)
    except (UserError, OSError) as error:
        log(f"no table: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

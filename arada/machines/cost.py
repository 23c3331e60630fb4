"""The cost of a config's experiment on this machine, from measured programs: seconds by stage, memory, and money."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import ml_collections

from arada.machines.findings import Finding, clock
from arada.machines.installed import memory_of
from arada.machines.speed import Ceilings, Program, Speeds
from arada.runs.work import evaluated_sets, images_of, num_runs, ranked_sets, refreshed_sets
from arada.runtime import machine

# The share of the free memory that a step may use; XLA's workspaces and fragmentation need the rest.
FITS = 0.9
# If reading a batch takes a larger share of a step, any disturbance of the host delays the devices.
HOST = 0.5
# Below this share of both ceilings something else limits a program: small layers, kernel launches, the host.
SLOW = 0.1


class Stages(NamedTuple):
    """Seconds of an experiment's stages on devices that share a batch, without metrics and the report."""

    compiling: float
    training: float
    validation: float
    ranking: float
    predictions: float

    @property
    def seconds(self) -> float:
        """The sum of all stages."""
        return sum(self)


def stages(
    config: ml_collections.ConfigDict, speeds: Speeds, devices: int, *, num_test: int = 0, input_seconds: float = 0.0
) -> Stages:
    """`devices` is the number of devices behind `speeds`; `input_seconds` is the host's time for a training batch."""
    counts, ranked = images_of(config, num_test), ranked_sets(config, num_test) + refreshed_sets(config)

    def padded(sizes: list[int], per_device: int, program: Program) -> float:
        batch = per_device * devices
        images = sum(-(-size // batch) * batch for size in sizes)
        return images * program.seconds / program.images

    step = max(speeds.train.seconds / speeds.train.images * config.training.batch_size, input_seconds)
    after_epochs = [config.data.num_validation] * (num_runs(config) * config.training.epochs)
    # The soft labels of a vanilla run and of the method differ in shape, so there are two train steps.
    compiled = [speeds.train] * (1 + (config.name != "vanilla"))
    compiled += [speeds.validate, speeds.predict, *([speeds.attack] if speeds.attack else [])]
    sets, per_device = evaluated_sets(config, num_test), config.run.evaluation_batch_size
    return Stages(
        compiling=sum(program.compile_seconds for program in compiled),
        training=counts.trained / config.training.batch_size * step,
        validation=padded(after_epochs, per_device, speeds.validate),
        ranking=padded(ranked, config.run.ranking_batch_size, speeds.attack) if speeds.attack else 0.0,
        predictions=padded(sets * len(config.seeds), per_device, speeds.predict),
    )


def findings(
    config: ml_collections.ConfigDict,
    ceilings: Ceilings,
    speeds: Speeds,
    devices: list[jax.Device],
    *,
    num_test: int,
    input_seconds: float | None,
    price: float,
) -> Iterator[Finding]:
    """`input_seconds` is None without data; `price` is in dollars an hour for all `devices`."""
    yield _step(config, ceilings, speeds.train)
    yield _host(config, speeds.train, input_seconds)
    yield _compilation(speeds)
    yield _memory(config, speeds.train, devices)
    total = stages(config, speeds, len(devices), num_test=num_test, input_seconds=input_seconds or 0.0)
    text = ", ".join(f"{name} {clock(seconds)}" for name, seconds in total._asdict().items())
    dollars = total.seconds / 3600 * price
    values = {f"{name}_seconds": seconds for name, seconds in total._asdict().items()} | {"seconds": total.seconds}
    cost = f", {dollars:,.2f} dollars" if price else ""
    yield Finding(
        "experiment",
        "ok",
        f"{clock(total.seconds)}{cost}: {text}; without metrics and the report",
        values=values | ({"dollars": dollars} if price else {}),
    )


def _step(config: ml_collections.ConfigDict, ceilings: Ceilings, train: Program) -> Finding:
    operations = train.operations / train.seconds / ceilings.operations
    moved = train.moved / train.seconds / ceilings.bandwidth
    whole = train.seconds * config.training.batch_size / train.images
    text = f"{clock(whole)} for {config.training.batch_size} images, {train.images / train.seconds:,.0f} images/s"
    text += f", {operations:.0%} of the fastest matrix product ({ceilings.operations / 1e12:.3g} TFLOP/s)"
    text += f", {moved:.0%} of the fastest copy ({ceilings.bandwidth / 1e9:.3g} GB/s)" if moved else ""
    if train.images < config.training.batch_size:
        text += f"; measured on {train.images} images"
    values = {"step_seconds": whole, "images_per_second": train.images / train.seconds, "measured_images": train.images}
    values |= {"share_of_matrix_product": operations, "share_of_copy": moved}
    values |= {"matrix_product_flops": ceilings.operations, "copy_bytes_per_second": ceilings.bandwidth}
    if max(operations, moved) >= SLOW or jax.default_backend() == "cpu":
        return Finding("train step", "ok", text, values=values)
    remedy = "small layers or the host slow it down: look at a trace (--config.run.profile=5), or use larger batches"
    return Finding("train step", "note", text, remedy, values)


def _host(config: ml_collections.ConfigDict, train: Program, input_seconds: float | None) -> Finding:
    step = train.seconds * config.training.batch_size / train.images
    values = {"dispatch_seconds": train.dispatch_seconds, "input_seconds": input_seconds}
    text = f"{clock(train.dispatch_seconds)} to dispatch a step"
    if input_seconds is None:
        return Finding("input", "note", f"{text}; no data to read", "see the findings on data", values)
    share = input_seconds / step
    text += f", {clock(input_seconds)} to read a batch, {config.training.batch_size / input_seconds:,.0f} images/s"
    text += f": {share:.0%} of the step's time, in parallel"
    values["share"] = share
    if share <= HOST:
        return Finding("input", "ok", text, values=values)
    remedy = f"the host has {machine.cores()} cores: use more cores, or more hosts"
    return Finding("input", "note" if share <= 1 else "wrong", text, remedy, values)


def _compilation(speeds: Speeds) -> Finding:
    seconds = {name: program.compile_seconds for name, program in speeds._asdict().items() if program}
    text = ", ".join(f"{name} {clock(duration)}" for name, duration in seconds.items())
    return Finding("compilation", "ok", f"{text}; cached for the next process", values=seconds)


def _memory(config: ml_collections.ConfigDict, train: Program, devices: list[jax.Device]) -> Finding:
    free = memory_of(devices[0]) / (len(devices) if devices[0].platform == "cpu" else 1)
    accumulate, asked = config.training.accumulate, config.training.batch_size
    each = train.batch_bytes / (train.images / len(devices) / accumulate)
    if not (free and each):
        return Finding("memory", "note", "neither JAX nor the system reports the available and the needed memory")
    fits = max(0, math.floor((FITS * free - train.fixed_bytes) / each)) * len(devices)
    needed = train.fixed_bytes + each * asked / len(devices) / accumulate
    text = f"a step needs {needed / 1e9:.3g} of {free / 1e9:.3g} GB a device; batches up to {fits * accumulate:,} fit"
    values = {"needed_gb": needed / 1e9, "free_gb": free / 1e9, "largest_batch_size": fits * accumulate}
    if asked <= fits * accumulate:
        return Finding("memory", "ok", text, values=values)
    parts = next((n for n in range(accumulate, asked + 1) if asked % (n * len(devices)) == 0 and asked / n <= fits), 0)
    remedy = f"training.accumulate={parts}" if parts else "use more devices or a smaller network"
    remedy = f"set training.batch_size={fits * accumulate} or less, or {remedy}"
    return Finding("memory", "wrong", text, remedy, values)

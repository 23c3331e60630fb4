"""The cost of an experiment on accelerators: a roofline of its programs' operations and bytes. Nothing is measured.

    python -m launch.benchmarks.roofline --config=configs/imagenet.py:ar_adals --devices=8

The train step, one input gradient and one forward pass are lowered as for a TPU, with stock convolutions. XLA's cost
analysis counts their operations, and the bytes that they move after XLA:CPU's fusion in float32. A TPU or GPU fuses
more, so the real bytes and hours are lower. The analysis counts the body of a loop once, so an attack is counted as its
number of gradients and forward passes. Each program is counted at two batch sizes, to separate the part that grows with
the batch from the fixed part.

Assumptions: a share of the peak of arithmetic and of memory bandwidth (`--utilisation`, `--bandwidth`), half the bytes
an image in bfloat16, and no waiting for data, other devices or the host. Prices are about those of Google Cloud for one
device, on demand in the US, in 2025: an order of magnitude. Check the current prices.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import tabulate
from absl import app, flags
from ml_collections import config_flags

from arada import methods, models
from arada.attacks.result import margin
from arada.errors import UserError
from arada.runs import trained, trainer
from arada.runs.identity import vanilla_config
from arada.runs.work import images_of, num_runs, passes
from arada.runtime import console
from arada.training.replication import Replicas

BATCHES = (8, 16)


class Device(NamedTuple):
    """By the makers' data sheets, dense: operations a second in bfloat16, with float32 operands at JAX's default
    precision (one pass of bfloat16 on TPU, TF32 on GPU), and in full float32 (six passes on TPU); bytes a second of the
    memory; dollars an hour."""

    name: str
    bfloat16: float
    default: float
    float32: float
    bandwidth: float
    price: float


DEVICES = (
    Device("TPU v4", 275e12, 275e12, 275e12 / 6, 1.2e12, 3.2),
    Device("TPU v5e", 197e12, 197e12, 197e12 / 6, 0.82e12, 1.2),
    Device("A100 80 GB", 312e12, 156e12, 19.5e12, 2.0e12, 5.0),
    Device("H100", 989e12, 495e12, 67e12, 3.35e12, 11.0),
)


class Work(NamedTuple):
    """The work of a program: `flops` and `bytes` an image, and fixed ones for any batch (weights, their update)."""

    flops: float
    bytes: float
    fixed_flops: float = 0.0
    fixed_bytes: float = 0.0

    def seconds(self, images: float, batch_size: float, peak: float, bandwidth: float) -> float:
        """The time on one device, in batches of `batch_size`: the longer of computing and moving."""
        batches = images / batch_size
        computing = (images * self.flops + batches * self.fixed_flops) / peak
        return max(computing, (images * self.bytes + batches * self.fixed_bytes) / bandwidth)

    def times(self, count: float) -> "Work":
        """The work of `count` such programs."""
        return Work(*(count * number for number in self))

    def __add__(self, other: "Work") -> "Work":
        return Work(*map(sum, zip(self, other, strict=True)))


def work_of(build: Callable[[int], tuple[Callable, tuple]]) -> Work:
    """Counts the work of `build`(batch size) -> (function, shapes of its arguments). Compiles twice."""
    counts = []
    for batch_size in BATCHES:
        function, arguments = build(batch_size)
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
        counts.append((lowered.cost_analysis()["flops"], lowered.compile().cost_analysis()["bytes accessed"]))
    (few_flops, few_bytes), (flops, bytes_) = counts
    more = BATCHES[1] - BATCHES[0]
    image_flops, image_bytes = (flops - few_flops) / more, (bytes_ - few_bytes) / more
    fixed = few_flops - BATCHES[0] * image_flops, few_bytes - BATCHES[0] * image_bytes
    return Work(image_flops, image_bytes, *fixed)


class Programs(NamedTuple):
    """The three programs of an experiment."""

    train: Work
    gradient: Work
    forward: Work


def programs(config: ml_collections.ConfigDict) -> Programs:
    """Counts the programs. Raises UserError for a config with loops in its train step, or with several networks."""
    if config.method.name in ("ccat", "mixup") or trained.num_members(config) > 1:
        raise UserError(
            f"--config: the roofline cannot estimate {config.name}, because its train step has loops or several "
            f"networks; choose another method"
        )
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.dtype = "float32"
    config.training.accumulate = 1  # the same work without a loop
    model, variables = trained.build_model(config), trained.state_shapes(config).variables
    logits_fn, image_shape = models.logits_fn(model), tuple(config.data.image_shape)

    def images(batch_size, dtype):
        return jax.ShapeDtypeStruct((batch_size, *image_shape), dtype)

    def train(batch_size):
        config.training.batch_size = batch_size
        ints = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        batch = dict.fromkeys(("label", "example_id", "subset"), ints) | {"image": images(batch_size, jnp.uint8)}
        learnt, key = jax.eval_shape(methods.build(config).init), jax.eval_shape(lambda: jax.random.key(0))
        step = trainer.mapped_step(config, Replicas(jax.devices()[:1], "shard_map"))
        return step, (trained.state_shapes(config), batch, learnt, key)

    def gradient(batch_size):
        def margin_gradient(variables, images, label):
            return jax.grad(lambda images: jnp.sum(margin(logits_fn(variables, images), label)))(images)

        return margin_gradient, (
            variables,
            images(batch_size, jnp.float32),
            jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        )

    def forward(batch_size):
        return logits_fn, (variables, images(batch_size, jnp.uint8))

    return Programs(*map(work_of, (train, gradient, forward)))


class Assumed(NamedTuple):
    """The number of devices that share a batch, and the assumed shares of their peaks."""

    devices: int
    utilisation: float
    bandwidth: float


class Estimate(NamedTuple):
    """Images a second of one device, and device-hours. `unmoved_rate` is the rate of training without moving bytes,
    `papers_ranking` the hours of a ranking by Carlini-Wagner 3x500."""

    training_rate: float
    unmoved_rate: float
    ranking_rate: float
    training: float
    ranking: float
    papers_ranking: float
    evaluation: float

    @property
    def hours(self) -> float:
        """Hours of the whole experiment on one device."""
        return self.training + self.ranking + self.evaluation


def estimate(
    config: ml_collections.ConfigDict, counted: Programs, device: Device, assumed: Assumed, *, alone: bool = True
) -> Estimate:
    """The experiment's hours on one device. Unless `alone`, another experiment has the vanilla run and its ranking."""
    ranking, counts = config.ranking, images_of(config, alone=alone)
    halved = 0.5 if config.model.dtype == "bfloat16" else 1.0
    precision = device.bfloat16 if config.model.dtype == "bfloat16" else device.default
    moved = assumed.bandwidth * device.bandwidth

    def network(work, images, batch_size):
        work = work._replace(bytes=halved * work.bytes)
        return work.seconds(images, batch_size / assumed.devices, assumed.utilisation * precision, moved)

    def ranked(images, by, attack, settings):
        gradients, forwards = passes(by, attack, settings)
        attacked = counted.gradient.times(gradients) + counted.forward.times(forwards)
        batch_size, peak = config.run.ranking_batch_size, assumed.utilisation * device.float32
        return attacked.seconds(images, batch_size, peak, moved)

    papers = {"binary_search_steps": 3, "max_iterations": 500}
    refresh_attack = ranking.refresh_attack or ranking.attack
    validated, evaluated = (
        network(counted.forward, images, assumed.devices * config.run.evaluation_batch_size)
        for images in (counts.validated, counts.evaluated)
    )
    training = network(counted.train, counts.trained, config.training.batch_size)
    unmoved = network(counted.train._replace(bytes=0.0, fixed_bytes=0.0), counts.trained, config.training.batch_size)
    by_attack = ranked(counts.ranked, ranking.by, ranking.attack, ranking[ranking.attack])
    refreshed = ranked(counts.refreshed, ranking.by, refresh_attack, ranking[refresh_attack])
    return Estimate(
        training_rate=counts.trained / training,
        unmoved_rate=counts.trained / unmoved,
        ranking_rate=counts.ranked / by_attack if by_attack else float("inf"),
        training=(training + validated) / 3600,
        ranking=(by_attack + refreshed) / 3600,
        papers_ranking=ranked(counts.ranked + counts.refreshed, "attack", "cw", papers) / 3600,
        evaluation=evaluated / 3600,
    )


def study_table(study: ml_collections.ConfigDict, assumed: Assumed) -> str:
    """Hours and dollars of a study's arms with all seeds, as Markdown; vanilla and its ranking count once."""
    known, hours = {}, dict.fromkeys(DEVICES, 0.0)
    for number, config in enumerate(study.arms.values()):
        config.seeds = tuple(study.seeds)
        network = config.model.to_json_best_effort()
        if network not in known:
            vanilla = vanilla_config(config)
            known[network] = programs(vanilla)
        for device in DEVICES:
            hours[device] += estimate(config, known[network], device, assumed, alone=number == 0).hours
    rows = [
        (f"{assumed.devices} x {device.name}", f"{total / assumed.devices:,.2g}", f"{total * device.price:,.0f}")
        for device, total in hours.items()
    ]
    return f"{study.name}: {len(study.arms)} arms, {len(study.seeds)} seeds\n\n{_markdown(rows, ['', 'h', '$'])}"


def _markdown(rows: list[tuple[str, ...]], headings: list[str]) -> str:
    return tabulate.tabulate(rows, headings, "pipe", disable_numparse=True)


def table(config: ml_collections.ConfigDict, counted: Programs, assumed: Assumed) -> str:
    """The estimates as Markdown."""
    ranking, counts = config.ranking, images_of(config)
    by = ranking.attack if ranking.by == "attack" else ranking.by
    work_rows = [
        (name, f"{work.flops / 1e9:.4g}", f"{work.bytes / 1e6:.4g}", f"{max(work.fixed_bytes, 0) / 1e6:.4g}")
        for name, work in zip(("train step", "input gradient", "forward pass"), counted, strict=True)
    ]
    estimates = []
    for device in DEVICES:
        estimated = estimate(config, counted, device, assumed)
        parts = estimated.training, estimated.ranking, estimated.papers_ranking, estimated.evaluation, estimated.hours
        rates = (assumed.devices * rate for rate in estimated[:3])
        numbers = *rates, *(hours / assumed.devices for hours in parts)
        cells = [f"{number:,.0f}" if number >= 100 else f"{number:.2g}" for number in numbers]
        estimates.append((device.name, *cells, f"{estimated.hours * device.price:,.0f}"))
    lines = [
        f"{config.name}, {config.model.name} of depth {config.model.depth}, {config.model.dtype}: {num_runs(config)} "
        f"trainings of {config.training.epochs} epochs, {counts.ranked + counts.refreshed:,.0f} images ranked by {by} "
        f"in float32, {counts.evaluated:,.0f} evaluated",
        "",
        _markdown(work_rows, ["program", "GFLOP an image", "MB an image, float32", "MB a batch"]),
        "",
        _markdown(
            estimates,
            [
                f"{assumed.devices} devices",
                "training, images/s",
                "by arithmetic alone",
                "ranking, images/s",
                "training, h",
                "ranking, h",
                "by Carlini-Wagner 3x500, h",
                "evaluation, h",
                "in all, h",
                "$",
            ],
        ),
        "",
        f"Estimates at {assumed.utilisation:.0%} of peak arithmetic or {assumed.bandwidth:.0%} of peak bandwidth, "
        f'whichever is slower; prices of about 2025. "In all" includes the ranking by {by}.',
    ]
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    config = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
    devices = flags.DEFINE_integer("devices", 8, "Devices that share a batch.", lower_bound=1)
    utilisation = flags.DEFINE_float("utilisation", 0.3, "Share of the peak of arithmetic.", 0.01, 1.0)
    bandwidth = flags.DEFINE_float("bandwidth", 0.7, "Share of the peak of memory bandwidth.", 0.01, 1.0)
    study = config_flags.DEFINE_config_file("study", None, "Path of a study, in place of a config.")

    def start(_) -> None:
        assumed = Assumed(devices.value, utilisation.value, bandwidth.value)
        with console.ending_in_one_line():
            if study.value:
                print(study_table(study.value, assumed))
            else:
                print(table(config.value, programs(config.value), assumed))

    has_study = any(word.startswith("--study") for word in sys.argv[1:])
    flags.mark_flag_as_required("study" if has_study else "config")
    app.run(start, flags_parser=console.config_parser(study if has_study else config))


if __name__ == "__main__":
    main()

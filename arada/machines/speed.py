"""The speed of a config's programs on this process' devices, measured with random images and fresh weights."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from arada import methods, models
from arada.attacks.result import margin
from arada.runs import ranking as rankings
from arada.runs import trained, trainer
from arada.runs.work import passes
from arada.runtime import backend
from arada.training import step as steps
from arada.training.replication import Replicas

# A program is measured for this many seconds, and for two calls at least.
SECONDS = 2.0
# An attack that takes longer on one batch is estimated from one gradient and one forward pass.
ATTACK_SECONDS = 10.0
# On a CPU a batch is cut to this many operations; a step's time is proportional to them.
CPU_OPERATIONS = 1e11


# The parts of a state that networks use.
WEIGHTS = ("params", "batch_stats", "normalization")


class Ceilings(NamedTuple):
    """The first device's operations a second in a large matrix product, and bytes a second in a copy."""

    operations: float
    bandwidth: float


class Program(NamedTuple):
    """A measured program: `seconds` a call on `images`; the host is free again after `dispatch_seconds`.

    Counted by XLA for one device: `operations` (a loop's body counts once), bytes `moved`, and bytes of memory: those
    that grow with the batch, and the fixed ones of the weights.
    """

    images: int
    seconds: float
    dispatch_seconds: float
    compile_seconds: float
    operations: float
    moved: float
    batch_bytes: float
    fixed_bytes: float


class Speeds(NamedTuple):
    """The programs of an experiment. `attack` is for a whole batch; None if nothing is attacked."""

    train: Program
    validate: Program
    predict: Program
    attack: Program | None


def ceilings() -> Ceilings:
    """Measured on the first device: bfloat16 products on accelerators, float32 on a CPU."""
    on_cpu = jax.default_backend() == "cpu"
    side, count = (1024, 2**24) if on_cpu else (8192, 2**28)
    matrix, numbers = jnp.ones((side, side), jnp.float32 if on_cpu else jnp.bfloat16), jnp.ones(count, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    return Ceilings(2 * side**3 / _fastest(product, matrix, matrix), 8 * count / _fastest(copy, numbers))


def _fastest(function: Callable, *arguments) -> float:
    jax.block_until_ready(function(*arguments))
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS / 4:
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def measure(
    config: ml_collections.ConfigDict, replicas: Replicas, processes: int = 1, cpu_kernels: str = "stock"
) -> Speeds:
    """Measures with this process' share of a batch on its own `replicas`; all processes do the same. Training and
    attacks use `cpu_kernels`, as in an experiment. Raises UserError if a batch does not fit into memory."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.training.batch_size //= processes
    shapes = trained.state_shapes(config)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = dataclasses.replace(state, **{part: jax.tree.map(_drawn, getattr(shapes, part)) for part in WEIGHTS})
    with backend.fitting("lower training.batch_size, or raise training.accumulate"):
        train = _train(config, replicas, state, cpu_kernels)
    variables = replicas.replicate(state.variables)

    def forward(step: Callable, per_device: int, kernels: str = "stock") -> Program:
        mapped: Any = replicas.using(kernels).map(step, in_axes=(None, 0), out_axes=0)
        size = _fewer(per_device, train.operations / max(train.images, 1) / 3) * len(replicas)
        placed = replicas.place(_batch(config, size))
        return _program(mapped.lower(variables, placed), lambda _: (variables, placed.arrays), size)

    logits_fn, per_device = trained.member_logits_fn(config), config.run.evaluation_batch_size
    validate = forward(steps.validation_step(trained.logits_fn(config)), per_device)
    predict = forward(lambda variables, batch: {"logits": logits_fn(variables, batch["image"])[0]}, per_device)
    attack_forward = functools.partial(forward, kernels=cpu_kernels)
    speeds = Speeds(train, validate, predict, _attack(config, attack_forward, predict))
    scaled = (program and program._replace(images=processes * program.images) for program in speeds)
    return Speeds(*scaled)  # type: ignore[arg-type]


def _train(config: ml_collections.ConfigDict, replicas: Replicas, state, cpu_kernels: str) -> Program:
    # Operations are counted with stock kernels: XLA does not see into oneDNN's.
    stock, step = (trainer.mapped_step(config, replicas.using(kernels)) for kernels in ("stock", cpu_kernels))
    members = trained.num_members(config)
    keys = jax.random.key(0) if members == 1 else jax.random.split(jax.random.key(0), members)
    first, learnt, keys = replicas.replicate((state, jax.device_get(methods.build(config).init()), keys))

    def lowered(step: Any, size: int):
        placed = replicas.place(_batch(config, size, members))
        return step.lower(first, placed, learnt, keys), placed.arrays

    accumulate = config.training.accumulate
    unit = len(replicas) * accumulate
    size = config.training.batch_size // unit * unit or unit
    operations = accumulate * _operations(lowered(stock, size)[0])
    fewer = min(size, max(1, _fewer(size, operations / size) // unit) * unit)
    program, batch = lowered(step, fewer)
    # The step reuses the buffers of the old state, so each call takes the last call's state.
    measured = _program(program, lambda last: (last[0] if last else first, batch, learnt, keys), fewer)
    return measured._replace(operations=operations * fewer / size)


def _attack(config: ml_collections.ConfigDict, forward: Callable, predict: Program) -> Program | None:
    ranking = config.ranking
    if ranking.by != "attack":
        return None
    model, settings = trained.build_ranked(config), ranking[ranking.attack].to_dict()
    gradients, forwards = passes(ranking.by, ranking.attack, settings)
    per_batch = predict.seconds / predict.images * config.run.ranking_batch_size * (3 * gradients + forwards)
    if per_batch < ATTACK_SECONDS:
        settings.pop("refine_steps", None)
        return forward(rankings.attack_step(model, ranking.attack, settings), config.run.ranking_batch_size)
    logits_fn = models.logits_fn(model)

    def gradient(variables, batch):
        def total(images):
            with jax.default_matmul_precision("float32"):
                return jnp.sum(margin(logits_fn(variables, images), batch["label"]))

        return jax.grad(total)(models.unit_range(batch["image"]))

    program = forward(gradient, config.run.ranking_batch_size)
    seconds = gradients * program.seconds + forwards * program.images * predict.seconds / predict.images
    return program._replace(seconds=seconds)


def _program(lowered, arguments: Callable, images: int) -> Program:
    """Compiles and measures a lowered program; arguments(last outputs or None) -> its arguments."""
    start = time.perf_counter()
    with backend.keeping_no_programs():  # one with oneDNN cannot be stored
        compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start
    outputs = jax.block_until_ready(compiled(*arguments(None)))
    calls, dispatched, start = 0, [], time.perf_counter()
    while calls < 2 or time.perf_counter() - start < SECONDS:
        called = time.perf_counter()
        outputs = compiled(*arguments(outputs))
        dispatched.append(time.perf_counter() - called)
        # A few calls are in flight, as in training, but not more than the devices can hold.
        if calls % 8 == 7:
            jax.block_until_ready(outputs)
        calls += 1
    jax.block_until_ready(outputs)
    seconds = (time.perf_counter() - start) / calls
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        images=images,
        seconds=seconds,
        dispatch_seconds=float(np.median(dispatched)),
        compile_seconds=compile_seconds,
        operations=_operations(lowered),
        moved=costs.get("bytes accessed", 0.0),
        batch_bytes=memory.temp_size_in_bytes if memory else 0,
        fixed_bytes=memory.argument_size_in_bytes if memory else 0,
    )


def _operations(lowered) -> float:
    return (lowered.cost_analysis() or {}).get("flops", 0.0)


def _fewer(images: int, operations_each: float) -> int:
    """The number of images that a CPU processes in seconds; on an accelerator all of them."""
    if jax.default_backend() != "cpu" or not operations_each:
        return images
    return min(images, max(1, int(CPU_OPERATIONS / operations_each)))


def _batch(config: ml_collections.ConfigDict, size: int, members: int = 1) -> Mapping[str, np.ndarray]:
    rng, shape = np.random.default_rng(0), (size,) if members == 1 else (size, members)
    return {
        "image": rng.integers(0, 256, (*shape, *config.data.image_shape), np.uint8),
        "label": rng.integers(0, config.data.num_classes, shape, np.int32),
        "subset": np.zeros(shape, np.int32),
        "example_id": np.zeros(shape, np.int32),
    }


def _drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Random weights: zeros would make attacks and some processors faster than real weights do."""
    if leaf.ndim < 2:
        return np.ones(leaf.shape, leaf.dtype)
    scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return np.random.default_rng(0).standard_normal(leaf.shape, np.float32) * np.float32(scale)

"""The contestants of `launch/benchmarks/speed.py`. Each function builds one contestant, in a process of its own.

All contestants of a comparison have the same weights and the same images, made by seed or read from a run, in float32
(TF32 in the products of a GPU, the default of both sides' convolutions), on the first device or on all CPUs that the
process may use. Each waits for its device before it reads the clock. Only contestants that need torch import it.
"""

import atexit
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax

import arada
from arada import attacks, methods, models, soft_labels
from arada.attacks.result import margin
from arada.data import Split
from arada.models import cpu
from arada.runs import trained, trainer
from arada.runs import workdir as workdirs
from arada.runtime import files
from arada.training import augmentation, optimizers
from arada.training import step as steps
from arada.training.replication import Replicas
from arada.training.state import TrainState
from configs import base, cifar10

# Gradient steps in one turn of the `gradients` row: one program in JAX, a Python loop with torch.
GRADIENT_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Contestant:
    """`turn` does the work once and returns (amount of work, seconds); the first call may compile.

    `witness` is a number that is equal for contestants with the same computation; `first_seconds` are the seconds of
    the first work, if building the contestant has already done it.
    """

    turn: Callable[[], tuple[float, float]]
    witness: float | None = None
    first_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Network:
    """The network of a trained run, or one with random weights."""

    name: str = ""
    depth: int = 0
    width: int = 0
    image_shape: tuple[int, int, int] = (32, 32, 3)
    run: str = ""

    def build(self):
        """The module and its variables, in host memory."""
        if self.run:
            config = workdirs.stored_config(files.absolute(self.run))
            trained.check_single(files.absolute(self.run))
            return trained.build_model(config), jax.device_get(arada.load(self.run)[1])
        model = models.build(self.name, 10, depth=self.depth, width=self.width)
        return model, draw_variables(model, self.image_shape, seed=0)


def draw_variables(model, image_shape: tuple[int, ...], seed: int) -> dict:
    """Random variables of `model`, without running it: He-normal kernels; scales, biases and statistics that differ
    from their initial values, as after training. The normalisation subtracts 0.5."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        low, high = (0.5, 1.5) if kind in ("scale", "var") else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape))))
    normalization = {"mean": np.full(image_shape, 0.5, np.float32), "scale": np.ones(1, np.float32)}
    return jax.tree_util.tree_map_with_path(draw, shapes) | {"normalization": normalization}


def draw_images(count: int, image_shape: tuple[int, ...]) -> np.ndarray:
    """Random uint8 images [count, H, W, C]."""
    return np.random.default_rng(1).integers(0, 256, (count, *image_shape), dtype=np.uint8)


def draw_labels(count: int) -> np.ndarray:
    """Random labels int32[count] of 10 classes."""
    return np.random.default_rng(2).integers(0, 10, count).astype(np.int32)


def usable_cpus() -> int:
    """The number of CPUs that this process may use; jaxlib has as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def working(work: Callable, amount: float, witness: Callable[..., float]) -> Contestant:
    """A contestant that has worked once, to compute the witness from the result."""

    def timed():
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start

    result, first_seconds = timed()
    return Contestant(lambda: (amount, timed()[1]), float(witness(result)), first_seconds)


def _choose_operations(stock: bool) -> None:
    """With `stock`, XLA's own operations instead of arada's, in this process and before anything is traced."""
    if stock:
        cpu.convolution, cpu.batch_norm = cpu.stock_convolution, cpu.stock_batch_norm


def optimizer_settings(optimizer: dict):
    settings = base.config().optimizer
    settings.update(optimizer)
    return settings


def arada_training(
    network: Network, batch_size: int, optimizer: dict, stock: bool = False, cpu_kernels: str = "stock"
) -> Contestant:
    """The project's train step, mapped over one device: normalisation, forward, backward, l2 term and update."""
    _choose_operations(stock)
    model, variables = network.build()
    settings = optimizer_settings(optimizer)
    transformation = optimizers.build(settings, steps_per_epoch=1)
    penalty = functools.partial(optimizers.l2_penalty, coefficient=settings.l2, targets=settings.l2_on)
    step = steps.train_step(
        model,
        methods.SoftLabels(num_subsets=1, num_classes=10),
        functools.partial(augmentation.augment, "none"),
        transformation,
        penalty,
    )
    replicas = Replicas(jax.local_devices()[:1], cpu_kernels=cpu_kernels)
    mapped = replicas.map(step, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,))
    l2 = float(penalty(variables["params"]))
    state = TrainState(
        step=np.zeros((), np.int32), opt_state=jax.device_get(transformation.init(variables["params"])), **variables
    )
    state, labels, key = replicas.replicate((state, soft_labels.init(1, 10), jax.random.key(0)))
    batch = {
        "image": draw_images(batch_size, network.image_shape),
        "label": draw_labels(batch_size),
        "example_id": np.arange(batch_size, dtype=np.int32),
        "subset": np.zeros(batch_size, np.int32),
    }
    batch = replicas.place(batch)

    def work():
        nonlocal state
        state, metrics = mapped(state, batch, labels, key)
        return jax.block_until_ready((state, metrics))[1]

    return working(work, batch_size, lambda metrics: float(metrics["loss"]) - l2)


def arada_gradients(network: Network, batch_size: int, stock: bool = False, cpu_kernels: str = "stock") -> Contestant:
    """Gradients of the margin with respect to the images, step by step in one jitted loop."""
    _choose_operations(stock)
    model, variables = network.build()
    variables, images = jax.device_put((variables, draw_images(batch_size, network.image_shape)))

    @jax.jit
    @cpu.kernels(cpu_kernels)
    def descend(variables, images):
        logits_fn = functools.partial(models.logits_fn(model), variables)
        images = models.unit_range(images)
        label = jnp.argmax(logits_fn(images), axis=-1)

        def step(_, moved):
            return moved - 1e-3 * jax.grad(lambda x: jnp.sum(margin(logits_fn(x), label)))(moved)

        return lax.fori_loop(0, GRADIENT_STEPS, step, images) - images

    def work():
        return jax.block_until_ready(descend(variables, images))

    return working(work, GRADIENT_STEPS * batch_size, np.linalg.norm)


def arada_attack(
    network: Network,
    images: np.ndarray,
    attack: str,
    settings: dict,
    batch_size: int,
    amount: float,
    stock: bool = False,
    cpu_kernels: str = "stock",
) -> Contestant:
    """An attack of `arada.attacks`, jitted, on all `images` in batches; a turn counts as `amount` images."""
    _choose_operations(stock)
    model, variables = network.build()
    variables = jax.device_put(variables)
    network_logits = models.logits_fn(model)
    run = functools.partial(attacks.BY_NAME[attack], **settings)

    @jax.jit
    @cpu.kernels(cpu_kernels)
    def attacked(variables, images):
        return run(functools.partial(network_logits, variables), images).distance

    images = np.asarray(models.unit_range(images))
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]

    def work():
        return [np.asarray(attacked(variables, batch)) for batch in batches]

    return working(work, amount, lambda _: mean_top_logit(np.asarray(jax.jit(network_logits)(variables, batches[0]))))


def mean_top_logit(logits: np.ndarray) -> float:
    return float(logits.max(axis=-1).mean())


@dataclasses.dataclass(frozen=True)
class TimedSplit(Split):
    """A split that records the start of each epoch."""

    starts: list[float] = dataclasses.field(default_factory=list)

    def epoch(self, batch_size: int, **order):
        """As `Split.epoch`."""
        self.starts.append(time.perf_counter())
        yield from super().epoch(batch_size, **order)


def training_epoch(method: str, overrides: dict, epochs: int, cpu_kernels: str = "stock") -> Contestant:
    """Whole epochs of `arada.runs.Trainer`, from the start of one epoch to the start of the next: training, validation
    pass, soft labels, logs. A turn is a new run, without its start, last epoch and checkpoint.

    Images, labels and the ranking of AR-AdaLS are random.
    """
    # The log writer imports TensorFlow, which would log at its start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    path = epath.Path(tempfile.mkdtemp(prefix="arada_benchmark_"))
    atexit.register(path.rmtree)
    config = cifar10.get_config(f"{method},laptop")
    config.update_from_flattened_dict(overrides | {"training.epochs": epochs + 1, "ranking.source": f"{path}/ranking"})
    config.run.checkpoint_every_steps = 10**9
    splits, rng = {}, np.random.default_rng(0)
    for name, kind in (("train", TimedSplit), ("validation", Split)):
        count = config.data[f"num_{name}"]
        images, ids = draw_images(count, tuple(config.data.image_shape)), np.arange(count, dtype=np.int32)
        splits[name] = kind(images, draw_labels(count), ids)
        files.write_npz(path / "ranking" / f"{name}.npz", {"example_id": ids, "distance": rng.uniform(size=count)})
    replicas = Replicas(jax.local_devices()[:1], cpu_kernels=cpu_kernels)
    epochs_trainer = trainer.Trainer(config, workdirs.Workdir(path), splits, replicas)
    starts, seed = splits["train"].starts, -1

    def turn():
        nonlocal seed
        starts.clear()
        seed += 1
        epochs_trainer.train(seed)
        return len(starts) - 1, starts[-1] - starts[0]

    return Contestant(turn)

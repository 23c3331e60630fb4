"""What every config trains, as programs for TPU and GPU: shapes and lowering alone, no device and no arithmetic."""

import functools
import importlib
import itertools
import pkgutil
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from jax import export

import configs
from arada import methods
from arada.runs import ranking as rankings
from arada.runs import trained, trainer
from arada.training.replication import Replicas
from configs import base

MODULES = {
    module.name: importlib.import_module(f"configs.{module.name}") for module in pkgutil.iter_modules(configs.__path__)
}
FILES = {name: module for name, module in MODULES.items() if hasattr(module, "get_config")}
PLATFORMS = ("tpu", "cuda")
# One preset of each way to make a batch into a step.
METHODS = ("ar_adals", "mixup", "ccat", "focal", "adafocal", "dual_focal", "mbls", "acls", "ar_adals_of_ensemble")
# Weights of one network. Those of ResNet-29, WRN-28-10 and ResNet-101 are published, others added up layer by layer.
WEIGHTS = {
    ("cifar10", ""): 843_786,
    ("cifar10", "bfloat16"): 843_786,
    ("cifar10", "laptop"): 297_418,
    ("cifar10_wrn", ""): 36_479_194,
    ("cifar10_wrn", "bfloat16"): 36_479_194,
    ("cifar10_wrn", "testing"): 77_850,
    ("cifar100_wrn", ""): 36_536_884,
    ("cifar100_wrn", "bfloat16"): 36_536_884,
    ("cifar100_wrn", "testing"): 83_700,
    ("digits", ""): 297_130,
    ("digits", "testing"): 19_666,
    ("imagenet", ""): 44_549_160,
    ("imagenet", "testing"): 44_549_160,
    ("own_images", ""): 297_418,
}


def every(*sizes_left_out):
    """(file, method, size) of every preset."""
    return [
        (name, method, size)
        for name, file in FILES.items()
        for method, size in itertools.product(file.METHODS, ("", *file.SIZES))
        if size not in sizes_left_out
    ]


def config_of(name, method="", size=""):
    return FILES[name].get_config(",".join(filter(None, (method, size))))


def that_trains(config):
    """The part of `config` that the train step depends on; presets that share it share their program."""
    config, default = config.copy_and_resolve_references(), base.config()
    default.run.members = config.run.members
    for field in ("name", "seeds", "ranking", "evaluation", "run"):
        config[field] = default[field]
    # Epsilon and alpha reach the step as numbers in its arguments.
    config.soft_labels = {"num_subsets": config.soft_labels.num_subsets, "epsilon": 0.0, "adaptive": False, "alpha": ()}
    if config.ensemble.of:
        config.ensemble = default.ensemble
    return ml_collections.FrozenConfigDict(config)


def batch_shapes(config, batch_size, *keys):
    shape = (batch_size,) if trained.num_members(config) == 1 else (batch_size, trained.num_members(config))
    dtype = jnp.float32 if config.data.source == "digits" else jnp.uint8
    of_keys = {key: jax.ShapeDtypeStruct(shape, jnp.int32) for key in ("label", "example_id", *keys)}
    return of_keys | {"image": jax.ShapeDtypeStruct((*shape, *config.data.image_shape), dtype)}


# Presets differ in their method more often than in their state.
traced_once = functools.cache(trained.state_shapes)


def state_shapes(config):
    """`trained.state_shapes` of all that it depends on."""
    of_state = {part: config.copy_and_resolve_references()[part] for part in ("data", "model", "optimizer", "training")}
    ensemble = {"members": trained.num_members(config), "of": ""}
    return traced_once(ml_collections.FrozenConfigDict(of_state | {"ensemble": ensemble}))


def train_arguments(config):
    """The shapes of all that a mapped train step takes."""
    members = trained.num_members(config)
    key = jax.eval_shape(lambda: jax.random.key(0) if members == 1 else jax.random.split(jax.random.key(0), members))
    batch = batch_shapes(config, config.training.batch_size, "subset")
    return state_shapes(config), batch, jax.eval_shape(methods.build(config).init), key


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class Program(NamedTuple):
    """What is asked of a lowered program; most are counts of its text."""

    out: Any
    convolutions: int
    of_dtypes: set
    products: int
    loops: int
    all_reduces: int
    full_precision: bool


def lowered(step, platform, arguments, *, devices):
    """The jitted `step` as a program for a platform that need not be there. Nothing is compiled, nothing runs."""
    exported = export.export(step, platforms=[platform])(*arguments)
    assert (exported.platforms, exported.nr_devices) == ((platform,), devices)
    text = exported.mlir_module()
    operations = ("convolution", "dot_general", "while", "all_reduce")
    convolutions, products, loops, all_reduces = (text.count(f"stablehlo.{name}") for name in operations)
    dtypes = set(re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*x(\w+)>", text))
    out = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    multiplied = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
    full_precision = all("HIGHEST" in line for line in multiplied)
    return Program(out, convolutions, dtypes, products, loops, all_reduces, full_precision)


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def assert_trains(config, *, platforms=PLATFORMS, devices, mapping="pmap"):
    """The train step of `config` lowers to stock convolutions, and its state goes in again as it comes out."""
    # Export takes what `jax.jit` returns, of the mapped function. Traced once for all platforms.
    step = jax.jit(trainer.mapped_step(config, Replicas(jax.devices()[:devices], mapping)))
    arguments = train_arguments(config)
    state = arguments[0]
    # A layer's output and its gradients by kernel and by input; the first layer has none by input, for images are no
    # weights, except in CCAT's attack. Stacked members are as one network. A CPU has products for convolutions.
    layers = sum(path[-1].key == "kernel" and "Conv" in path[-2].key for path, _ in leaves(state.params))
    passes = 2 if config.method.name == "ccat" else 1
    networks = trained.num_members(config) if trained.unrolled(config) else 1
    # Those of the last layer, and two that shift the images.
    products = 3 * passes + 2 * (config.training.augmentation in ("shift_and_flip", "crop_and_flip"))
    for platform in platforms:
        program = lowered(step, platform, arguments, devices=devices)
        assert program.convolutions == networks * (3 * passes * layers - 1)
        assert program.of_dtypes == {{"float32": "f32", "bfloat16": "bf16"}[config.model.dtype]}
        assert program.products == networks * products
        if config.method.name in ("cross_entropy", "focal"):  # others draw, search or attack in loops
            assert program.loops == 0
        assert program.all_reduces > 0
        new_state, metrics = program.out
        assert shapes(new_state) == shapes(state)
        assert shapes(metrics) == dict.fromkeys(("accuracy", "gradient_norm", "loss"), ((), jnp.float32))


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """Members are unrolled on a CPU alone."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


@pytest.mark.parametrize(("name", "method", "size"), every())
def test_every_preset_has_its_network_and_its_state(name, method, size):
    config = config_of(name, method, size)
    members = trained.num_members(config)
    state, _, learnt, _ = train_arguments(config)
    weights = WEIGHTS[name, size] * members
    assert count(state.params) == weights
    assert {leaf.dtype for leaf in jax.tree.leaves(state.variables)} == {jnp.dtype("float32")}
    # Adam keeps two numbers a weight, momentum one; beside them stand counters.
    counters = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.int32]
    of_weights = {"adam": 2, "sgd": 1}[config.optimizer.name]
    assert count(state.opt_state) - count(counters) == of_weights * weights
    labels = getattr(learnt, "soft_labels", learnt)
    assert labels.p_correct.shape == (config.soft_labels.num_subsets,)


def test_no_other_way_to_train():
    def ways(presets):
        return {
            (config.method.name, trained.num_members(config) > 1) for config in itertools.starmap(config_of, presets)
        }

    assert ways(every()) == ways(("digits", method, "testing") for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_methods_lower(method):
    assert_trains(config_of("digits", method, "testing"), devices=2)


def test_the_other_mapping_lowers():
    assert_trains(config_of("digits", "ar_adals", "testing"), devices=2, mapping="shard_map")


def test_unrolled_members_lower():
    config = config_of("digits", "ar_adals_of_ensemble", "testing")
    config.run.members = "unrolled"
    assert_trains(config, devices=2)


@pytest.mark.parametrize(
    ("attack", "mapping"), [*((attack, "pmap") for attack in ("fmn", "cw", "sdf", "first_order")), ("fmn", "shard_map")]
)
def test_rankings_lower(attack, mapping):
    config = config_of("digits", "vanilla", "testing")
    batch_size = config.run.ranking_batch_size
    ranker = rankings.Ranker(
        trained.build_ranked(config),
        config.ranking,
        attack=attack,
        num_subsets=config.ranking.num_subsets,
        batch_size=batch_size,
        replicas=Replicas(jax.devices()[:2], mapping),
    )
    # Padding is masked on the host.
    arguments = state_shapes(config).variables, batch_shapes(config, batch_size)
    step = jax.jit(ranker.mapped)
    for platform in PLATFORMS:
        program = lowered(step, platform, arguments, devices=2)
        # Whole networks of 13 convolutions, and at most one product for each 13 of them; a CPU has more products.
        assert program.convolutions % 13 == 0
        assert 0 < program.products <= program.convolutions // 13
        assert program.loops > 0
        assert program.all_reduces == 0
        # Else a TPU and newer GPUs would multiply numbers of 8 or 10 bits.
        assert program.full_precision
        by_image = (2, batch_size // 2) if mapping == "pmap" else (batch_size,)
        assert shapes(program.out["distance"]) == (by_image, jnp.float32)
        assert shapes(program.out["predicted"]) == (by_image, jnp.int32)


def test_the_control_by_confidence_is_as_precise_as_attacks():
    config = config_of("digits", "vanilla", "testing")
    step = Replicas(jax.devices()[:1]).map(
        rankings.confidence_step(trained.build_ranked(config)), in_axes=(None, 0), out_axes=0
    )
    arguments = state_shapes(config).variables, batch_shapes(config, 4)
    for platform in PLATFORMS:
        program = lowered(jax.jit(step), platform, arguments, devices=1)
        assert program.products > 0
        assert program.full_precision


@pytest.mark.parametrize(("name", "batch_size"), [("cifar10", 256), ("cifar10_wrn", 64), ("imagenet", 8)])
def test_networks_lower_at_full_size(name, batch_size):
    config = config_of(name)
    config.training.batch_size = batch_size
    assert_trains(config, platforms=["tpu"], devices=1)


def test_resnet_101_has_nothing_that_cuda_would_sum_up_in_any_order():
    config = config_of("imagenet")
    config.training.batch_size = 8
    step = jax.jit(trainer.mapped_step(config, Replicas(jax.devices()[:1], "shard_map")))
    program = step.trace(*train_arguments(config)).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("stablehlo.convolution") > 3 * 100
    assert "scatter" not in program


@functools.cache
def assert_trains_in_full(config):
    """Once for all presets that share a program."""
    assert_trains(config, devices=4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method", "size"), every("testing"))
def test_every_preset_lowers_at_full_size(name, method, size):
    assert_trains_in_full(that_trains(config_of(name, method, size)))

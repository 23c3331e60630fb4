"""Weights that were trained elsewhere, as a finished run: torchvision's and timm's ResNets, or networks of our own."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.serialization
import flax.traverse_util
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
from etils import epath

from arada import methods
from arada.errors import UserError
from arada.models import torchvision
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.identity import imported_identity
from arada.runtime import lease
from arada.training.checkpoints import Checkpoints
from arada.training.state import Supervision, TrainState, fingerprint

# The first parts of the names of arrays in our own files.
COLLECTIONS = ("params", "batch_stats", "normalization")


def read(path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name: .safetensors, .msgpack (flax), or a folder of orbax. Raises UserError."""
    field = f"--weights={path}"
    if not path.exists():
        raise UserError(f"{field} does not exist")
    try:
        if path.is_dir():
            tree = ocp.StandardCheckpointer().restore(path)
        elif path.suffix == ".safetensors":
            return safetensors.numpy.load(path.read_bytes())
        elif path.suffix == ".msgpack":
            tree = flax.serialization.msgpack_restore(path.read_bytes())
        else:
            raise UserError(
                f"{field} is not a .safetensors or .msgpack file or an orbax folder. A .pth holds pickles, which are "
                "never loaded: "
                f"convert it where you trust it, safetensors.torch.save_file(network.state_dict(), FILE)"
            )
        return flax.traverse_util.flatten_dict(tree, sep="/")
    except UserError:
        raise
    except Exception as error:  # each library has its own exception for foreign bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{field} cannot be read ({reason}); copy it again") from None


def variables(config: ml_collections.ConfigDict, arrays: Mapping[str, np.ndarray], field: str) -> dict[str, np.ndarray]:
    """By path, the arrays of the config's network: `params/...`, `batch_stats/...`, and `normalization/...` if given.

    Raises UserError, which begins with `field`, for names or shapes of another network.
    """
    shapes = flax.traverse_util.flatten_dict(dict(trained.state_shapes(config).variables), sep="/")
    ours = {name: np.asarray(value) for name, value in arrays.items() if name.split("/")[0] in COLLECTIONS}
    try:
        if ours:
            needed, given = (
                {name for name in names if not name.startswith("normalization/")} for names in (shapes, ours)
            )
            torchvision.check_names(needed, given)
            found = ours
        else:
            found = _of_torchvision(config, arrays)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None
    differing = [name for name, value in found.items() if name not in shapes or value.shape != shapes[name].shape]
    if differing:
        heads = [name for name in differing if name == "params/Dense_0/bias"]
        name = (heads or differing)[0]
        expected = list(shapes[name].shape) if name in shapes else "no such array"
        classes = f", data.num_classes of them: {config.data.num_classes}" if heads else ""
        raise UserError(
            f"{field}: {len(differing)} of {len(found)} arrays have other shapes than the config's network; {name} is "
            f"{list(found[name].shape)} in the file and {expected} in the network{classes}"
        )
    if broken := [name for name, value in found.items() if not np.isfinite(value).all()]:
        raise UserError(f"{field}: {len(broken)} arrays hold NaN or infinity, the first is {broken[0]}")
    return {name: value.astype(np.float32) for name, value in found.items()}


def _of_torchvision(config: ml_collections.ConfigDict, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    depth, model = torchvision.depth_of(set(arrays)), config.model
    if model.name != "resnet_v1":
        listed = ", ".join(sorted(arrays)[:5])
        raise ValueError(
            f"{len(arrays)} names ({listed} ...) are not this package's, params/..., and model.name is "
            f"{model.name!r}; names of torchvision and timm are for resnet_v1, such as configs/imagenet.py"
        )
    if depth and depth != model.depth:
        raise ValueError(f"it is a ResNet-{depth}, but model.depth is {model.depth}; add --config.model.depth={depth}")
    found = torchvision.variables(arrays, model.depth)
    if model.get("padding", "same") != "both":
        raise ValueError("weights of torchvision and timm need their padding; add the preset pretrained to --config")
    return found


def make_run(
    config: ml_collections.ConfigDict,
    workdir: workdirs.Workdir,
    path: epath.Path,
    normalization: Callable[[], dict[str, np.ndarray]],
) -> epath.Path:
    """Makes the finished run `config.name`/seed_<first of seeds> of a file of weights; returns its folder.

    Args:
      config: of the network and its data; checked.
      workdir: where the run is made.
      path: the file.
      normalization: () -> {"mean", "scale"} of the config, for a file without normalization.

    Raises UserError if the run exists or the file is of another network; nothing is written then.
    """
    seed = config.seeds[0]
    run_dir = workdir.run(config.name, seed)
    if (run_dir / "config.json").exists():
        raise UserError(
            f"{run_dir} already exists; choose other --config.seeds, or delete it and all results computed with it"
        )
    imported = workdirs.imported_seeds(workdir, config.name)
    if others := [seed for name, seed in workdir.runs() if name == config.name and seed not in imported]:
        raise UserError(
            f"{config.name}/seed_{others[0]} was trained in {workdir.path}: tables would mix it with imported ones; "
            f"choose another --config.name"
        )
    if trained.num_members(config) > 1 or config.ensemble.of:
        raise UserError(f"--config: {config.name} is an ensemble; weights belong to one network, so use vanilla")
    found = variables(config, read(path), f"--weights={path}")
    if not any(name.startswith("normalization/") for name in found):
        found |= {f"normalization/{name}": value for name, value in normalization().items()}
    tree = flax.traverse_util.unflatten_dict(found, sep="/")
    shapes = trained.state_shapes(config)
    state: TrainState = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = dataclasses.replace(
        state,
        step=np.asarray(trained.total_steps(config), state.step.dtype),  # type: ignore[arg-type]
        params=tree["params"],
        batch_stats=tree.get("batch_stats", {}),
        normalization=tree["normalization"],
    )
    # The method has learnt nothing from validation images, and no image has a subset.
    subsets = (np.zeros(config.data[f"num_{split}"], np.int32) for split in ("train", "validation"))
    supervision = Supervision(jax.device_get(methods.build(config).init()), *subsets)
    weights = {"file": path.name, "weights": fingerprint(state.variables)}
    workdirs.claim(run_dir, imported_identity(config, seed) | {"imported": weights}, config)
    with lease.held(run_dir), Checkpoints(run_dir / "checkpoints") as checkpoints:
        checkpoints.save(int(state.step), state, supervision, {"config": config.to_json(), "seed": seed})
    return run_dir

"""Weights from elsewhere as finished runs."""

import functools
import subprocess
import sys

import flax.serialization
import jax
import numpy as np
import one_convolution
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

import arada
from arada.errors import UserError
from arada.experiment import Experiment
from arada.models import torchvision
from arada.runs import imported, trained
from arada.runs import workdir as workdirs
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits, imagenet

pytestmark = pytest.mark.usefixtures("one_convolution")


def tiny(presets="vanilla", **overrides):
    config = digits.get_config(f"{presets},testing")
    quick = {"seeds": (0,), "training.epochs": 1, "ranking.attack": "fmn", "ranking.fmn.steps": 2}
    config.update_from_flattened_dict(quick | overrides)
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with one vanilla run."""
    path = tmp_path_factory.mktemp("imported")
    Experiment(tiny(), path).run("train")
    return Workdir(path)


def moments():
    raise AssertionError("the file has them")


def make(config, path, file, normalization=moments):
    return imported.make_run(config, Experiment(config, path).workdir, file, normalization)


def in_file(variables, kind, path, *, collections=imported.COLLECTIONS):
    """A file of the weights, as flax, orbax or this project write them."""
    tree = {name: jax.device_get(variables[name]) for name in collections}
    if kind == "msgpack":
        path = path / "weights.msgpack"
        path.write_bytes(flax.serialization.msgpack_serialize(tree))
    elif kind == "orbax":
        path = path / "weights"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, tree)
    else:
        path = path / "weights.safetensors"
        flat = flax.traverse_util.flatten_dict(tree, sep="/")
        safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in flat.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "msgpack", "orbax"])
def test_weights_of_our_own_come_back(workdir, tmp_path, kind):
    variables = trained.final_variables(workdir.run("vanilla", 0))
    run = make(tiny(), tmp_path / "w", in_file(variables, kind, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, trained.final_variables(run), variables)
    identity = workdirs.stored(run)["identity"]
    assert identity["imported"].keys() == {"file", "weights"}
    assert "optimizer" not in identity


def test_an_imported_run_goes_through_all_stages(workdir, tmp_path):
    source = workdir.run("vanilla", 0)
    file = arada.export(source, tmp_path / "weights.safetensors")
    make(tiny(), tmp_path / "w", file)
    Experiment(tiny(), tmp_path / "w").run()
    Experiment(tiny("ar_adals,finetune"), tmp_path / "w").run()
    evaluation = files.read_json(tmp_path / "w" / "evaluation.json")
    assert list(evaluation["methods"]) == ["ar_adals_finetuned", "vanilla"]
    assert (tmp_path / "w" / "report" / "index.html").exists()
    # What it predicts is what the trained run predicts.
    Experiment(tiny(), workdir.path).run("evaluate")
    of_source, of_import = (
        files.read_npz(of.predictions("vanilla", 0) / "test.npz") for of in (workdir, Workdir(tmp_path / "w"))
    )
    np.testing.assert_array_equal(of_import["logits"], of_source["logits"])
    # More epochs are of no consequence to it, other data are; trained and imported seeds do not mix.
    Experiment(tiny(**{"training.epochs": 2}), tmp_path / "w").run("train")
    with pytest.raises(UserError, match=r"vanilla/seed_0 was imported, but seeds \[1\] would be trained"):
        Experiment(tiny(seeds=(0, 1)), tmp_path / "w").run("train")
    with pytest.raises(UserError, match=r"vanilla/seed_0 was trained in .*: tables would mix it with imported ones"):
        make(tiny(seeds=(1,)), workdir.path, file)
    with pytest.raises(UserError, match=r"training.normalization was standardize and is now unit"):
        Experiment(tiny(**{"training.normalization": "unit"}), tmp_path / "w").run("train")
    with pytest.raises(UserError, match=r"seed_0 already exists; choose other --config.seeds"):
        make(tiny(), tmp_path / "w", file)


def test_normalisation_is_the_config_s_where_the_file_has_none(workdir, tmp_path):
    variables = trained.final_variables(workdir.run("vanilla", 0))
    file = in_file(variables, "safetensors", tmp_path, collections=("params", "batch_stats"))
    run = make(tiny(), tmp_path / "w", file, lambda: jax.device_get(variables["normalization"]))
    jax.tree.map(np.testing.assert_array_equal, trained.final_variables(run), variables)


def without_a_bias(arrays):
    del arrays["params/Dense_0/bias"]


def with_seven_more(arrays):
    arrays |= {f"params/x{i}": np.zeros(2, np.float32) for i in range(7)}


def with_seven_classes(arrays):
    arrays["params/Dense_0/bias"] = np.zeros(7, np.float32)


def with_nan(arrays):
    arrays["params/Dense_0/bias"][3] = np.nan


def of_strangers(arrays):
    arrays.clear()
    arrays["fc"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_bias, r"1 of \d+ names are missing: params/Dense_0/bias$"),
        (with_seven_more, r"7 of \d+ names do not exist in this network: params/x0, .*x4 \.\.\."),
        (
            with_seven_classes,
            r"1 of \d+ arrays have other shapes .*\[7\] in the file and \[10\] in the network, data.num_classes .*: 10",
        ),
        (with_nan, r"1 arrays hold NaN or infinity, the first is params/Dense_0/bias"),
        (of_strangers, r"1 names \(fc \.\.\.\) are not this package's, .* model.name is 'one_convolution'"),
    ],
)
def test_files_of_other_networks_are_refused(workdir, tmp_path, change, message):
    file = in_file(trained.final_variables(workdir.run("vanilla", 0)), "safetensors", tmp_path)
    arrays = {name: np.array(value) for name, value in safetensors.numpy.load_file(file).items()}
    change(arrays)
    safetensors.numpy.save_file(arrays, file)
    with pytest.raises(UserError, match=message):
        make(tiny(), tmp_path / "w", file)
    assert not Workdir(tmp_path / "w").runs()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "w.pth",
            b"",
            r"is not a .safetensors or .msgpack file or an orbax folder. A .pth holds pickles, which are never loaded",
        ),
        ("w.safetensors", b"nothing of the kind", r"w.safetensors cannot be read"),
        ("w.msgpack", b"\xc1\xc1", r"w.msgpack cannot be read"),
        ("w.npz", None, r"w.npz does not exist"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        make(tiny(), tmp_path / "w", tmp_path / name)


def test_ensembles_are_no_single_network(tmp_path):
    with pytest.raises(UserError, match="ar_adals_of_ensemble is an ensemble"):
        make(tiny("ar_adals_of_ensemble"), tmp_path / "w", tmp_path / "x.msgpack")


def pretrained(depth=50):
    config = imagenet.get_config("vanilla,pretrained,testing")
    config.model.update(depth=depth, dtype="float32")
    return config


@functools.cache  # tracing a deep network takes seconds
def tensors_of(depth):
    """Zeros under torchvision's names, and in its layout."""
    variables = trained.state_shapes(pretrained(depth)).variables
    shapes = {name: of.shape for name, of in flax.traverse_util.flatten_dict(dict(variables), sep="/").items()}
    convolutions, norms = torchvision.layers(depth)
    found = {"fc.weight": shapes["params/Dense_0/kernel"][::-1], "fc.bias": shapes["params/Dense_0/bias"]}
    for i, name in enumerate(convolutions):
        height, width, inputs, outputs = shapes[f"params/Conv_{i}/kernel"]
        found[f"{name}.weight"] = (outputs, inputs, height, width)
    for i, name in enumerate(norms):
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = shapes[f"params/BatchNorm_{i}/scale"]
        found[f"{name}.num_batches_tracked"] = ()
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_every_name_of_torchvision_has_its_place(depth):
    tensors = tensors_of(depth)
    # Published: 320 entries of a state_dict for ResNet-50, 626 for ResNet-101, 932 for ResNet-152.
    assert len(tensors) == {50: 320, 101: 626, 152: 932}[depth]
    found = imported.variables(pretrained(depth), tensors, "file")
    assert (
        sum(value.size for name, value in found.items() if name.startswith("params/"))
        == {
            50: 25_557_032,
            101: 44_549_160,
            152: 60_192_808,
        }[depth]
    )


def test_what_torchvision_s_files_may_lack():
    tensors = dict(tensors_of(50))
    with pytest.raises(UserError, match=r"it is a ResNet-50, but model.depth is 101; add --config.model.depth=50"):
        imported.variables(pretrained(101), tensors, "file")
    config = pretrained()
    config.model.padding = "same"
    with pytest.raises(UserError, match="need their padding; add the preset pretrained"):
        imported.variables(config, tensors, "file")
    config = pretrained()
    config.data.num_classes = 10
    with pytest.raises(
        UserError, match=r"2 of 267 arrays have other shapes .*\[1000\] in the file and \[10\] in the network"
    ):
        imported.variables(config, tensors, "file")
    del tensors["layer1.0.bn1.bias"]
    with pytest.raises(UserError, match=r"^file: 1 of 267 names are missing: layer1.0.bn1.bias$"):
        imported.variables(pretrained(), tensors, "file")


@pytest.mark.peer
def test_logits_are_those_of_the_network_in_pytorch(peer, tmp_path):
    """A ResNet-50 with torchvision's names and random weights, at 224 pixels, raw images to logits."""
    torch, twins = peer("torch"), peer("launch.benchmarks.peers")
    torch.manual_seed(0)
    network = twins.TorchvisionResNet(50).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8).repeat(32, axis=1).repeat(32, axis=2)
    mean, scale = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    normalised = ((torch.tensor(images) / 255 - torch.tensor(mean)) / torch.tensor(scale)).permute(0, 3, 1, 2)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("bn1.bias", "bn2.bias", "bn3.bias")):
                value.normal_(0, 0.1)
        # The statistics of these images, as a trained network has them: made up ones let the signal fade, block by
        # block, until all images give the same logits.
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        network.train()(normalised)
        network.eval()
    file = tmp_path / "resnet50.safetensors"
    safetensors.numpy.save_file({name: value.numpy() for name, value in network.state_dict().items()}, file)
    config = pretrained()
    # Not through a run: a checkpoint of 100 MB takes longer than the network.
    found = imported.variables(config, imported.read(file), "file")
    variables = flax.traverse_util.unflatten_dict(found, sep="/") | {"normalization": {"mean": mean, "scale": scale}}
    logits = jax.jit(trained.logits_fn(config))(variables, images)
    with torch.no_grad():
        expected = network(normalised).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1, "the images must not look alike to the network"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_the_command(workdir, tmp_path):
    file = in_file(
        trained.final_variables(workdir.run("vanilla", 0)), "msgpack", tmp_path, collections=("params", "batch_stats")
    )
    command = [sys.executable, "-m", "arada.import_weights", f"--config={one_convolution.CONFIG}:vanilla,testing"]
    command += [f"--weights={file}", f"--workdir={tmp_path}/w", "--config.seeds=(3,)"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Imported: {tmp_path}/w/runs/vanilla/seed_3" in done.stdout
    # The file has no normalisation: that of the config's own training images.
    made, source = (
        trained.final_variables(of.run("vanilla", seed)) for of, seed in ((Workdir(tmp_path / "w"), 3), (workdir, 0))
    )
    jax.tree.map(np.testing.assert_array_equal, made, source)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].count("seed_3 already exists") == 1

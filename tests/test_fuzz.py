"""What people and disks may hand in: every input is taken or refused in one clear line, and nothing is overwritten.

Thousands of inputs: `pytest tests/test_fuzz.py --hypothesis-profile=thousands`.
"""

import functools
import json
import pathlib
import shutil
import sys
import types

import jax
import ml_collections
import numpy as np
import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from arada import checks, data, methods, soft_labels
from arada.errors import UserError
from arada.evaluation import bootstrap, predictions, summary
from arada.runs import workdir as workdirs
from arada.runs.identity import ranking_identity, ranking_sources, run_identity
from arada.runs.ranks import stored_subsets
from arada.runs.workdir import Workdir
from arada.runtime import console, files
from arada.training import log_rows, optimizers
from arada.training.checkpoints import Checkpoints
from arada.training.state import Supervision, TrainState
from configs import cifar10, digits, imagenet

# ml_collections loads config files by a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
# A fixture's folder is made as it was before every input.
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

CONFIGS = ("digits.py:ar_adals", "digits.py:ar_adals_on_the_fly,testing", "cifar10.py:mixup", "imagenet.py:adafocal")


def paths(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


FIELDS = sorted({field for config in (digits, cifar10, imagenet) for field in paths(config.get_config())})
VALUES = st.one_of(
    st.sampled_from(
        (
            *("", "0", "1", "-1", "1e400", "nan", "-inf", "True", "None", "()", "((),)", "(1,)", "('a',)", "(None,)"),
            *("((0,0.1),)", "((0,'a'),)", "(('a',1),)", "((0,nan),)", "((0,(1,)),)", "(1,1)", "(0.5,)", "((0,1,2),)"),
            *("[1]", "{}", "{'a':1}", "99999999999999999999", "1_000", "0x10", "vanilla/seed_0", "..", "/", "~", "a/b"),
            *("__import__('os').mkdir('/tmp/arada_was_here')", "(__import__('os').mkdir('/tmp/arada_was_here'),)"),
            *("exec('raise SystemExit')", "lambda: 1", "\\x00", "${HOME}", "'", '"', "(" * 50, "[" * 500, "é", "\n"),
        )
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12),
    st.lists(st.one_of(st.integers(-3, 50), st.floats(), st.text(max_size=3)), max_size=4).map(
        lambda items: str(tuple(items))
    ),
)


def assert_one_line(message, *names):
    assert len(message.splitlines()) == 1, message
    assert all(name in message for name in names), message


def parsed(arguments, monkeypatch):
    """The config of a command line, or None if it is refused in one line."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    with monkeypatch.context() as patched:
        patched.setattr(console, "flags", types.SimpleNamespace(FLAGS=values, Error=flags.Error))
        try:
            patched.setattr(sys, "argv", ["program", *arguments])  # where ml_collections looks for fields
            console.config_parser(holder)(sys.argv)
            return holder.value
        except SystemExit as stopped:
            assert_one_line(stopped.code, "error: ")
            return None


@shared
@given(config=st.sampled_from(CONFIGS), overrides=st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), max_size=3))
def test_overrides(monkeypatch, config, overrides):
    arguments = [f"--config=configs/{config}", *(f"--config.{field}={value}" for field, value in overrides)]
    found = parsed(arguments, monkeypatch)
    assert not pathlib.Path("/tmp/arada_was_here").exists()
    if found is None:
        return
    try:
        checks.check_config(found, 1)
        # What is taken can be built from.
        for seed in found.seeds:
            json.dumps(run_identity(found, seed, 1), allow_nan=False)
            ranking_sources(found, seed)
        optimizers.build(found.optimizer, 10)
        methods.build(found).init()
        predictions.dataset_names(found.evaluation)
        data.build(found.data, found.run.data_dir)
    except UserError as error:
        assert_one_line(str(error))


def test_a_text_that_is_code_stays_a_text(monkeypatch, tmp_path):
    code = f"__import__('os').mkdir('{tmp_path}/harm')"
    config = parsed(["--config=configs/digits.py", f"--config.run.data_dir={code}"], monkeypatch)
    assert config.run.data_dir == code
    for field in ("training.epochs", "optimizer.learning_rate", "soft_labels.adaptive"):
        assert parsed(["--config=configs/digits.py", f"--config.{field}={code}"], monkeypatch) is None
    # A tuple of one text.
    config = parsed(["--config=configs/digits.py", f"--config.optimizer.decay={code}"], monkeypatch)
    assert config.optimizer.decay == (code,)
    assert list(tmp_path.iterdir()) == []


def test_what_a_workdir_holds_is_no_config_file(monkeypatch, tmp_path):
    """The config of a run is JSON; named as a config file, it is not run."""
    config = digits.get_config()
    workdirs.claim(Workdir(tmp_path).path, run_identity(config, 0, 1), config)
    assert parsed([f"--config={tmp_path}/config.json"], monkeypatch) is None


# Files of a workdir.

JUNK = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.just([]), st.just({}))


@st.composite
def damage(draw):
    """A function from the bytes of a file to others."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "replace", "json"]))
    where, noise = draw(st.floats(0, 1)), draw(st.binary(max_size=20))
    junk, steps = draw(JUNK), draw(st.lists(st.integers(0, 100), min_size=1, max_size=5))

    def of_json(content):
        try:
            value = node = json.loads(content.splitlines()[0])
        except (ValueError, IndexError):
            return noise
        for step in steps[:-1]:
            children = [child for child in (node.values() if isinstance(node, dict) else node) if child]
            children = [child for child in children if isinstance(child, dict | list)]
            node = children[step % len(children)] if children else node
        if node:
            key = list(node)[steps[-1] % len(node)] if isinstance(node, dict) else steps[-1] % len(node)
            node[key] = junk
        return json.dumps(value).encode()

    def apply(content):
        at = int(where * (len(content) - 1)) if content else 0
        if kind == "json":
            return of_json(content)
        flipped = bytes([content[at] ^ (1 << (len(noise) % 8))]) if content else b""
        return {
            "cut": content[:at],
            "flip": content[:at] + flipped + content[at + 1 :],
            "insert": content[:at] + noise + content[at:],
            "replace": noise,
        }[kind]

    return apply


CONFIG = digits.get_config("ar_adals,testing")
CONFIG.evaluation.shifts, CONFIG.evaluation.out_of_distribution, CONFIG.ranking.num_subsets = (), (), 2
RUNS = (("vanilla", 0), ("vanilla", 1))
SPLIT = data.Split(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 10, np.arange(20, dtype=np.int32))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir as stages leave it, of 20 images."""
    workdir, rng = Workdir(tmp_path_factory.mktemp("made")), np.random.default_rng(0)
    for name, seed in RUNS:
        identity = run_identity(CONFIG, seed, 1)
        for directory in (workdir.run(name, seed), workdir.predictions(name, seed)):
            workdirs.claim(directory, identity, CONFIG)
        row = {"epoch": 1.0, "train/loss": 2.0, "train/accuracy": 0.5, "images_per_second": 9.0}
        rows = "".join(json.dumps({"step": step} | row) + "\n" for step in (2, 4))
        files.write_bytes(workdir.run(name, seed) / "metrics.jsonl", rows.encode())
        for split in ("test", "validation"):
            logits = rng.normal(size=(1, 20, 10)).astype(np.float32)
            arrays = {"example_id": SPLIT.example_id, "label": SPLIT.label, "logits": logits}
            files.write_npz(workdir.predictions(name, seed) / f"{split}.npz", arrays)
    ranking = workdir.ranking("vanilla/seed_0")
    workdirs.claim(ranking, ranking_identity(CONFIG), CONFIG)
    of_images = {"label": SPLIT.label, "predicted": SPLIT.label, "subset": SPLIT.label % 2}
    distance = rng.random(20).astype(np.float32)
    files.write_npz(ranking / "test.npz", {"example_id": SPLIT.example_id, "distance": distance} | of_images)
    workdirs.claim_data(workdir, {"test": SPLIT.fingerprint()})
    return workdir


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals would take most of the time."""
    monkeypatch.setattr(summary, "Resamples", functools.partial(bootstrap.Resamples, resamples=10))


def stored_files(folder):
    return {path: path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()}


def use(workdir):
    """What the stages read of a workdir."""
    workdirs.check_shared(workdir, CONFIG)
    workdirs.claim_data(workdir, {"test": SPLIT.fingerprint()})
    for name, seed in RUNS:
        workdirs.claim(workdir.run(name, seed), run_identity(CONFIG, seed, 1), CONFIG)
        log_rows.logged(workdir.run(name, seed))
        for split in ("test", "validation"):
            predictions.read(workdir.predictions(name, seed), split)
            predictions.read_logits(workdir.predictions(name, seed), split)
        workdirs.stored_config(workdir.predictions(name, seed))
    stored_subsets(workdir.ranking("vanilla/seed_0"), "test", SPLIT, 2)


def evaluate(workdir):
    try:
        json.dumps(summary.summarize(workdir, CONFIG), allow_nan=False)
    finally:
        # What it keeps for the next time: each damage meets a first evaluation.
        shutil.rmtree(workdir.path / "evaluation", ignore_errors=True)


def assert_taken_or_refused(using, workdir, which, change):
    content = stored_files(workdir.path)
    path = list(content)[which % len(content)]
    path.write_bytes(change(content[path]))
    before = stored_files(workdir.path)
    try:
        using(workdir)
    except UserError as error:
        assert_one_line(str(error), str(workdir.path))
    finally:
        after = stored_files(workdir.path)
        path.write_bytes(content[path])
    assert after == before


@shared
@given(which=st.integers(0, 100), change=damage())
def test_files_of_a_workdir(made, which, change):
    assert_taken_or_refused(use, made, which, change)


# A tenth of a second each.
@settings(shared, max_examples=20)
@given(which=st.integers(0, 100), change=damage())
def test_an_evaluation_of_damaged_files(made, which, change):
    assert_taken_or_refused(evaluate, made, which, change)


def test_an_untouched_workdir_is_taken(made):
    use(made)
    evaluate(made)


def state_of(step):
    rng = np.random.default_rng(step)
    params = {"kernel": rng.normal(size=(3, 3, 4)).astype(np.float32)}
    return TrainState(np.array(step, np.int32), params, {}, {}, ())


def supervision_of(step):
    subset = np.full(20, step, np.int32)
    return Supervision(soft_labels.SoftLabelState(np.array([1 / step], np.float32), 3), subset, subset)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder) as manager:
        for step in (1, 2):
            manager.save(step, state_of(step), supervision_of(step), {"seed": 0}, [{"loss": np.float32(step)}])
    return folder


# The command line keeps quiet about tensorstore's threads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@shared
@given(which=st.integers(0, 100), change=damage())
def test_files_of_a_checkpoint(checkpoints, tmp_path, which, change):
    """The newest checkpoint, or the one before it: whole in either case."""
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoints, folder)
    content = {path: old for path, old in stored_files(folder / "2").items() if old}
    path = list(content)[which % len(content)]
    path.write_bytes(change(content[path]))
    try:
        with Checkpoints(folder) as manager:
            state, supervision, window = manager.restore(state_of(3), supervision_of(3))
    except UserError as error:
        # Whole JSON of another form, which no flipped bit makes.
        assert_one_line(str(error), f"a _CHECKPOINT_METADATA in {folder} is not what orbax writes")
        assert path.name == "_CHECKPOINT_METADATA"
        assert (folder / "2").exists()
        return
    step = int(state.step)
    assert step in (1, 2)
    expected = state_of(step), supervision_of(step), [{"loss": np.float32(step)}]
    for one, other in zip(*map(jax.tree.leaves, ((state, supervision, window), expected)), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    assert (folder / "1").exists()
    assert (folder / "2").exists() == (step == 2)

import logging
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from arada import soft_labels
from arada.errors import UserError
from arada.training import checkpoints as module
from arada.training.checkpoints import Checkpoints
from arada.training.state import Supervision, fingerprint

RUN = {"config": "{}", "seed": 3}


def supervision_of(epoch=0):
    labels = soft_labels.SoftLabelState(np.array([0.9, 0.1 * epoch], np.float32), 3)
    return Supervision(labels, np.arange(72, dtype=np.int32) % 2, np.arange(30, dtype=np.int32) % 2)


@pytest.fixture(scope="module")
def task(training):
    return training(2, "pmap", "adam", augmentation="none", l2=0.0)


@pytest.fixture(scope="module")
def states(task, batches):
    """States of the steps 0 to 3."""
    return task.run(batches[:3])[0]


@pytest.fixture
def empty(task):
    """What to restore into: other numbers in the same shapes."""
    labels = soft_labels.SoftLabelState(np.zeros(2, np.float32), 3)
    return jax.device_get(task.fresh(seed=1)), Supervision(labels, np.zeros(72, np.int32), np.zeros(30, np.int32))


@pytest.fixture
def folder(tmp_path, states):
    """A folder where the steps 1, 2 and 3 were saved."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, states[step], supervision_of(step), RUN)
    return tmp_path / "checkpoints"


def assert_bit_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 4 :: 7] = bytes(255 - byte for byte in content[len(content) // 4 :: 7])
    path.write_bytes(bytes(content))


def unlink(path):
    # Without this file a folder is no checkpoint at all, which is another test's matter.
    if path.name != "_CHECKPOINT_METADATA":
        path.unlink()


def break_all(step_folder, how):
    files = [path for path in step_folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 3
    for path in files:
        how(path)


def test_round_trip_is_bit_exact(folder, states, empty):
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 3
        state, supervision, _ = checkpoints.restore(*empty)
    assert_bit_equal(state, states[3])
    assert_bit_equal(supervision, supervision_of(3))
    assert state.step == 3


def test_odd_values_survive(tmp_path, states, empty):
    odd = np.array([np.inf, -np.inf, np.nan, -0.0, 1e-45], np.float32)
    state = states[1].replace(normalization={"mean": odd, "scale": odd[::-1].copy()})
    template = empty[0].replace(normalization={"mean": np.zeros(5, np.float32), "scale": np.zeros(5, np.float32)})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, supervision_of(1), RUN)
    with Checkpoints(tmp_path) as checkpoints:
        assert_bit_equal(checkpoints.restore(template, empty[1])[0], state)


def test_the_newest_two_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["2", "3"]


def test_an_old_checkpoint_is_deleted_while_another_process_lists_them(folder, monkeypatch):
    """orbax lists the folders, then asks for the time of each."""
    opened = ocp.CheckpointManager
    deleted = FileNotFoundError(2, "No such file or directory", str(folder / "1"))
    failures = [deleted]

    def manager(*args, **kwargs):
        if failures:
            raise failures.pop()
        return opened(*args, **kwargs)

    monkeypatch.setattr(ocp, "CheckpointManager", manager)
    with Checkpoints(folder, create=False) as checkpoints:
        assert checkpoints.steps() == [3, 2]
    failures.extend([deleted] * module._LISTINGS)
    with pytest.raises(FileNotFoundError):
        Checkpoints(folder, create=False)


def test_nothing_to_restore(tmp_path, empty):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(*empty) is None
        with pytest.raises(UserError, match="train the run first"):
            checkpoints.restore_state(empty[0])


def test_weights_alone(folder, states, empty):
    with Checkpoints(folder, create=False) as checkpoints:
        assert_bit_equal(checkpoints.restore_state(empty[0]), states[3])


def test_weights_of_a_broken_newest_are_passed_over(folder, states, empty, caplog):
    break_all(folder / "3", truncate)
    with Checkpoints(folder, create=False) as checkpoints, caplog.at_level(logging.WARNING, logger="arada"):
        assert_bit_equal(checkpoints.restore_state(empty[0]), states[2])
    assert f"{folder / '3'} cannot be read" in caplog.text
    # Reading changes nothing.
    assert (folder / "3").exists()


@pytest.mark.parametrize("how", [truncate, garble, unlink], ids=["truncated", "garbled", "emptied"])
def test_a_broken_newest_is_passed_over(folder, states, empty, how, caplog):
    break_all(folder / "3", how)
    with Checkpoints(folder) as checkpoints, caplog.at_level(logging.WARNING, logger="arada"):
        state, supervision, _ = checkpoints.restore(*empty)
        assert_bit_equal(state, states[2])
        assert_bit_equal(supervision, supervision_of(2))
        warnings = [record.message for record in caplog.records if record.name == "arada.training.checkpoints"]
        assert len(warnings) == 1
        assert f"checkpoint {folder / '3'} cannot be read and is skipped" in warnings[0]
        # The run goes on from 2 and comes to 3 again.
        assert checkpoints.latest_step() == 2
        checkpoints.save(3, states[3], supervision_of(3), RUN)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 3
        assert_bit_equal(checkpoints.restore(*empty)[0], states[3])


@pytest.mark.parametrize("how", [truncate, garble], ids=["truncated", "garbled"])
@pytest.mark.parametrize("part", ["state", "supervision"])
def test_one_broken_part_breaks_the_checkpoint(folder, states, empty, part, how):
    break_all(folder / "3" / part, how)
    with Checkpoints(folder) as checkpoints:
        state, supervision, _ = checkpoints.restore(*empty)
    assert_bit_equal(state, states[2])
    assert_bit_equal(supervision, supervision_of(2))


def test_all_broken(folder, empty):
    for step in ("2", "3"):
        break_all(folder / step, truncate)
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match=f"none of the checkpoints in {folder} can be read"),
    ):
        checkpoints.restore(*empty)
    # Nothing is lost that someone may want to look at.
    assert {path.name for path in folder.iterdir() if path.name.isdigit()} == {"2", "3"}


def files_in(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


# The command line keeps quiet about tensorstore's threads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_changed_bit_is_noticed_wherever_it_is(folder, states, empty, caplog):
    """In a third of the places orbax alone hands out other weights, or says nothing of what it does not read."""
    rng, passed_over = np.random.default_rng(0), 0
    for path in files_in(folder / "3"):
        content = path.read_bytes()
        changed, at = bytearray(content), rng.integers(8 * len(content))
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        caplog.clear()
        with Checkpoints(folder, create=False) as checkpoints:
            step, items = checkpoints._newest(state=empty[0], supervision=empty[1])
        path.write_bytes(content)
        assert_bit_equal((items["state"], items["supervision"]), (states[step], supervision_of(step)))
        assert (step == 2) == ("cannot be read and is skipped" in caplog.text)
        passed_over += step == 2
    assert passed_over >= 4


def test_a_changed_weight_in_valid_files_is_noticed(folder, states, empty, monkeypatch, caplog):
    """As a bit that changed before it was compressed, or in a store that checks nothing."""
    kernel = states[3].params["Conv_0"]["kernel"].copy()
    kernel.flat[5] = np.nextafter(kernel.flat[5], np.float32(1))
    other = states[3].replace(params=states[3].params | {"Conv_0": states[3].params["Conv_0"] | {"kernel": kernel}})
    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(module, "fingerprint", lambda _: fingerprint(states[3]))
        checkpoints.save(4, other, supervision_of(4), RUN)
    monkeypatch.undo()
    with Checkpoints(folder) as checkpoints:
        assert_bit_equal(checkpoints.restore(*empty)[0], states[3])
    assert "4 cannot be read and is skipped: its state has changed since it was written" in caplog.text


def test_the_record_has_the_fingerprint_of_the_weights(folder, states):
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.weights(3) == fingerprint(states[3].variables)
        assert checkpoints.weights(2) == fingerprint(states[2].variables)
        assert checkpoints.weights(1) is None  # only two are kept
        (record,) = (path for path in (folder / "3" / "run").rglob("*") if b"crc32" in path.read_bytes())
        record.write_bytes(record.read_bytes().replace(b'"weights":', b'"weights": 1'))
        assert checkpoints.weights(3) is None
        record.write_bytes(b"{")
        assert checkpoints.weights(3) is None


def test_another_network_is_no_broken_checkpoint(folder, empty):
    other = empty[0].replace(params={"Dense_9": {"kernel": np.zeros((3, 2), np.float32)}})
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(
            UserError,
            match=r"3 is of another network.*: params/BatchNorm_0/bias was float32\[4\] and is now absent.* 8 more",
        ):
            checkpoints.restore(other, empty[1])
        with pytest.raises(UserError, match=r"train_subset was int32\[72\] and is now int32\[71\]"):
            checkpoints.restore(empty[0], empty[1].replace(train_subset=np.zeros(71, np.int32)))
        # Nothing was deleted.
        assert checkpoints.steps() == [3, 2]


def test_a_checkpoint_that_is_older_than_the_sums_is_read(tmp_path, states, empty, monkeypatch):
    keep = ocp.args.JsonSave
    monkeypatch.setattr(ocp.args, "JsonSave", lambda run: keep({key: run[key] for key in RUN}))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, states[1], supervision_of(1), RUN)
    with Checkpoints(tmp_path) as checkpoints:
        state, supervision, window = checkpoints.restore(*empty)
    assert_bit_equal((state, supervision, window), (states[1], supervision_of(1), []))


def test_a_window_comes_back_as_the_step_made_it(tmp_path, states, empty):
    window = [{"loss": np.float32(0.1), "accuracy": np.float32(1 / 3)}, {"loss": np.float32(7), "accuracy": 1e-45}]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, states[1], supervision_of(1), RUN, window)
    with Checkpoints(tmp_path) as checkpoints:
        _, _, restored = checkpoints.restore(*empty)
    assert_bit_equal(restored, [{key: np.float32(value) for key, value in of.items()} for of in window])


@pytest.mark.parametrize("moment", ["save", "close"])
def test_a_store_that_is_full_is_reported_in_one_line(tmp_path, states, monkeypatch, moment):
    def full(*_, **__):
        raise ValueError(f"FULL: Error writing x: Failed: No space left [os_error_code='28'] {'x' * 999}\nand more")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, moment, full)
    arguments = {"save": (1, states[1], supervision_of(1), RUN), "close": ()}[moment]
    with pytest.raises(UserError) as error:
        getattr(checkpoints, moment)(*arguments)
    assert str(error.value) == (
        f"a checkpoint cannot be written to {tmp_path} (Failed: No space left); earlier ones are kept, and when "
        f"there is room the same command continues from the newest"
    )


@pytest.mark.parametrize("leftover", ["4.orbax-checkpoint-tmp-0", "4"])
def test_what_a_kill_leaves_is_no_checkpoint(folder, states, empty, leftover):
    shutil.copytree(folder / "3", folder / leftover)
    # orbax writes this last; it then gives the folder its name, where the store can.
    (folder / leftover / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [3, 2]
        assert checkpoints.latest_step() == 3
        assert_bit_equal(checkpoints.restore(*empty)[0], states[3])
        checkpoints.save(4, states[0], supervision_of(4), RUN)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [4, 3]
        assert_bit_equal(checkpoints.restore(*empty)[0], states[0])


def test_a_kill_in_the_very_first_checkpoint(tmp_path, folder, states, empty):
    shutil.copytree(folder / "3" / "state", tmp_path / "first" / "1" / "state")
    with Checkpoints(tmp_path / "first") as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(*empty) is None
        checkpoints.save(1, states[1], supervision_of(1), RUN)
    with Checkpoints(tmp_path / "first") as checkpoints:
        assert_bit_equal(checkpoints.restore(*empty)[0], states[1])


@pytest.mark.parametrize(("devices", "mapping"), [(1, "pmap"), (4, "shard_map")])
def test_restores_onto_another_number_of_devices(folder, states, empty, training, devices, mapping):
    with Checkpoints(folder) as checkpoints:
        state, _, _ = checkpoints.restore(*empty)
    replicas = training(devices, mapping).replicas
    placed = replicas.replicate(state)
    for leaf in jax.tree.leaves(placed):
        assert len(leaf.sharding.device_set) == devices
    assert_bit_equal(jax.device_get(placed), states[3])


def test_a_restored_state_trains_on_bit_by_bit(folder, states, empty, task, batches):
    with Checkpoints(folder) as checkpoints:
        state, _, _ = checkpoints.restore(*empty)
    assert_bit_equal(task.run(batches[3:], state=state)[0][1], task.run(batches[3:], state=states[3])[0][1])

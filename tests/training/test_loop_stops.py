"""Runs that are killed, asked to stop, diverge or lose their folder, and what becomes of them."""

import errno
import os

import jax
import numpy as np
import pytest
from etils import epath
from loops import TOTAL, Killed, assert_bit_equal, recording, rows, saved_steps, softened, stop_at

from arada import methods
from arada.errors import UserError
from arada.runtime import files, lease, preemption


@pytest.mark.parametrize(
    ("moment", "step", "resumed"),
    [
        ("step", 2, 0),  # before the first checkpoint
        ("step", 5, 3),  # in the middle of an epoch
        ("log", 8, 6),
        ("hook", 8, 6),
        ("step", 9, 9),
        ("log", 12, 9),  # all but the last checkpoint
    ],
)
def test_a_killed_run_ends_like_one_that_was_not(run, task, whole, tmp_path, moment, step, resumed):
    directory, expected = whole
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        run(killed, **stop_at(moment, step)(task))
    calls = []
    result = run(killed, step=recording(task, calls))
    assert [of_step for of_step, *_ in calls] == list(range(resumed, TOTAL))
    assert_bit_equal(result, expected)
    assert rows(killed) == rows(directory)
    assert saved_steps(killed) == saved_steps(directory)


def asked_at(step, task):
    """A train step in whose middle the process is asked to stop."""

    def then(state, *args):
        if int(state.step) == step - 1:
            preemption._ask(None, None)
        return task.step(state, *args)

    return then


@pytest.fixture(autouse=True)
def _not_asked():
    yield
    preemption._asked.clear()


# Before anything is logged, at a logged step, inside a window, at the end of an epoch, at the end of the run.
@pytest.mark.parametrize("step", [1, 3, 6, 8, 12])
def test_a_run_that_is_asked_to_stop_saves_that_step_and_ends_as_if_it_was_not(run, task, in_windows, tmp_path, step):
    directory, expected = in_windows
    stopped = tmp_path / "stopped"
    with pytest.raises(preemption.Stopped, match=f"run/seed_0: stopped at step {step} of 12; the same command cont"):
        run(stopped, step=asked_at(step, task), log_every=3, save_every=100)
    assert saved_steps(stopped) == [step]
    preemption._asked.clear()
    calls = []
    assert_bit_equal(run(stopped, step=recording(task, calls), log_every=3, save_every=100), expected)
    assert [of_step for of_step, *_ in calls] == list(range(step, TOTAL))
    assert rows(stopped) == rows(directory)


def test_a_stop_between_two_epochs_repeats_the_hook_alone(run, task, in_windows, tmp_path):
    """As a ranking on the fly stops, whose part files go on only from the same weights."""
    directory, expected = in_windows
    hooked, stopped = [], tmp_path / "stopped"

    def hook(epoch, state, supervision):
        hooked.append((epoch, int(state.step)))
        if hooked.count((1, 8)) in (1, 2) and epoch == 1:
            raise preemption.Stopped("in the middle of a ranking")
        return softened(epoch, state, supervision)

    for _ in range(2):
        with pytest.raises(preemption.Stopped, match="stopped at step 8 of 12"):
            run(stopped, hook=hook, log_every=3)
        assert saved_steps(stopped)[-1] == 8
    calls = []
    assert_bit_equal(run(stopped, hook=hook, step=recording(task, calls), log_every=3), expected)
    assert hooked == [(0, 4), (1, 8), (1, 8), (1, 8), (2, 12)]
    assert [step for step, *_ in calls] == [8, 9, 10, 11]
    assert rows(stopped) == rows(directory)


def test_a_folder_that_vanishes_stops_the_run_and_is_not_made_again(run, tmp_path):
    directory = epath.Path(tmp_path) / "run"

    def hook(epoch, state, supervision):
        if epoch == 1:
            directory.rmtree()
        return softened(epoch, state, supervision)

    with pytest.raises(UserError, match=f"{directory} has vanished while it was written to"), lease.held(directory):
        run(directory, hook=hook, save_every=100)
    assert not directory.exists()


def test_who_was_replaced_writes_nothing_more(run, tmp_path):
    directory = epath.Path(tmp_path) / "run"

    def hook(epoch, state, supervision):
        if epoch == 1:
            owner = files.read_json(directory / "owner.json") | {"token": "another", "host": "elsewhere"}
            files.write_json(directory / "owner.json", owner)
            files.write_bytes(directory / "metrics.jsonl", b'{"step": 99}\n')
        return softened(epoch, state, supervision)

    with pytest.raises(UserError, match=r"process .* on elsewhere now writes to"), lease.held(directory):
        run(directory, hook=hook, save_every=4)
    assert [row["step"] for row in rows(directory)] == [99]
    assert saved_steps(directory) == [4]


def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_stays(run, whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hook(epoch, state, supervision):
        if epoch == 2:
            monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
        return softened(epoch, state, supervision)

    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(No space left on device\); an old file"):
        run(tmp_path, hook=hook)
    monkeypatch.undo()
    assert saved_steps(tmp_path) == [6, 9]
    assert_bit_equal(run(tmp_path), whole[1])
    assert rows(tmp_path) == rows(whole[0])


def test_weights_that_are_not_finite_are_not_saved_on_request(run, task, tmp_path):
    def poisoned(state, batch, labels, key):
        if int(state.step) == 5:
            state = state.replace(params=jax.tree.map(lambda x: x * np.float32(np.nan), state.params))
        return asked_at(6, task)(state, batch, labels, key)

    with pytest.raises(UserError, match="became NaN or infinite between steps 5 and 6"):
        run(tmp_path, step=poisoned, log_every=4)
    assert saved_steps(tmp_path) == [4]


def test_what_a_method_has_learnt_goes_on_after_a_kill(run, training, tmp_path):
    method = methods.AdaFocal(num_subsets=2, num_classes=3, num_bins=3)
    task = training(2, "pmap", "sgd", method=method)

    def hook(epoch, state, supervision):
        # Confidences that depend on the weights.
        confidence = 0.6 + 0.3 * np.tanh(np.asarray(state.params["Dense_0"]["kernel"]).ravel())
        validation = methods.Validation(confidence, np.arange(len(confidence)) % 2, None, None)
        return supervision.replace(learnt=method.update(supervision.learnt, validation, epoch)), {}

    arguments = {"hook": hook, "learnt": jax.device_get(method.init())}
    expected = run(tmp_path / "whole", step=task.step, **arguments)
    assert len(np.unique(expected[1].learnt.gamma)) == 3
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        run(killed, **arguments | stop_at("step", 10)(task))
    assert_bit_equal(run(killed, step=task.step, **arguments), expected)
    assert rows(killed) == rows(tmp_path / "whole")


def test_a_run_killed_again_and_again(run, task, whole, tmp_path):
    directory, expected = whole
    killed = tmp_path / "killed"
    for step in (4, 7, 10):
        with pytest.raises(Killed):
            run(killed, **stop_at("step", step)(task))
    assert_bit_equal(run(killed), expected)
    assert rows(killed) == rows(directory)


@pytest.mark.parametrize(("metric", "value"), [("loss", np.inf), ("gradient_norm", np.nan)])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(run, task, tmp_path, metric, value):
    def diverging(state, batch, labels, key):
        step = int(state.step) + 1
        state, metrics = task.step(state, batch, labels, key)
        return state, metrics | {metric: np.float32(value)} if step == 7 else metrics

    with pytest.raises(UserError, match=rf"run/seed_0.*{metric}.*became NaN .* between steps 7 and 8.*learning_rate"):
        run(tmp_path, step=diverging, log_every=2, save_every=2)
    # The last checkpoint is from before the window, and from it the run goes on.
    assert saved_steps(tmp_path) == [4, 6]
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6]
    assert run(tmp_path)[0].step == TOTAL


def test_weights_that_are_not_finite_stop_the_run(run, task, tmp_path):
    def poisoned(state, batch, labels, key):
        if int(state.step) == 5:
            state = state.replace(params=jax.tree.map(lambda x: x * np.float32(np.nan), state.params))
        return task.step(state, batch, labels, key)

    with pytest.raises(UserError, match="became NaN or infinite between steps 6 and 6"):
        run(tmp_path, step=poisoned)
    assert saved_steps(tmp_path) == [3]

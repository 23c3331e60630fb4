import errno
import functools
import logging
import os

import jax
import numpy as np
import pytest
from etils import epath

from arada import methods, soft_labels
from arada.errors import UserError
from arada.runtime import files, lease, preemption
from arada.training import loop
from arada.training.checkpoints import Checkpoints
from arada.training.logs import open_writer
from arada.training.state import Supervision

# Of the 72 images a batch of 16 leaves four steps an epoch.
EPOCHS, BATCH, PER_EPOCH = 3, 16, 4
TOTAL = EPOCHS * PER_EPOCH
START = soft_labels.SoftLabelState(np.ones(2, np.float32), 3)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def task(training):
    return training(2, "pmap", "sgd")


def softened(epoch, state, supervision):
    """A hook whose result depends on the epoch, the weights and the supervision before."""
    mean = float(np.mean(state.params["Dense_0"]["kernel"]))
    p_correct = supervision.learnt.p_correct * np.float32(0.9 + 0.01 * epoch + 0.01 * np.tanh(mean))
    labels = supervision.learnt.replace(p_correct=p_correct)
    return supervision.replace(learnt=labels), {"soft_label": float(p_correct[0]), "dense": mean}


@pytest.fixture
def run(task, split):
    """run(directory, ...) trains there as a process would: from its last checkpoint if there is one."""

    def run(
        directory,
        *,
        step=task.step,
        hook=softened,
        learnt=START,
        log_every=1,
        save_every=3,
        around_writer=lambda writer: writer,
    ):
        start = Supervision(learnt, (np.arange(len(split)) % 2).astype(np.int32), np.zeros(5, np.int32))
        with Checkpoints(directory / "checkpoints") as checkpoints:
            template = jax.device_get(task.fresh())
            state, supervision, window = checkpoints.restore(template, start) or (task.fresh(), start, [])
            with open_writer(directory, int(state.step) - len(window)) as writer:
                state, supervision = loop.train(
                    "run/seed_0",
                    split,
                    program=loop.Program(step, task.replicas),
                    start=loop.Start(state, supervision, jax.random.key(5), window),
                    plan=loop.Plan(
                        epochs=EPOCHS,
                        batch_size=BATCH,
                        seed=0,
                        log_every_steps=log_every,
                        checkpoint_every_steps=save_every,
                    ),
                    after_epoch=hook,
                    records=loop.Records(around_writer(writer), checkpoints, {"seed": 0}),
                )
        return jax.device_get((state, supervision))

    return run


def rows(directory):
    """metrics.jsonl without the speed, which no two runs share."""
    lines = files.read_json_lines(directory / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in lines]


def saved_steps(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def assert_bit_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.fixture
def whole(run, tmp_path):
    """The folder and the result of a run that nobody stopped."""
    directory = tmp_path / "whole"
    return directory, run(directory)


def recording(task, calls):
    """The step, with its arguments kept in `calls`."""

    def step(state, batch, labels, key):
        # Without the axis of devices.
        host = {key: np.asarray(value).reshape(-1, *value.shape[2:]) for key, value in batch.arrays.items()}
        calls.append((int(state.step), host, np.asarray(labels.p_correct)))
        return task.step(state, batch, labels, key)

    return step


def test_every_step_has_its_row_and_every_epoch_its_metrics(whole):
    directory, (state, supervision) = whole
    assert state.step == TOTAL
    logged = rows(directory)
    assert [row["step"] for row in logged] == list(range(1, TOTAL + 1))
    assert [row["epoch"] for row in logged] == [step / PER_EPOCH for step in range(1, TOTAL + 1)]
    assert [row["step"] for row in logged if "soft_label" in row] == [4, 8, 12]
    assert logged[-1]["soft_label"] == supervision.learnt.p_correct[0]
    assert logged[-1]["train/loss"] < logged[0]["train/loss"]
    speeds = [row.get("images_per_second") for row in files.read_json_lines(directory / "metrics.jsonl")]
    # The first window is that of compiling.
    assert speeds[0] is None
    assert all(speed > 0 for speed in speeds[1:])
    assert saved_steps(directory) == [9, 12]


def test_windows_are_means_and_end_with_the_epoch(run, whole, tmp_path):
    directory, expected = whole
    assert_bit_equal(run(tmp_path / "windows", log_every=3), expected)
    by_step = {row["step"]: row for row in rows(directory)}
    windows = {3: (1, 2, 3), 4: (4,), 7: (5, 6, 7), 8: (8,), 11: (9, 10, 11), 12: (12,)}
    logged = {row["step"]: row for row in rows(tmp_path / "windows")}
    assert logged.keys() == windows.keys()
    for step, window in windows.items():
        for name in ("train/loss", "train/accuracy", "train/gradient_norm"):
            mean = np.mean([by_step[of][name] for of in window])
            # The steps' float32 values are averaged in float32.
            assert logged[step][name] == pytest.approx(mean, rel=2e-7)
        assert logged[step]["epoch"] == step / PER_EPOCH


def test_steps_get_the_epochs_order_subsets_and_soft_labels(run, task, split, tmp_path):
    calls = []
    run(tmp_path, step=recording(task, calls))
    subset_of = dict(zip(split.example_id.tolist(), (np.arange(72) % 2).tolist(), strict=True))
    expected = [batch for epoch in range(EPOCHS) for batch in split.epoch(BATCH, seed=0, epoch=epoch)]
    assert [step for step, *_ in calls] == list(range(TOTAL))
    for (_, batch, _), batch_expected in zip(calls, expected, strict=True):
        np.testing.assert_array_equal(batch["example_id"], batch_expected["example_id"])
        assert batch["subset"].tolist() == [subset_of[i] for i in batch["example_id"].tolist()]
    # The hook's supervision is that of the next epoch.
    p_correct = [float(labels[0]) for *_, labels in calls]
    logged = [row["soft_label"] for row in rows(tmp_path) if "soft_label" in row]
    assert p_correct == [1.0] * 4 + [logged[0]] * 4 + [logged[1]] * 4


def stop_at(moment, step):
    """Arguments of `run` that end it at `step`: before a step, while logging it, or in the hook."""
    if moment == "step":

        def before(task_step, state, *args):
            if int(state.step) == step:
                raise Killed
            return task_step(state, *args)

        return lambda task: {"step": functools.partial(before, task.step)}
    if moment == "hook":

        def hook(epoch, state, supervision):
            if int(state.step) == step:
                raise Killed
            return softened(epoch, state, supervision)

        return lambda task: {"hook": hook}

    def around_writer(writer):
        write = writer.write_scalars

        def write_scalars(of_step, scalars):
            # A log may reach the disk ahead of its checkpoint.
            write(of_step, scalars)
            if of_step == step:
                writer.flush()
                raise Killed

        writer.write_scalars = write_scalars
        return writer

    return lambda task: {"around_writer": around_writer}


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


# Before anything is logged, inside a window, at a logged step, at the end of an epoch, at the end of the run.
@pytest.mark.parametrize("step", [1, 2, 3, 6, 7, 8, 12])
def test_a_run_that_is_asked_to_stop_saves_that_step_and_ends_as_if_it_was_not(run, task, tmp_path, step):
    expected = run(tmp_path / "whole", log_every=3, save_every=100)
    stopped = tmp_path / "stopped"
    with pytest.raises(preemption.Stopped, match=f"run/seed_0: stopped at step {step} of 12; the same command goes on"):
        run(stopped, step=asked_at(step, task), log_every=3, save_every=100)
    assert saved_steps(stopped) == [step]
    preemption._asked.clear()
    calls = []
    assert_bit_equal(run(stopped, step=recording(task, calls), log_every=3, save_every=100), expected)
    assert [of_step for of_step, *_ in calls] == list(range(step, TOTAL))
    assert rows(stopped) == rows(tmp_path / "whole")


def test_a_stop_between_two_epochs_repeats_the_hook_alone(run, task, tmp_path):
    """As a ranking on the fly stops, whose part files go on only from the same weights."""
    expected = run(tmp_path / "whole", log_every=3)
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
    assert rows(stopped) == rows(tmp_path / "whole")


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

    with pytest.raises(UserError, match=r"was taken over by process .* on elsewhere"), lease.held(directory):
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

    with pytest.raises(UserError, match="not finite between steps 5 and 6"):
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


def test_a_checkpoint_at_the_end_of_an_epoch_does_not_repeat_the_hook(run, task, whole, tmp_path):
    epochs = []

    def hook(epoch, state, supervision):
        epochs.append(epoch)
        return softened(epoch, state, supervision)

    with pytest.raises(Killed):
        run(tmp_path / "killed", hook=hook, save_every=4, **stop_at("step", 4)(task))
    assert_bit_equal(run(tmp_path / "killed", hook=hook, save_every=4), whole[1])
    assert epochs == [0, 1, 2]


def test_the_log_is_on_disk_before_its_checkpoint(run, tmp_path, monkeypatch):
    on_disk, save = {}, Checkpoints.save

    def save_and_look(self, step, *args):
        on_disk[step] = [row["step"] for row in rows(tmp_path)]
        save(self, step, *args)

    monkeypatch.setattr(Checkpoints, "save", save_and_look)
    run(tmp_path)
    assert on_disk == {step: list(range(1, step + 1)) for step in (3, 6, 9, 12)}


def test_cadences_change_no_result(run, task, whole, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path / "other", log_every=2, save_every=4, **stop_at("step", 7)(task))
    assert_bit_equal(run(tmp_path / "other", log_every=3, save_every=100), whole[1])


def test_a_finished_run_does_nothing(run, whole, task):
    directory, expected = whole
    before, calls = rows(directory), []
    assert_bit_equal(run(directory, step=recording(task, calls)), expected)
    assert calls == []
    assert rows(directory) == before


def test_means_of_a_window_by_hand():
    window = loop.Window([{"loss": np.float32(1), "accuracy": np.float32(0.25)}])
    window.metrics.append({"loss": np.float32(2), "accuracy": np.float32(0.75)})
    assert len(window) == 2
    assert window.means("run", 8) == {"train/loss": 1.5, "train/accuracy": 0.5}
    window.metrics.append({"loss": np.float32(np.inf), "accuracy": np.float32(0)})
    with pytest.raises(UserError, match=r"^run: train/loss not finite between steps 7 and 9; lower optimizer"):
        window.means("run", 9)


@pytest.mark.parametrize(("metric", "value"), [("loss", np.nan), ("loss", np.inf), ("gradient_norm", np.nan)])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(run, task, tmp_path, metric, value):
    def diverging(state, batch, labels, key):
        step = int(state.step) + 1
        state, metrics = task.step(state, batch, labels, key)
        return state, metrics | {metric: np.float32(value)} if step == 7 else metrics

    with pytest.raises(UserError, match=rf"run/seed_0.*{metric}.*not finite between steps 7 and 8.*learning_rate"):
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

    with pytest.raises(UserError, match="not finite between steps 6 and 6"):
        run(tmp_path, step=poisoned)
    assert saved_steps(tmp_path) == [3]


def test_says_that_it_compiles_and_resumes(run, task, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="arada.training.loop")
    with pytest.raises(Killed):
        run(tmp_path, **stop_at("step", 5)(task))
    messages = [record.message for record in caplog.records]
    assert messages[0] == "run/seed_0: compiling the train step"
    assert messages[1].startswith("run/seed_0: compiled in ")
    caplog.clear()
    run(tmp_path)
    assert caplog.records[0].message == "run/seed_0: resuming at step 3 of 12"

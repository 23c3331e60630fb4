"""The loop over epochs: what steps get, what is logged and what is kept."""

import logging

import numpy as np
import pytest
from loops import (
    BATCH,
    EPOCHS,
    PER_EPOCH,
    TOTAL,
    Killed,
    assert_bit_equal,
    recording,
    rows,
    saved_steps,
    softened,
    stop_at,
)

from arada.errors import UserError
from arada.runtime import files
from arada.training import loop
from arada.training.checkpoints import Checkpoints


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


def test_windows_are_means_and_end_with_the_epoch(whole, in_windows):
    directory, expected = whole
    assert_bit_equal(in_windows[1], expected)
    by_step = {row["step"]: row for row in rows(directory)}
    windows = {3: (1, 2, 3), 4: (4,), 7: (5, 6, 7), 8: (8,), 11: (9, 10, 11), 12: (12,)}
    logged = {row["step"]: row for row in rows(in_windows[0])}
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


def test_a_checkpoint_at_the_end_of_an_epoch_does_not_repeat_the_hook(run, task, whole, tmp_path):
    epochs = []

    def hook(epoch, state, supervision):
        epochs.append(epoch)
        return softened(epoch, state, supervision)

    with pytest.raises(Killed):
        run(tmp_path / "killed", hook=hook, save_every=4, **stop_at("step", 4)(task))
    assert_bit_equal(run(tmp_path / "killed", hook=hook, save_every=4), whole[1])
    assert epochs == [0, 1, 2]


def test_means_of_a_window_by_hand():
    window = loop.Window([{"loss": np.float32(1), "accuracy": np.float32(0.25)}])
    window.metrics.append({"loss": np.float32(2), "accuracy": np.float32(0.75)})
    assert len(window) == 2
    assert window.means("run", 8) == {"train/loss": 1.5, "train/accuracy": 0.5}
    window.metrics.append({"loss": np.float32(np.inf), "accuracy": np.float32(0)})
    with pytest.raises(UserError, match=r"^run: train/loss became NaN or infinite between steps 7 and 9; lower"):
        window.means("run", 9)


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

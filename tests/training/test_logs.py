import json
import sys

import pytest
from etils import epath

from arada.runtime import files
from arada.training.logs import JsonLinesWriter, open_writer


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def events(directory):
    """{tag: [(step, value), ...]} of all event files, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, tensor_util.make_ndarray(event.tensor_proto).item()) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def write(directory, steps, resumed_step=0):
    with open_writer(directory, resumed_step) as writer:
        for step in steps:
            writer.write_scalars(step, {"train/loss": 1 / step, "epoch": step / 4})
            writer.write_scalars(step, {"images_per_second": 100 + resumed_step})


def test_a_row_holds_all_of_its_step(tmp_path):
    write(tmp_path, (1, 2))
    assert rows(tmp_path) == [
        {"step": 1, "train/loss": 1.0, "epoch": 0.25, "images_per_second": 100.0},
        {"step": 2, "train/loss": 0.5, "epoch": 0.5, "images_per_second": 100.0},
    ]


def test_events_hold_the_same_numbers(tmp_path):
    write(tmp_path, (1, 2))
    assert events(tmp_path) == {
        "train/loss": [(1, 1.0), (2, 0.5)],
        "epoch": [(1, 0.25), (2, 0.5)],
        "images_per_second": [(1, 100.0), (2, 100.0)],
    }


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, (1, 2, 4))
    write(tmp_path, (3, 4, 5), resumed_step=2)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]
    assert [row["images_per_second"] for row in rows(tmp_path)] == [100, 100, 102, 102, 102]
    shown = events(tmp_path)
    for tag in ("train/loss", "epoch", "images_per_second"):
        assert [step for step, _ in shown[tag]] == [1, 2, 3, 4, 5]
    assert [value for _, value in shown["images_per_second"]] == [100, 100, 102, 102, 102]
    assert [value for _, value in shown["epoch"]] == [0.25, 0.5, 0.75, 1, 1.25]


def test_the_step_of_the_checkpoint_itself_stays(tmp_path):
    write(tmp_path, (1, 2, 3))
    write(tmp_path, (), resumed_step=3)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def test_without_a_checkpoint_everything_begins_again(tmp_path):
    write(tmp_path, (1, 2))
    write(tmp_path, (1,))
    assert [row["step"] for row in rows(tmp_path)] == [1]
    assert [step for step, _ in events(tmp_path)["epoch"]] == [1]


def test_a_run_killed_twice_has_one_event_file(tmp_path):
    never_left = []
    for resumed_step in (0, 1, 2):
        never_left.append(open_writer(tmp_path, resumed_step))
        writer = never_left[-1].__enter__()
        writer.write_scalars(resumed_step + 1, {"epoch": 0.5})
        writer.flush()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert [step for step, _ in events(tmp_path)["epoch"]] == [1, 2, 3]


def test_an_error_keeps_the_rows_before_it(tmp_path):
    def diverge():
        with open_writer(tmp_path, 0) as writer:
            writer.write_scalars(1, {"loss": 2})
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverge()
    assert rows(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert events(tmp_path) == {"loss": [(1, 2.0)]}


def test_nothing_is_written_before_a_flush_and_all_of_it_after(tmp_path):
    writer = JsonLinesWriter(epath.Path(tmp_path / "metrics.jsonl"))
    writer.write_scalars(1, {"loss": 1})
    assert not (tmp_path / "metrics.jsonl").exists()
    writer.flush()
    writer.write_scalars(2, {"loss": 2})
    assert [row["step"] for row in rows(tmp_path)] == [1]
    writer.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_kill_during_a_flush_leaves_the_old_file(tmp_path, monkeypatch):
    writer = JsonLinesWriter(epath.Path(tmp_path / "metrics.jsonl"))
    writer.write_scalars(1, {"loss": 1})
    writer.flush()

    def killed(self, target):
        raise KeyboardInterrupt

    writer.write_scalars(2, {"loss": 2})
    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    monkeypatch.undo()
    assert rows(tmp_path) == [{"step": 1, "loss": 1.0}]
    writer.flush()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    # What the kill left beside it is not taken for a log.
    files.write_bytes(epath.Path(tmp_path / "metrics.jsonl.new"), b'{"step": 9')
    write(tmp_path, (), resumed_step=2)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_events_can_be_read_while_a_run_writes_them(tmp_path):
    with open_writer(tmp_path, 0) as writer:
        writer.write_scalars(1, {"loss": 2})
        writer.flush()
        assert events(tmp_path) == {"loss": [(1, 2.0)]}


def test_without_tensorboard_there_are_lines_alone(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    write(tmp_path, (1, 2))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]

import json
import os
import pathlib

import numpy as np
import pytest
from etils import epath

from arada.errors import UserError
from arada.runtime import files


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path) / "folder" / "file.json"


def crash(*_):
    raise KeyboardInterrupt


def half(path, content):
    """Writes as a process does that is killed half-way."""
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    raise KeyboardInterrupt


@pytest.mark.parametrize(("moment", "dies"), [("write_bytes", half), ("replace", crash)])
def test_a_write_that_dies_leaves_the_old_content(path, monkeypatch, moment, dies):
    files.write_json(path, {"old": 1})
    monkeypatch.setattr(type(path), moment, dies)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"new": [1, 2, 3]})
    assert files.read_json(path) == {"old": 1}
    monkeypatch.undo()
    files.write_json(path, {"new": [1, 2, 3]})
    assert files.read_json(path) == {"new": [1, 2, 3]}
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize(("moment", "dies"), [("write_bytes", half), ("replace", crash)])
def test_a_first_write_that_dies_leaves_no_file(path, monkeypatch, moment, dies):
    monkeypatch.setattr(type(path), moment, dies)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"new": 1})
    assert not path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1.0, -float("inf")]}])
def test_what_is_not_json_is_refused_and_the_old_content_stays(path, value):
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, value)
    assert files.read_json(path) == {"old": 1}


def test_json_comes_back_as_it_was(path):
    value = {"a": [1, 2.5, "ü", None, True], "b": {"c": {}}}
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert json.loads(pathlib.Path(path).read_text()) == value


def test_json_lines_are_one_value_a_line(path):
    assert files.read_json_lines(path) == []
    files.write_bytes(path, b'{"step": 1}\n{"step": 2, "loss": 0.5}\n')
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2, "loss": 0.5}]


def test_arrays_come_back_bit_by_bit(path):
    arrays = {
        "distance": np.array([0.25, np.inf, np.nan, -0.0, 1e-45], np.float32),
        "example_id": np.array([0, 2**31 - 1], np.int32),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([[True], [False]]),
    }
    files.write_npz(path, arrays)
    read = files.read_npz(path)
    assert list(read) == list(arrays)
    for key, value in arrays.items():
        assert (read[key].dtype, read[key].shape, read[key].tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_a_pickle_in_an_npz_is_refused(path):
    path.parent.mkdir()
    with open(path, "wb") as file:
        np.savez(file, example_id=np.arange(2), distance=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.read_npz(path)


def test_absolute_paths_do_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(files.absolute("a/../b")) == str(tmp_path.resolve() / "b")
    assert str(files.absolute("~/b")) == "/home/somebody/b"
    assert str(files.absolute("/b")) == "/b"
    assert str(files.absolute("gs://bucket/a")) == "gs://bucket/a"


def test_checksums_tell_arrays_apart_without_reading_them(tmp_path):
    path = epath.Path(tmp_path) / "a.npz"
    files.write_npz(path, {"x": np.arange(3), "y": np.zeros(2)})
    before = files.npz_checksums(path)
    assert [name for name, *_ in before] == ["x.npy", "y.npy"]
    files.write_npz(path, {"x": np.arange(3), "y": np.zeros(2)})
    assert files.npz_checksums(path) == before
    files.write_npz(path, {"x": np.arange(3), "y": np.ones(2)})
    assert files.npz_checksums(path)[0] == before[0]
    assert files.npz_checksums(path)[1] != before[1]
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.npz cannot be read as npz"):
        files.npz_checksums(path)

import json
import os
import pathlib
import subprocess
import sys

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


@pytest.mark.parametrize("folder", ["exp[1]", "a*b", "what?", "two words", "größe", "~"])
def test_what_lies_in_a_folder_of_any_name(tmp_path, folder):
    folder = epath.Path(tmp_path) / folder
    assert files.matching(folder, "*") == []
    folder.mkdir()
    for name in ("part_2.npz", "part_1.npz", "old~", "other"):
        (folder / name).write_bytes(b"")
    assert [path.name for path in files.entries(folder)] == ["old~", "other", "part_1.npz", "part_2.npz"]
    assert [path.name for path in files.matching(folder, "part_*.npz")] == ["part_1.npz", "part_2.npz"]
    below = files.matching(epath.Path(tmp_path), "*/part_*.npz")
    assert below == files.matching(folder, "part_*.npz")


@pytest.mark.parametrize("name", ["exp[1]", "a*b", "what?"])
def test_a_name_that_orbax_would_take_for_a_pattern(tmp_path, name):
    with pytest.raises(UserError, match=r"--workdir=.* in its name, which orbax and TFDS read as a pattern; rename"):
        files.check_name(epath.Path(tmp_path) / name / "deeper", "--workdir")


def test_plain_names_are_taken(tmp_path):
    for name in ("two words", "größe", "実験", "~x", "a{b}"):
        files.check_name(epath.Path(tmp_path) / name, "--workdir")


def test_names_that_are_not_utf_8(tmp_path):
    latin = os.fsdecode("caf\xe9".encode("latin-1"))
    assert files.printable(latin) == "caf\\xe9"
    assert files.printable("café 実験") == "café 実験"
    with pytest.raises(UserError, match=r"--workdir=.*caf\\xe9 is not a name in UTF-8"):
        files.check_name(epath.Path(tmp_path) / latin, "--workdir")
    files.write_text(epath.Path(tmp_path) / "page", f"<p>{latin} ±</p>")
    assert (tmp_path / "page").read_bytes() == b"<p>caf\\udce9 \xc2\xb1</p>"


def test_text_is_utf_8_in_any_locale(tmp_path):
    """In the C locale without Python's UTF-8 mode, open() would write ASCII and read Latin-1 or fail."""
    program = (
        "from etils import epath; from arada.runtime import files; import sys; path = epath.Path(sys.argv[1]);"
        "files.write_text(path, chr(0x2192)); assert files.read_text(path) == chr(0x2192);"
        "files.write_json(path, [chr(0xb1)]); assert files.read_json(path) == [chr(0xb1)]"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], env=environment, check=True)

"""CIFAR's own files, in small: both versions, unpacked or not; and a pickle that would do harm."""

import dataclasses
import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from arada import data
from arada.data.sources import archives
from arada.errors import UserError
from configs import cifar10, cifar100_wrn

# A file of CIFAR-10 has 4 images here, its test file 3; CIFAR-100 has 20 and 3.
PER_FILE, TEST = 4, 3
CONFIGS = {"cifar10": cifar10, "cifar100": cifar100_wrn}


@pytest.fixture(autouse=True)
def in_small(monkeypatch):
    for name, train in (("cifar10", PER_FILE), ("cifar100", 5 * PER_FILE)):
        layout = dataclasses.replace(archives.LAYOUTS[name], train_images=train, test_images=TEST)
        monkeypatch.setitem(archives.LAYOUTS, name, layout)


@pytest.fixture
def published():
    """Images [N, 3, 32, 32] and labels, in the published order."""
    rng = np.random.default_rng(0)
    return {
        part: (rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count))
        for part, count in (("train", 5 * PER_FILE), ("test", TEST))
    }


def files_of(name, published):
    """(file, images, labels) of each file."""
    images, labels = published["train"]
    if name == "cifar100":
        yield "train", images, labels
        yield "test", *published["test"]
        return
    for number in range(5):
        at = slice(number * PER_FILE, (number + 1) * PER_FILE)
        yield f"data_batch_{number + 1}", images[at], labels[at]
    yield "test_batch", *published["test"]


def binary(name, images, labels):
    coarse = b"\x63" if name == "cifar100" else b""
    return b"".join(coarse + bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def python(name, images, labels):
    rows = images.reshape(len(images), -1)
    if name == "cifar100":
        rows = np.asfortranarray(rows)
        return pickle.dumps({b"data": rows, b"fine_labels": labels.tolist(), b"coarse_labels": [99]}, protocol=3)
    return python2(rows, labels)


def python2(rows, labels):
    """A pickle of protocol 2 as Python 2 wrote it: strings of bytes, and NumPy by its old name."""

    def string(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"J" + int(value).to_bytes(4, "little")

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + string(b"|") + b"NNN" + number(-1 % 2**31) * 2 + number(0) + b"tb"
    raw = b"T" + rows.nbytes.to_bytes(4, "little") + rows.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + number(0) + b"\x85" + string(b"b") + b"\x87R"
    )
    array += b"(" + number(1) + number(len(rows)) + number(rows.shape[1]) + b"\x86" + dtype + b"\x89" + raw + b"tb"
    labels = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + labels + b"u."


def write(root, name, published, version, packed):
    layout = archives.LAYOUTS[name]
    folder, ending = (layout.binary, ".bin") if version is binary else (layout.python, "")
    contents = {f"{folder}/{file}{ending}": version(name, *of) for file, *of in files_of(name, published)}
    if not packed:
        (root / folder).mkdir()
        for path, content in contents.items():
            (root / path).write_bytes(content)
        return root / folder
    tar = root / archives.TARS[folder]
    with tarfile.open(tar, "w:gz") as archive:
        # Not in the order in which they are read.
        for path, content in sorted({f"{folder}/readme.html": b"", **contents}.items(), reverse=True):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tar


def splits_of(root, name="cifar10", **fields):
    config = CONFIGS[name].get_config().data
    config.update({"source": "cifar_archive", "num_train": 15, "num_validation": 5, "num_test": TEST} | fields)
    return data.load_splits(data.build(config, str(root)), config)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("version", [binary, python])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_id_is_the_published_position(tmp_path, published, name, version, packed):
    write(tmp_path, name, published, version, packed)
    splits = splits_of(tmp_path, name)
    np.testing.assert_array_equal(splits["test"].example_id, np.arange(TEST))
    of_train = np.concatenate([splits["train"].example_id, splits["validation"].example_id])
    assert sorted(of_train) == list(range(20))
    for part, split in splits.items():
        images, labels = published["test" if part == "test" else "train"]
        np.testing.assert_array_equal(split.image, images[split.example_id].transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(split.label, labels[split.example_id])
    # Where corrupted images published by others are looked for.
    dataset = data.InMemory(archives.CifarArchive(name, str(tmp_path)), 15, 5, TEST, 0)
    np.testing.assert_array_equal(dataset.published_position(splits["test"].take(np.array([0, 2]))), [0, 2])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_class_names_are_in_a_file_of_their_own(tmp_path, published, name):
    layout, names = archives.LAYOUTS[name], [b"airplane", b"maple_tree"]
    archive = archives.CifarArchive(name, str(tmp_path))
    folder = write(tmp_path, name, published, python, packed=False)
    assert archive.class_names() == []
    (folder / layout.python_names).write_bytes(b"\x80\x02c")
    assert archive.class_names() == []
    (folder / layout.python_names).write_bytes(pickle.dumps({layout.names_key: names}))
    assert archive.class_names() == ["airplane", "maple_tree"]
    folder = write(tmp_path, name, published, binary, packed=False)
    (folder / layout.binary_names).write_bytes(b"bird\nbus\n\n")
    assert archive.class_names() == ["bird", "bus"]


def test_all_versions_are_the_same_data(tmp_path, published):
    digests = set()
    for version in (binary, python):
        root = tmp_path / version.__name__
        root.mkdir()
        write(root, "cifar10", published, version, packed=False)
        digests.add(splits_of(root)["train"].fingerprint())
    assert len(digests) == 1


def test_numpys_own_pickle_is_read(published):
    images, labels = published["test"]
    content = pickle.dumps({b"data": images.reshape(TEST, -1), b"labels": labels.tolist()}, protocol=4)
    read, _ = archives._from_python(content, TEST, archives.LAYOUTS["cifar10"])
    np.testing.assert_array_equal(read, images.transpose(0, 2, 3, 1))


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_do_harm_does_none(tmp_path, published, protocol):
    folder = write(tmp_path, "cifar10", published, python, packed=False)
    content = pickle.dumps([Harm(tmp_path / "harm")], protocol=protocol)
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(
        UserError, match=r"data_batch_3 is not the expected pickle \(UnpicklingError: it names posix.mkdir"
    ):
        splits_of(tmp_path)
    assert not (tmp_path / "harm").exists()
    # The pickle is one that works.
    pickle.loads(content)
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x80\x02.",
        pickle.dumps([]),
        pickle.dumps({b"data": b"123", b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((4, 3072), np.uint8)}, protocol=3),
        pickle.dumps({b"data": np.zeros((4, 3072), np.float32), b"labels": [0] * 4}, protocol=3),
        pickle.dumps({b"data": np.zeros((4, 3071), np.uint8), b"labels": [0] * 4}, protocol=3),
        pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3}, protocol=3),
        pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": ["a"] * 4}, protocol=3),
        # What is recorded may be called, and built, but it is only ever a record.
        b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x02cnumpy\nndarray\n}b.",
    ],
)
def test_a_pickle_of_something_else(stored):
    with pytest.raises(ValueError, match=r"is not the expected pickle|holds pixels"):
        archives._from_python(stored, 4, archives.LAYOUTS["cifar10"])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "test_batch.bin").unlink(), r"cifar-10-batches-bin has no test_batch.bin; fetch it"),
        (
            lambda folder: (folder / "data_batch_2.bin").write_bytes(b"x" * 3073),
            r"data_batch_2.bin has 3,073 bytes instead of 12,292; fetch https://.*/cifar-10-binary.tar.gz into",
        ),
    ],
)
def test_a_folder_that_is_incomplete(tmp_path, published, break_it, message):
    break_it(write(tmp_path, "cifar10", published, binary, packed=False))
    with pytest.raises(UserError, match=message):
        splits_of(tmp_path)


def test_no_part_of_an_archive_is_read(tmp_path, published):
    tar = write(tmp_path, "cifar10", published, binary, packed=True)
    content = tar.read_bytes()
    for size in range(0, len(content), len(content) // 20):
        tar.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz cannot be read \(.+\); fetch it again"):
            splits_of(tmp_path)
    # A pixel of another colour, in a tar that is whole.
    wrong = bytearray(gzip.decompress(content))
    wrong[5000] ^= 1
    tar.write_bytes(gzip.compress(wrong)[:-8] + content[-8:])
    with pytest.raises(UserError, match=r"cannot be read \(CRC check failed .+\); fetch it again"):
        splits_of(tmp_path)


def test_no_archive(tmp_path):
    with pytest.raises(
        UserError, match=r"holds none of cifar-10-batches-bin, .* fetch https://\S+/cifar-10-binary.tar.gz"
    ):
        splits_of(tmp_path)
    with pytest.raises(UserError, match=r"data.name is 'svhn'; data.source='cifar_archive' has cifar10 and cifar100"):
        archives.CifarArchive("svhn", str(tmp_path)).read()

"""Folders of images by class: labels, ids, every kind of image file, and every way a folder can be wrong."""

import io
import os
import struct
import zlib

import numpy as np
import one_convolution
import pytest
from PIL import Image

from arada import data
from arada.data.sources.folders import decode
from arada.errors import UserError
from arada.experiment import Experiment
from arada.runtime import files
from configs import own_images

SHAPE = (8, 8, 3)


def encoded(image, kind="png", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def fill(folder, classes, images=3):
    """`images` PNGs for each of `classes`, each with pixels of its own."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            pixels = noise((label, number))
            (folder / name / f"{number}.png").write_bytes(encoded(Image.fromarray(pixels)))


def config_for(**fields):
    config = own_images.get_config()
    few = {"num_classes": 3, "image_shape": SHAPE, "num_train": 5, "num_validation": 2, "num_test": 2}
    config.data.update(few | fields)
    return config.data


def splits_of(path, **fields):
    fields = config_for(**fields)
    return data.load_splits(data.build(fields, str(path)), fields)


def test_without_a_test_part_everything_is_divided(tmp_path):
    fill(tmp_path, ("wolf", "ant", "Zebra"))
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("no class")
    splits = splits_of(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 5, "validation": 2, "test": 2}
    every = np.concatenate([split.example_id for split in splits.values()])
    assert sorted(every) == list(range(9))
    # Z comes before a; the third of every three is number 2.
    made = {"Zebra": 2, "ant": 1, "wolf": 0}
    for split in splits.values():
        for image, label, at in zip(split.image, split.label, split.example_id, strict=True):
            assert label == at // 3
            np.testing.assert_array_equal(image, noise((list(made.values())[label], at % 3)))


def test_a_published_test_part_is_used(tmp_path):
    fill(tmp_path / "train", ("a", "b", "c"), images=4)
    fill(tmp_path / "test", ("a", "c"), images=2)
    splits = splits_of(tmp_path, num_train=6, num_validation=6, num_test=4)
    np.testing.assert_array_equal(splits["test"].example_id, np.arange(4))
    np.testing.assert_array_equal(splits["test"].label, [0, 0, 2, 2])
    np.testing.assert_array_equal(splits["test"].image[2], noise((1, 0)))
    np.testing.assert_array_equal(np.bincount(splits["train"].label) + np.bincount(splits["validation"].label), [4] * 3)


@pytest.mark.parametrize("part", ["", "train"])
def test_classes_are_called_as_their_folders(tmp_path, part):
    fill(tmp_path / part, ["b", "a<b>", "train" if part else "c"])
    assert data.build(config_for(), str(tmp_path)).class_names() == sorted(["b", "a<b>", "train" if part else "c"])


def test_train_may_be_the_name_of_a_class(tmp_path):
    fill(tmp_path, ("car", "test", "train"))
    assert len(splits_of(tmp_path)["train"]) == 5


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 0x5A33, (0x5A,) * 3),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        # Half of it is there: 255 / 2 of the white behind, and half of its own.
        ("RGBA", (100, 0, 200, 128), (177, 127, 227)),
        ("LA", (80, 0), (255, 255, 255)),
    ],
)
def test_a_png_of_any_mode(mode, colour, expected):
    pixels = decode(encoded(Image.new(mode, (8, 8), colour)), SHAPE)
    assert (pixels.shape, pixels.dtype) == (SHAPE, np.uint8)
    np.testing.assert_allclose(pixels[3, 4], expected, atol=1)


def test_a_palette_and_its_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    np.testing.assert_array_equal(decode(encoded(image), SHAPE)[0, 0], (200, 100, 50))
    np.testing.assert_array_equal(decode(encoded(image, transparency=1), SHAPE)[0, 0], (255, 255, 255))


@pytest.mark.parametrize("kind", ["jpeg", "webp", "bmp"])
def test_other_formats(kind):
    pixels = decode(encoded(Image.new("RGB", (8, 8), (200, 100, 50)), kind), SHAPE)
    np.testing.assert_allclose(pixels[4, 4], (200, 100, 50), atol=6)


def test_a_cmyk_jpeg():
    # Half cyan and nothing else: half the red is gone.
    pixels = decode(encoded(Image.new("CMYK", (8, 8), (128, 0, 0, 0)), "jpeg", quality=95), SHAPE)
    np.testing.assert_allclose(pixels[4, 4], (127, 255, 255), atol=6)


def test_grey_is_the_luminance():
    pixels = decode(encoded(Image.new("RGB", (8, 8), (200, 100, 50))), (8, 8, 1))
    assert pixels.shape == (8, 8, 1)
    assert pixels[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_the_centre_square_is_taken():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = noise(0)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(wide)), SHAPE), noise(0))
    # Of proportions that are not square, too.
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(wide)), (8, 16, 3)), wide[:, 4:20])


def test_what_shrinks_is_smoothed():
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    pixels = decode(encoded(Image.fromarray(board.astype(np.uint8))), SHAPE)
    np.testing.assert_allclose(pixels[2:6, 2:6], 127.5, atol=4)


def test_a_photograph_is_turned_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    content = encoded(Image.fromarray(noise(0)), exif=exif)
    np.testing.assert_array_equal(decode(content, SHAPE), np.rot90(noise(0), -1))


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp"])
def test_no_part_of_a_file_passes_for_an_image(kind):
    content = encoded(Image.fromarray(noise(0, 16, 16)), kind)
    whole = decode(content, SHAPE)
    for size in range(0, len(content), 7):
        try:
            part = decode(content[:size], SHAPE)
        except ValueError:
            continue
        # Only what follows the pixels may be missing.
        assert size > len(content) - 24
        np.testing.assert_array_equal(part, whole)


def test_a_broken_file_is_named(tmp_path):
    fill(tmp_path, ("a", "b", "c"))
    broken = tmp_path / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"cannot read image {broken}: .+\. Fix or delete it"):
        splits_of(tmp_path)
    broken.write_text("not an image")
    with pytest.raises(UserError, match=rf"cannot read image {broken}: "):
        splits_of(tmp_path)


def add(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (lambda path: (path / "d").mkdir(), {"num_classes": 4}, r"/d holds no image; remove the folder"),
        (
            lambda path: (path / "d").mkdir(),
            {},
            r"num_classes is 3, but .* has 4 folders \(a, b, c, d\), one per class",
        ),
        (lambda path: add(path / "a" / "notes.txt"), {}, r"a/notes.txt has no image's file ending \(.bmp .jfif"),
        (lambda path: (path / "a" / "more.png").mkdir(), {}, r"cannot read image .*/a/more.png: .*Is a directory"),
        (lambda path: None, {"num_train": 6}, r"data.num_train \+ data.num_validation \+ data.num_test is 10, but"),
        (lambda path: None, {"num_train": 6}, r"run.data_dir=.* has 9 train images; choose fewer"),
        (lambda path: None, {"image_shape": (8, 8, 4)}, r"data.image_shape is \(8, 8, 4\); it must be"),
        (lambda path: None, {"source": "npz"}, r"is not a file; data.source='npz' needs one"),
        (lambda path: add(path / "train" / "x" / "0.png"), {}, r"has a, b, c beside train; only train and test"),
    ],
)
def test_a_folder_that_is_wrong(tmp_path, change, fields, message):
    fill(tmp_path, ("a", "b", "c"))
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        splits_of(tmp_path, **fields)


def test_a_test_part_of_other_classes(tmp_path):
    fill(tmp_path / "train", ("a", "b", "c"))
    fill(tmp_path / "test", ("a", "d"))
    with pytest.raises(UserError, match=r"/test has the class 'd', which train lacks"):
        splits_of(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"run.data_dir=.*/none is not a folder"):
        splits_of(tmp_path / "none")
    with pytest.raises(UserError, match=r"data.num_classes is 3, but .* has 0 folders, one per class"):
        splits_of(tmp_path)
    with pytest.raises(UserError, match=r"run.data_dir is empty; data.source='folder' needs it"):
        splits_of("")


def test_fields_of_another_source_are_refused(tmp_path):
    fields = config_for(source="cifar_archive")
    with pytest.raises(UserError, match=r"'cifar_archive' needs exactly the fields name, .*; add data.name"):
        data.build(fields, str(tmp_path))
    fields = config_for(name="cifar10")
    with pytest.raises(UserError, match=r"; remove data.name in the config file"):
        data.build(fields, str(tmp_path))


@pytest.mark.usefixtures("one_convolution")
def test_all_stages_and_changed_images(tmp_path, capsys):
    images, workdir = tmp_path / "images", tmp_path / "workdir"
    fill(images, ("a", "b"), images=40)
    config = own_images.get_config("ar_adals")
    config.update_from_flattened_dict(
        {
            "seeds": (0,),
            "data.num_classes": 2,
            "data.image_shape": SHAPE,
            "data.num_train": 40,
            "data.num_validation": 20,
            "data.num_test": 20,
            "model.name": one_convolution.NAME,
            "training.epochs": 1,
            "training.batch_size": 20,
            "soft_labels.num_subsets": 2,
            "ranking.num_subsets": 2,
            "ranking.fmn.steps": 2,
            "evaluation.shifts": ("noise",),
            "evaluation.severities": (1,),
            "run.data_dir": str(images),
            "run.num_devices": 1,
            "run.evaluation_batch_size": 20,
            "run.ranking_batch_size": 20,
        }
    )
    Experiment(config, str(workdir)).run()
    assert set(files.read_json(workdir / "data.json")["sha256"]) == {"train", "validation", "test"}
    evaluation = files.read_json(workdir / "evaluation.json")
    stored = files.read_npz(workdir / "predictions" / "ar_adals" / "seed_0" / "test.npz")
    accuracy = np.mean(stored["logits"][0].argmax(axis=-1) == stored["label"])
    assert evaluation["methods"]["ar_adals"]["runs"]["0"]["test"]["accuracy"] == pytest.approx(accuracy)
    assert "AR-AdaLS" in capsys.readouterr().out

    # The images may lie elsewhere, but they may not be others.
    images.rename(tmp_path / "moved")
    config.run.data_dir = str(tmp_path / "moved")
    assert len(Experiment(config, str(workdir)).splits["train"]) == 40
    (tmp_path / "moved" / "a" / "7.png").write_bytes(encoded(Image.fromarray(noise(99))))
    with pytest.raises(UserError, match=r"started with other images or labels in (train|validation|test): the data in"):
        _ = Experiment(config, str(workdir)).splits


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    fill(tmp_path, ("a", "b", "c"))
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    for junk in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "b" / junk).write_bytes(b"junk")
    (tmp_path / "c" / "0.png").rename(tmp_path / "c" / "0.JFIF")
    assert sum(map(len, splits_of(tmp_path).values())) == 9


def test_a_class_may_end_in_a_tilde(tmp_path):
    fill(tmp_path, ("a", "b~", "c"))
    assert data.build(config_for(), str(tmp_path)).class_names() == ["a", "b~", "c"]
    assert set(np.concatenate([split.label for split in splits_of(tmp_path).values()])) == {0, 1, 2}


def test_a_class_whose_name_is_not_utf_8(tmp_path):
    fill(tmp_path, ("a", "b", os.fsdecode("caf\xe9".encode("latin-1"))))
    assert sum(map(len, splits_of(tmp_path).values())) == 9
    assert data.build(config_for(), str(tmp_path)).class_names() == ["a", "b", "caf\\xe9"]


def test_no_buffer_is_named_for_a_broken_image():
    with pytest.raises(ValueError, match=r"^Pillow does not know its format$"):
        decode(b"no image", SHAPE)


def png_of_16_bits(pixels, transparent):
    """A PNG by hand, [H, W] or [H, W, 3] of 16 bits: Pillow writes none with a transparent colour."""
    colour = {2: 0, 3: 2}[pixels.ndim]

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    known = np.asarray(transparent, ">u2").tobytes()
    chunks = chunk(b"IHDR", header), chunk(b"tRNS", known), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("colour", [0x1234, (0x1234, 0x5678, 0x9ABC)])
def test_16_bits_with_a_transparent_colour(colour):
    pixels = np.full((8, 8, *np.shape(colour)), 0x4000, np.uint16)
    pixels[:4] = colour
    found = decode(png_of_16_bits(pixels, colour), SHAPE)
    np.testing.assert_array_equal(found[:3], 255)
    np.testing.assert_array_equal(found[5:], 0x40)


def test_a_class_without_images_is_reported(tmp_path, caplog):
    np.savez(tmp_path / "a.npz", image=np.stack([noise(seed) for seed in range(9)]), label=np.arange(9) % 2)
    splits_of(tmp_path / "a.npz", source="npz", num_classes=4)
    assert "data.num_classes is 4, but no training image has the label 2, 3" in caplog.text

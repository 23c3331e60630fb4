import dataclasses

import numpy as np
import pytest

from arada.data import corruptions, shifts
from arada.data.shifted import sources as shift_sources
from arada.data.splits import Split
from arada.errors import UserError
from configs import cifar10

IDS = np.array([3, 5, 6, 900], np.int32)


@dataclasses.dataclass
class Dataset:
    """Four images of a data set whose published order is that of the ids."""

    def shifted(self, test, name, severity):
        return dataclasses.replace(test, image=test.image + severity)

    def published_position(self, test):
        return np.searchsorted(IDS, test.example_id)


@pytest.fixture
def test():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return Split(images, np.array([1, 0, 9, 1], np.int32), IDS)


@pytest.fixture
def config():
    return cifar10.get_config()


@pytest.fixture
def build(config, test, tmp_path):
    def build(source, test=test, **run):
        config.evaluation.shift_source = source
        config.run.update(run)
        return shift_sources.build(config, Dataset(), test, tmp_path)

    return build


def test_lists_are_unrolled_once(config):
    assert len(shift_sources.types(config.evaluation)) == 19
    for name, count in {"simple": 6, "cifar10": 19, "cifar100": 17, "imagenet": 15}.items():
        config.evaluation.shifts = (name,)
        assert len(set(shift_sources.types(config.evaluation))) == count
    config.evaluation.shifts = ("spatter", "imagenet", "fog")
    assert shift_sources.types(config.evaluation) == ["spatter", *corruptions.IMAGENET_TYPES]
    config.evaluation.shifts = ()
    assert shift_sources.types(config.evaluation) == []


def test_no_two_sets_have_one_name(config):
    stored = set()
    for source in shift_sources.TYPES:
        for limit in (0, 1000):
            for cropped in (False, True):
                config.evaluation.update(shift_source=source, max_examples_per_shift=limit, crop_shifted=cropped)
                stored.add(shift_sources.stored_name(config.evaluation, "contrast", 3))
    assert len(stored) == 4 * 2 * 2
    config.evaluation.update(shift_source="simple", max_examples_per_shift=0, crop_shifted=False)
    assert shift_sources.stored_name(config.evaluation, "contrast", 3) == "contrast_3"
    config.evaluation.update(shift_source="generated", max_examples_per_shift=500)
    assert shift_sources.stored_name(config.evaluation, "contrast", 3) == "generated_contrast_3_of_500"


def test_simple_shifts_are_the_data_set_s(build, test):
    source = build("simple")
    assert source.absent(shifts.STRENGTHS, (1, 2)) == {}
    np.testing.assert_array_equal(source.shifted("noise", 2).image, test.image + 2)


def test_a_limit_takes_the_same_random_images_every_time(build, config, test):
    config.evaluation.max_examples_per_shift = 3
    first, again = (build("simple").shifted("noise", 1) for _ in range(2))
    assert len(first) == 3
    np.testing.assert_array_equal(first.example_id, again.example_id)
    at = np.searchsorted(IDS, first.example_id)
    np.testing.assert_array_equal(first.image, test.image[at] + 1)
    np.testing.assert_array_equal(first.label, test.label[at])
    config.evaluation.max_examples_per_shift = 4
    assert len(build("simple").shifted("noise", 1)) == 4


@pytest.mark.parametrize("elsewhere", [False, True])
def test_generated_images_are_those_of_their_ids_and_are_kept(build, test, tmp_path, monkeypatch, elsewhere):
    run = {"generated_dir": str(tmp_path / "cache")} if elsewhere else {}
    expected = {at: corruptions.corrupt(test.image, test.example_id, "gaussian_noise", at) for at in (1, 4)}
    for severity in (1, 4):
        shifted = build("generated", **run).shifted("gaussian_noise", severity)
        np.testing.assert_array_equal(shifted.image, expected[severity])
        np.testing.assert_array_equal(shifted.example_id, test.example_id)
        # From here on nothing is made.
        monkeypatch.setattr(corruptions, "corrupt", None)
    (path,) = (tmp_path / ("cache" if elsewhere else "shifted")).iterdir()
    # Anybody can read it.
    np.testing.assert_array_equal(np.load(path / "gaussian_noise.npy")[12:16], expected[4])
    np.testing.assert_array_equal(np.load(path / "labels.npy"), np.tile(test.label, 5))


def test_other_images_or_ids_are_kept_elsewhere(build, config, test, tmp_path):
    build("generated").shifted("contrast", 1)
    build("generated", dataclasses.replace(test, example_id=IDS + 1)).shifted("contrast", 1)
    build("generated", dataclasses.replace(test, image=255 - test.image)).shifted("contrast", 1)
    config.evaluation.max_examples_per_shift = 2
    assert len(build("generated").shifted("contrast", 1)) == 2
    assert len(list((tmp_path / "shifted").iterdir())) == 4


def test_a_broken_file_of_ours_is_reported(build, tmp_path):
    build("generated").shifted("contrast", 1)
    (path,) = tmp_path.rglob("contrast.npy")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"run.generated_dir: .*contrast.npy has .* truncated"):
        build("generated").shifted("contrast", 1)


@pytest.mark.usefixtures("no_frost")
def test_without_its_pictures_frost_is_absent(build, tmp_path):
    absent = build("generated").absent(corruptions.CIFAR10_TYPES, (1,))
    assert absent == {"frost": "`pip install --no-deps imagecorruptions` installs its pictures"}
    assert build("generated").absent(["fog"], (1,)) == {}


@pytest.mark.usefixtures("frost")
def test_with_its_pictures_frost_is_there(build):
    assert build("generated").absent(corruptions.CIFAR10_TYPES, (1,)) == {}


def test_generated_shifts_take_bytes(build, test):
    floats = dataclasses.replace(test, image=test.image / np.float32(255))
    with pytest.raises(UserError, match=r"'generated', which takes uint8 images, not float32"):
        build("generated", floats).absent(["fog"], (1,))


def test_no_folder_is_nothing_and_a_wrong_one_an_error(build, tmp_path):
    absent = build("published").absent(["fog", "snow"], (1,))
    assert absent == dict.fromkeys(("fog", "snow"), "set run.published_dir to the folder of the published files")
    with pytest.raises(UserError, match="is not a folder"):
        build("published", published_dir=str(tmp_path / "nowhere"))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "readme.txt").write_text("")
    with pytest.raises(UserError, match="neither npy files nor folders"):
        build("published", published_dir=str(tmp_path / "else")).absent(["fog"], (1,))


def test_a_published_folder_is_read(build, test, tmp_path):
    np.save(tmp_path / "labels.npy", np.tile(test.label, 5))
    images = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)
    np.save(tmp_path / "fog.npy", images)
    source = build("published", published_dir=str(tmp_path))
    assert list(source.absent(["fog", "snow"], (1,))) == ["snow"]
    np.testing.assert_array_equal(source.shifted("fog", 2).image, images[4:8])

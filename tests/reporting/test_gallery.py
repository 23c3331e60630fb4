"""What the gallery says of each picture, read back from the section and from its PNGs."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

import arada.reporting
from arada.errors import UserError
from arada.reporting import gallery


def pixels(uri):
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.fixture
def build(workdir, evaluation, with_gallery):
    def build(**arrays):
        with_gallery(**arrays)
        return gallery.build(evaluation, workdir)

    return build


def test_least_and_most_robust_of_each_class(build):
    section = build()
    assert [(name, len(least), len(most)) for name, least, most in section.classes] == [("0", 1, 1), ("7", 1, 1)]
    assert section.missing == []
    assert "during the last epoch of AR-AdaLS, before the update that follows it; mean over" in section.definition[-1]
    (_, (least,), (most,)), (_, (easiest,), _) = section.classes
    # Rank 12 of 60 is in the second fifth, rank 40 in the fourth. In epoch 4 the soft label of subset s of 5 is
    # 1 - 0.04 (5 - s) on seed 0, and 0.02 less on seed 1.
    assert least.lines == [
        "distance 0.062",
        "level 2 of 5",
        "soft label 0.830",
        "3 (60\xa0%) → 0 (51\xa0%)",
        "image 30, true class 0",
    ]
    assert most.lines == ["distance 0.500", "level 4 of 5", "soft label 0.910", "0 (99\xa0%) → 3 (50\xa0%)", "image 4"]
    assert easiest.lines[1:3] == ["level 1 of 5", "soft label 0.790"]
    assert easiest.alt == "Training image 17 of class 7"


def test_class_names(build):
    names = np.array(["zero", "one", "two", "three", "4", "5", "6", "seven"])
    section = build(class_names=names)
    assert [name for name, _, _ in section.classes] == ["zero", "seven"]
    assert section.classes[0][1][0].lines[3] == "three (60\xa0%) → zero (51\xa0%)"
    # Names that do not reach as far as the labels leave these their numbers.
    assert [name for name, _, _ in build(class_names=names[:2]).classes] == ["zero", "7"]


def test_pictures_are_the_images(build):
    image = np.zeros((4, 2, 2, 3), np.uint8)
    image[:, 0, 0] = (255, 0, 51)
    adversarial = (image / 255).astype(np.float32)
    adversarial[2, 1, 1, 0] += 0.2
    adversarial[2, 0, 0, 0] -= 0.1
    picture = build(image=image, adversarial=adversarial).classes[0][1][0]  # number 2
    np.testing.assert_array_equal(pixels(picture.original), image[2])
    assert pixels(picture.adversarial)[1, 1].tolist() == [51, 0, 0]  # 0.2 x 255
    # The largest change is white, half of it downwards is halfway to black, 0.25 x 255; no change is 0.5 x 255.
    assert pixels(picture.difference)[1, 1].tolist() == [255, 128, 128]
    assert pixels(picture.difference)[0, 0].tolist() == [64, 128, 128]


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_are_grey_and_large_images_shrink(build, channels):
    image = np.full((4, 200, 100, channels), 0.4, np.float32)
    picture = build(image=image, adversarial=image).classes[0][1][0]
    assert pixels(picture.original).shape == (64, 32)
    assert np.all(pixels(picture.original) == 102)  # 0.4 x 255
    assert np.all(pixels(picture.difference) == 128)


def test_without_soft_labels(build, evaluation):
    del evaluation["methods"]["ar_adals"]
    section = build()
    assert section.classes[0][1][0].lines[1:] == ["level 2 of 5", "3 (60\xa0%) → 0 (51\xa0%)", "image 30, true class 0"]
    assert "AR-AdaLS was not run" in section.definition[-1]


@pytest.mark.usefixtures("text_alone")
def test_no_gallery_is_told(workdir, evaluation):
    assert gallery.build(evaluation, workdir).classes == []
    page = arada.reporting.write_report(workdir).read_text()
    assert "not run: the images that are easiest and hardest to attack" in page


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"label": np.array([object()])}, "allow_pickle=False"),  # no pickle is loaded
        ({"label": np.array([1])}, "it has no adversarial"),
        (None, "not a zip file"),
    ],
)
def test_a_broken_file_is_told(workdir, evaluation, arrays, reason):
    file = workdir / "gallery.npz"
    if arrays:
        np.savez(file, **arrays)
    else:
        file.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=rf"cannot read {file} \(.*{reason}.*\); delete it"):
        gallery.build(evaluation, workdir)

"""The section with the images that are easiest and hardest to attack, from evaluation's gallery.npz."""

import base64
import io
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from arada.errors import UserError
from arada.reporting import series

# Pixels; larger images are shrunk: 60 images of ImageNet would take many megabytes.
LARGEST = 64
# The method whose soft labels are shown.
METHOD = "ar_adals"
PREDICTIONS = ("predicted", "predicted_after", "confidence", "confidence_after")
ARRAYS = {"example_id", "label", "rank", "num_ranked", "distance", "image", "adversarial", *PREDICTIONS}


class Picture(NamedTuple):
    """The image, the adversarial image and their difference as data URIs of PNGs, and lines of text below them."""

    original: str
    adversarial: str
    difference: str
    alt: str
    lines: list[str]


class Gallery(NamedTuple):
    """A `Section` with the least and the most robust pictures of each class in place of panels."""

    name: str
    title: str
    caption: str
    definition: list[str]
    classes: list[tuple[str, list[Picture], list[Picture]]]
    missing: list[str]


def build(evaluation: dict, workdir: epath.Path) -> Gallery:
    """The gallery, or an empty one that says that it was not made."""
    arrays = _read(workdir / "gallery.npz")
    seeds = list(evaluation["methods"].get(METHOD, {"runs": {}})["runs"])
    logged = series.soft_labels(workdir, METHOD, seeds)
    classes = _classes(arrays, evaluation, logged) if arrays else []
    soft_label = (
        # The log's row of an epoch is written before the update that follows the epoch.
        f"Soft label: the probability of the correct class in the targets of the image's level during the last epoch "
        f"of AR-AdaLS, before the update that follows it; mean over seeds {', '.join(seeds)}."
        if logged and seeds
        else "There are no soft labels, because AR-AdaLS was not run."
    )
    return Gallery(
        "gallery",
        "The least and the most robust training images",
        "Do easily attacked images look like two classes at once, or wrongly labelled? Do the attack's changes make "
        "sense?",
        [
            "Each picture: the training image, the nearest adversarial image that the attack found, and their "
            "difference, stretched so that its largest change is black or white and no change is mid-grey. Each class "
            "(by true label) shows its images with the smallest and the largest distance; with more than ten classes, "
            "only some classes are shown. Images without an adversarial example are left out.",
            "Distance: the ranking's L2 distance, pixels in [0, 1]. Level: adversarial robustness among all training "
            "images, 1 is the least robust. The arrow points from the attacked network's prediction for the image to "
            "its prediction for the adversarial image, both with their confidence. " + soft_label,
        ],
        classes,
        [] if classes else ["the images that are easiest and hardest to attack (needs a ranking by an attack)"],
    )


def _read(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        arrays = series.read_arrays(file)
        if arrays and (missing := ARRAYS - arrays.keys()):
            raise ValueError(f"it has no {min(missing)}")
    # NumPy, zip and zlib raise these for truncated files and for other files.
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {file} ({error}); delete it and run --stage=evaluate again") from None
    return arrays


def _classes(arrays: dict[str, np.ndarray], evaluation: dict, logged: tuple | None) -> list[tuple]:
    labels, rank, names = arrays["label"], arrays["rank"], arrays.get("class_names", ())
    name_of = {int(i): str(names[i]) if i < len(names) else f"{i}" for i in np.unique(_all_labels(arrays))}

    def level(index: int, count: int) -> int:
        return int(rank[index]) * count // int(arrays["num_ranked"])

    def picture(index: int) -> Picture:
        true, before, after = (name_of[int(arrays[key][index])] for key in ("label", "predicted", "predicted_after"))
        percent = [f"{100 * arrays[key][index]:.0f}\N{NO-BREAK SPACE}%" for key in ("confidence", "confidence_after")]
        subsets = evaluation["experiment"]["num_subsets"]
        soft = [f"soft label {logged[1][-1][level(index, logged[1].shape[1])]:.3f}"] if logged else []
        lines = [
            f"distance {arrays['distance'][index]:.3f}",
            f"level {level(index, subsets) + 1} of {subsets}",
            *soft,
            f"{before} ({percent[0]}) → {after} ({percent[1]})",
            f"image {arrays['example_id'][index]}" + ("" if before == true else f", true class {true}"),
        ]
        alt = f"Training image {arrays['example_id'][index]} of class {true}"
        images = _unit(arrays["image"][index]), _unit(arrays["adversarial"][index])
        original, adversarial = images
        return Picture(_png(original), _png(adversarial), _png(_stretched(adversarial - original)), alt, lines)

    classes = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(rank[members], kind="stable")]
        half = -(-len(members) // 2)
        classes.append((name_of[int(label)], *([picture(i) for i in part] for part in np.split(members, [half]))))
    return classes


def _all_labels(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([arrays[key] for key in ("label", "predicted", "predicted_after")])


def _unit(image: np.ndarray) -> np.ndarray:
    return image / 255 if image.dtype == np.uint8 else image


def _stretched(difference: np.ndarray) -> np.ndarray:
    return 0.5 + difference / max(2 * np.abs(difference).max(), 1e-12)


def _png(image: np.ndarray) -> str:
    """A data URI. The browser enlarges small images, pixel by pixel."""
    levels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    # Images with another number of channels than 3 are shown as the mean of their channels.
    levels = levels if levels.shape[-1] == 3 else levels.mean(axis=-1).round().astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"

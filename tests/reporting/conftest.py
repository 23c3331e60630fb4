import copy
import json
import pathlib
import shutil

import drawn
import numpy as np
import pytest
from drawn import IMAGES
from markupsafe import Markup

import arada.reporting
from arada.reporting import figures


def fill_gallery(workdir, **arrays):
    """A gallery.npz of two classes, two images each; the last of 60 training images is no adversarial example's."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (4, 6, 5, 3), np.uint8)
    arrays = {
        "example_id": np.array([4, 17, 30, 52], np.int32),
        "label": np.array([0, 7, 0, 7], np.int32),
        "predicted": np.array([0, 7, 3, 7], np.int32),
        "predicted_after": np.array([3, 1, 0, 0], np.int32),
        "distance": np.array([0.5, 0.025, 0.0625, 1.75], np.float32),
        "rank": np.array([40, 0, 12, 56], np.int32),
        "num_ranked": np.int32(IMAGES),
        "confidence": np.array([0.99, 0.51, 0.6, 1.0], np.float32),
        "confidence_after": np.array([0.5, 0.5, 0.51, 0.5], np.float32),
        "image": image,
        "adversarial": np.clip(image / 255 + random.normal(0, 0.01, image.shape), 0, 1).astype(np.float32),
        **arrays,
    }
    np.savez(workdir / "gallery.npz", **arrays)


@pytest.fixture
def text_alone(monkeypatch):
    """Figures are drawn, but neither laid out nor rendered, which is most of a report's time."""
    monkeypatch.setattr(figures, "_to_svg", lambda figure, name, title, description: Markup("<svg></svg>"))


@pytest.fixture
def with_gallery(workdir):
    """`with_gallery(**arrays)` writes the workdir's gallery.npz, with other arrays in the place of its own."""
    return lambda **arrays: fill_gallery(workdir, **arrays)


@pytest.fixture(scope="session")
def summarized(tmp_path_factory):
    """A workdir with what `summarize` found in it."""
    path = tmp_path_factory.mktemp("summarized")
    return path, drawn.write(path)


@pytest.fixture(scope="session")
def numbers(summarized):
    """The same with numbers that are easy to average."""
    return drawn.by_hand(copy.deepcopy(summarized[1]))


def fill(path, summarized, evaluation):
    shutil.copytree(summarized[0], path, dirs_exist_ok=True)
    (path / "evaluation.json").write_text(json.dumps(evaluation))


@pytest.fixture
def evaluation(numbers):
    return copy.deepcopy(numbers)


@pytest.fixture
def workdir(tmp_path, summarized, evaluation):
    fill(tmp_path, summarized, evaluation)
    return tmp_path


@pytest.fixture(scope="session")
def report(tmp_path_factory, summarized, numbers):
    """The folder of a report on all of this."""
    workdir = tmp_path_factory.mktemp("experiment")
    fill(workdir, summarized, numbers)
    fill_gallery(workdir)
    return pathlib.Path(arada.reporting.write_report(workdir)).parent


@pytest.fixture
def page(report):
    return (report / "index.html").read_text()

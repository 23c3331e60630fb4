"""Frost pictures, there and not there."""

import numpy as np
import pytest
from PIL import Image

FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


@pytest.fixture
def frost(tmp_path, monkeypatch):
    """A package that ships frost pictures, of 170 x 110 pixels: at a fifth narrower than the image."""
    pictures = tmp_path / "site" / "imagecorruptions" / "frost"
    pictures.mkdir(parents=True)
    (pictures.parent / "__init__.py").write_text("raise ImportError('its dependencies are not there')")
    for seed, name in enumerate(FROST):
        noise = np.random.default_rng(seed).integers(0, 256, (170, 110, 3), np.uint8)
        Image.fromarray(noise).save(pictures / name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return pictures

"""What the README shows works as it stands there."""

import pathlib
import re

import numpy as np
import pytest

from arada.experiment import Experiment
from configs import digits

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def demo_workdir(tmp_path, monkeypatch):
    """The current folder, with a run where the demo leaves it."""
    config = digits.get_config("adals,testing")
    config.update_from_flattened_dict({"name": "ar_adals", "training.epochs": 1, "seeds": (0,)})
    Experiment(config, tmp_path / "workdir" / "digits").run("train")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("demo_workdir")
def test_python_snippets_run():
    namespace = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(snippet, namespace)
    assert np.asarray(namespace["state"].p_correct).shape == (10,)
    assert np.all(namespace["state"].p_correct < 1)
    assert namespace["logits"].shape == (1, 10)


def test_links_and_files_exist():
    linked = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", README)
    local = [link or source for link, source in linked if not link.startswith("http")]
    assert local
    # As GitHub names the place of a heading.
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    places = {link.removeprefix("#") for link in local if link.startswith("#")}
    assert places <= headings
    local = [link for link in local if not link.startswith("#")]
    named = re.findall(r"(?:configs|launch)/\w+\.(?:py|sh)", README)
    for name in {*local, *named}:
        assert (ROOT / name).exists() or name == "configs/FILE.py", name

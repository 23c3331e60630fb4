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


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_and_files_exist(page):
    text = (ROOT / page).read_text()
    linked = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    local = {link or source for link, source in linked if not link.startswith("http")}
    # As GitHub names the place of a heading.
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    places = {link for link in local if link.startswith("#")}
    assert {place.removeprefix("#") for place in places} <= headings
    for link in local - places:
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for name in re.findall(r"(?:configs|launch)/\w+\.(?:py|sh)", text):
        assert (ROOT / name).exists() or name == "configs/FILE.py", name

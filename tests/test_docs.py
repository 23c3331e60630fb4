"""What the README and the pages of docs/ show works as it stands there."""

import ast
import importlib
import json
import pathlib
import re
import shlex

import matplotlib.pyplot as plt
import numpy as np
import pytest

from arada import checks
from arada.experiment import Experiment
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES if "_build" not in page.parts}

PLACEHOLDERS = ("configs/FILE.py", "configs/studies/FILE.py", "arada/X/Y.py", "tests/X/test_Y.py")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """The `python -m MODULE ...` lines of a page, continuations joined; those with a placeholder are left out."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"python -m (arada|launch)\.", line) and "..." not in line and "FILE.py" not in line:
                yield line.partition("  #")[0].strip()


COMMANDS = sorted({(page, line) for page, text in TEXTS.items() for line in commands(text)})


@pytest.fixture(scope="module")
def demo_workdir(tmp_path_factory):
    """A folder with a run where the demo leaves it."""
    folder = tmp_path_factory.mktemp("demo")
    config = digits.get_config("adals,testing")
    config.update_from_flattened_dict({"name": "ar_adals", "training.epochs": 1, "seeds": (0,)})
    Experiment(config, folder / "workdir" / "digits").run("train")
    return folder


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "python")])
def test_python_blocks_run(page, demo_workdir, monkeypatch):
    """All blocks of a page, one after the other, as a reader would."""
    monkeypatch.chdir(demo_workdir)
    namespace = {"__name__": "page"}
    for block in blocks(TEXTS[page], "python"):
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_valid(page, command):
    """The module and its flags exist, and the config takes the presets and the overrides."""
    module, *words = shlex.split(command)[2:]
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert source.exists(), module
    declared = source.read_text(encoding="utf-8") + (ROOT / "arada/runtime/console.py").read_text(encoding="utf-8")
    given = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
    for name in given:
        if not name.startswith("config."):
            assert re.search(rf"[\"'](--)?{name}[\"']", declared), f"{module} has no flag --{name}"
    if "config" not in given or not given["config"].startswith("configs/"):
        return
    path, _, presets = given["config"].partition(":")
    config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config(presets)
    for name, value in given.items():
        if name.startswith("config."):
            config.update_from_flattened_dict({name.removeprefix("config."): _literal(value)})
    checks.check_config(config, num_devices=1)


def test_the_notebook_runs(monkeypatch):
    """Cell by cell, and its stored outputs are there: the site shows them."""
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    namespace = {"__name__": "notebook"}
    for cell in cells:
        exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), namespace)
    assert np.all(namespace["history"] <= 1)
    assert namespace["history"][-1].min() < 1  # the labels have been softened
    assert sum(bool(cell["outputs"]) for cell in cells) >= 4


def _literal(value):
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_files_exist(page):
    text, folder = TEXTS[page], (ROOT / page).parent
    linked = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for link in {link or source for link, source in linked}:
        if link.startswith("http"):
            continue
        path, _, place = link.partition("#")
        assert not path or (folder / path).exists(), link
        if place and (not path or path.endswith(".md")):
            headings = re.findall(r"^#+ (.*)$", (folder / path).read_text() if path else text, re.MULTILINE)
            # As GitHub and MyST name the place of a heading.
            places = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert place in places, link
    for name in re.findall(r"(?:configs|launch|arada|tests)/[\w/]+\.(?:py|sh)", text):
        assert (ROOT / name).exists() or name in PLACEHOLDERS, name


def test_the_readme_is_a_front_door():
    lines = TEXTS["README.md"].splitlines()
    words = re.sub(r"```.*?```|<[^>]+>|\|", " ", TEXTS["README.md"], flags=re.DOTALL).split()
    assert len(lines) <= 150
    assert len(words) <= 900

"""What is installed with the package, and by which name the rest can be had."""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def lines(text):
    without_comments = (line.partition("  #")[0].strip() for line in text.splitlines())
    return {line.replace('"', "'") for line in without_comments if line and not line.startswith("#")}


def test_requirements_are_the_library_and_all_of_experiments():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    everything = set(project["dependencies"])
    for requirement in extras["experiments"]:
        inner = re.fullmatch(r"arada\[(.*)\]", requirement)
        everything |= {each for name in inner[1].split(",") for each in extras[name]} if inner else {requirement}
    assert lines((ROOT / "requirements.txt").read_text()) == everything


def test_the_library_itself_is_small():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any(
        name in line for line in project["dependencies"] for name in ("tensor", "clu", "matplotlib", "pillow")
    )

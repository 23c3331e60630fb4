"""evaluation.json is read once, and what is wrong with it is said in one line."""

import json

import drawn
import pytest
from etils import epath

from arada.errors import UserError
from arada.evaluation import schema


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = epath.Path(tmp_path_factory.mktemp("written"))
    drawn.write(path, {"adals": 1.0}, seeds=(0,))
    return path


def test_what_summarize_writes_is_read(written):
    evaluation = schema.read(written)
    assert list(evaluation["methods"]) == ["adals"]
    assert evaluation["methods"]["adals"]["variance"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda of: of.pop("methods"), "it has no methods"),
        (lambda of: of["experiment"].pop("num_bins"), "experiment has no num_bins"),
        (lambda of: of["experiment"].update(num_bins="15"), 'experiment.num_bins is "15"'),
        (lambda of: of["experiment"].update(num_bins=True), "experiment.num_bins is true"),
        (lambda of: of["methods"]["adals"]["runs"]["0"].pop("shift"), "methods.adals.runs.0 has no shift"),
        (
            lambda of: of["methods"]["adals"]["runs"]["0"]["shift"]["blur"][1].pop("ece_floor"),
            r"methods.adals.runs.0.shift.blur\[1\] has no ece_floor",
        ),
        (
            lambda of: of["methods"]["adals"]["runs"]["0"]["test"].update(ece=None),
            r"methods.adals.runs.0.test.ece is null",
        ),
        (lambda of: of.update(methods=[1] * 100), r"methods is \[1, 1, 1"),
    ],
)
def test_what_is_wrong_is_named(written, tmp_path, change, message):
    evaluation = json.loads((written / "evaluation.json").read_text())
    change(evaluation)
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(
        UserError, match=rf"evaluation.json is not in this version's format: {message}.*; run --stage=evaluate again"
    ) as error:
        schema.read(epath.Path(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_told(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluation.json is not JSON .*; run --stage=evaluate again"):
        schema.read(epath.Path(tmp_path))

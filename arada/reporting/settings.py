"""Which settings made an experiment, as text."""

import json

from etils import epath

from arada.runtime import files


def listed(workdir: epath.Path, methods: dict) -> dict[str, str]:
    """By method, the fields of its first run's config, a line each; of all but the first method those that differ."""
    fields = {name: _fields(workdir, name, next(iter(method["runs"]))) for name, method in methods.items()}
    fields = {name: of for name, of in fields.items() if of}
    first = next(iter(fields.values()), {})
    shown = {
        name: of if index == 0 else {key: value for key, value in of.items() if first.get(key) != value}
        for index, (name, of) in enumerate(fields.items())
    }
    return {name: "\n".join(f"{key} = {value}" for key, value in of.items()) for name, of in shown.items()}


def _fields(workdir: epath.Path, method: str, seed: str) -> dict[str, str]:
    file = workdir / "runs" / method / f"seed_{seed}" / "config.json"
    stored = files.read_json(file) if file.exists() else {}
    return dict(_flat(stored["config"])) if isinstance(stored, dict) and "config" in stored else {}


def _flat(value, field: str = ""):
    if isinstance(value, dict) and value:
        for key in value:
            yield from _flat(value[key], f"{field}.{key}".lstrip("."))
    # What changes no result, and what the header says anyway.
    elif not field.startswith("run.") and field not in ("name", "seeds"):
        yield field, json.dumps(value)

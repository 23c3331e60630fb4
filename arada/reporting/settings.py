"""The settings of an experiment's methods, as text."""

import json

from etils import epath

from arada.runtime import files


def listed(workdir: epath.Path, methods: dict) -> dict[str, str]:
    """By method, the fields of its first run's config, one a line; after the first method only those that differ."""
    configs = {name: _fields(workdir, name, next(iter(method["runs"]))) for name, method in methods.items()}
    configs = {name: fields for name, fields in configs.items() if fields}
    first = next(iter(configs.values()), {})
    shown = {
        name: fields if index == 0 else {key: value for key, value in fields.items() if first.get(key) != value}
        for index, (name, fields) in enumerate(configs.items())
    }
    return {name: "\n".join(f"{key} = {value}" for key, value in fields.items()) for name, fields in shown.items()}


def _fields(workdir: epath.Path, method: str, seed: str) -> dict[str, str]:
    file = workdir / "runs" / method / f"seed_{seed}" / "config.json"
    stored = files.read_json(file) if file.exists() else {}
    return dict(_flat(stored["config"])) if isinstance(stored, dict) and "config" in stored else {}


def _flat(value, field: str = ""):
    if isinstance(value, dict) and value:
        for key in value:
            yield from _flat(value[key], f"{field}.{key}".lstrip("."))
    # `run` changes no result; the header has name and seeds.
    elif not field.startswith("run.") and field not in ("name", "seeds"):
        yield field, json.dumps(value)

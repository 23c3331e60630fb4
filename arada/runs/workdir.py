"""The layout of an experiment's folder, and the configs that may share it.

A workdir holds one data set and network, any number of methods and seeds. Each output is stored with the config that
made it; a config that would make something else is rejected.
"""

import re
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from arada import registry
from arada.errors import UserError
from arada.runs.identity import (
    RUN_NAME,
    differences,
    imported_identity,
    json_types,
    ranking_identity,
    run_identity,
    shared_identity,
    source_run,
)
from arada.runtime import files, hosts, provenance


class Workdir:
    """The paths below one experiment's folder."""

    def __init__(self, path: epath.PathLike):
        self.path = files.absolute(path)

    def create(self) -> None:
        """Makes the folder. Raises UserError if the folder cannot be written or read again."""
        files.check_name(self.path, "--workdir")
        probe = self.path / ".writable"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            # All jobs that start together check.
            probe.unlink(missing_ok=True)
        except Exception as error:  # an OSError for a folder; a store has its own exceptions
            reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"--workdir={self.path} cannot be written: {reason}; choose another") from None

    def run(self, name: str, seed: int) -> epath.Path:
        """The folder of one training run."""
        return self.path / "runs" / name / f"seed_{seed}"

    def ranking(self, source: str, by: str = "attack", folder: str = "") -> epath.Path:
        """The folder of a ranking: by a run of this workdir, `<name>/seed_<s>`, or any other folder."""
        if not source_run(source):
            return files.absolute(source)
        ranked_by_run = self.path / "robustness" / source
        return ranked_by_run / (folder or ("" if by == "attack" else f"by_{by}"))

    def refreshed_ranking(self, name: str, seed: int, epoch: int) -> epath.Path:
        """The folder of the ranking by a run's own weights after `epoch` epochs."""
        return self.path / "robustness" / name / f"seed_{seed}" / f"epoch_{epoch}"

    def predictions(self, name: str, seed: int) -> epath.Path:
        """The folder of one run's predictions."""
        return self.path / "predictions" / name / f"seed_{seed}"

    def metrics(self, name: str) -> epath.Path:
        """The folder that keeps a method's metrics between two evaluations; it can be deleted at any time."""
        return self.path / "evaluation" / name

    def runs(self) -> list[tuple[str, int]]:
        """(name, seed) of every run that has begun, by name, then seed; without points of sweeps, a folder deeper."""
        return sorted(run for run in map(source_run, self._begun("*")) if run)

    def identities(self, name: str = "") -> dict[str, dict[str, Any]]:
        """The identity of every run that has begun, points of sweeps too, or of every seed of one name; by its folder
        below runs/."""
        begun = self._begun(name) if name else [*self._begun("*"), *self._begun("*/*")]
        return {run: stored(self.path / "runs" / run)["identity"] for run in begun}

    def _begun(self, name: str) -> list[str]:
        found = (path.parent for path in files.matching(self.path, f"runs/{name}/seed_*/config.json"))
        runs = (str(path.relative_to(self.path / "runs")) for path in found)
        return [run for run in runs if re.fullmatch(rf"({RUN_NAME}/)+seed_\d+", run)]

    @property
    def data(self) -> epath.Path:
        """The digests of the images that all runs share."""
        return self.path / "data.json"

    @property
    def evaluation(self) -> epath.Path:
        """The metrics of all methods."""
        return self.path / "evaluation.json"


def claim(
    path: epath.Path, identity: Mapping[str, Any], config: ml_collections.ConfigDict, cpu_kernels: str = "stock"
) -> None:
    """Writes `path`/config.json, or checks that the one there has the same identity. Raises UserError with the
    fields that differ. Every process must call this. `made_with` records `cpu_kernels` other than "stock"."""
    file = path / "config.json"
    if hosts.is_first() and not file.exists():
        made = provenance.made_with() | _record(cpu_kernels)
        if registered := _registered(config):
            made["registered"] = registered
        files.write_json(file, {"identity": identity, "config": json_types(config), "made_with": made})
    hosts.wait(f"{file} is there")
    check_claim(path, identity)
    if hosts.is_first() and cpu_kernels not in ("stock", kernels_of(path)):
        there = stored(path)
        files.write_json(file, there | {"made_with": there["made_with"] | _record(cpu_kernels)})


def _record(cpu_kernels: str) -> dict[str, str]:
    return {} if cpu_kernels == "stock" else {"cpu_kernels": cpu_kernels}


def kernels_of(path: epath.Path) -> str:
    """The CPU kernels that began the output in `path`; "" if there is none."""
    return stored(path)["made_with"].get("cpu_kernels", "stock") if (path / "config.json").exists() else ""


def kernels_to_use(path: epath.Path, config: ml_collections.ConfigDict, available: str) -> str:
    """The CPU kernels for the output in `path`: those of its start if available, or what `run.cpu_kernels` names."""
    keeps_stock = config.run.cpu_kernels == "auto" and kernels_of(path) == "stock"
    return "stock" if keeps_stock else available


def check_claim(path: epath.Path, identity: Mapping[str, Any]) -> None:
    """Raises UserError if `path` is claimed by another identity. A run checks first, reads its data, and claims when
    they are right: a rejected run claims nothing."""
    if not (path / "config.json").exists():
        return
    if differing := differences(stored(path)["identity"], identity):
        is_ranking = "ranking" in identity and "seed" not in identity
        raise _refused(path, differing, "--config.ranking.folder with another --config.name" if is_ranking else "")


def _refused(path: epath.Path, differing: list[str], another: str = "") -> UserError:
    return UserError(
        f"{path} was made with another config: {'; '.join(differing)}. Set them back, use another "
        f"--workdir or {another or '--config.name'}, or delete the folder"
    )


def _registered(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The names in a config that are not built in, each with the file that registered it."""
    used = {"model.name": config.model.name, "method.name": config.method.name, "data.source": config.data.source}
    files_of = {field: registry.FILES.get(field, {}) for field in used}
    return {f"{field} {name!r}": files_of[field][name] for field, name in used.items() if name in files_of[field]}


def identity_of_run(path: epath.Path, config: ml_collections.ConfigDict, seed: int, num_devices: int) -> dict[str, Any]:
    """The identity of the run in `path`: from `config`, and from what only the run itself records.

    That is the number of devices it was trained on, which may be others than `num_devices` now, and the fingerprint of
    the weights it started from, or which it was imported with: an imported run's identity has no training fields.
    """
    there = stored(path)["identity"] if (path / "config.json").exists() else {}
    if "imported" in there:
        return imported_identity(config, seed) | {"imported": there["imported"]}
    identity = run_identity(config, seed, there.get("num_devices", num_devices))
    return identity | {key: there[key] for key in ("init_weights",) if key in there}


def claim_again(
    path: epath.Path, identity: Mapping[str, Any], config: ml_collections.ConfigDict, cpu_kernels: str = "stock"
) -> None:
    """As `claim`, but results computed with another identity are deleted: their weights no longer exist."""
    with hosts.first_before_others(f"{path} is of these weights"):
        if (path / "config.json").exists() and stored(path)["identity"] != identity:
            path.rmtree()
    claim(path, identity, config, cpu_kernels)


def check_ranked_as(path: epath.Path, config: ml_collections.ConfigDict, source: str) -> None:
    """Raises UserError if the ranking in `path`, by a run of the workdir, was not made as `config` says."""
    if source_run(source) and (path / "config.json").exists():
        made = {"ranking": stored(path)["identity"].get("ranking")}
        if differing := differences(made, ranking_identity(config, source)):
            raise _refused(path, differing, "--config.ranking.folder and run --stage=rank")


def check_shared(workdir: Workdir, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the workdir holds runs of another data set or network."""
    for name, there in workdir.identities().items():
        differing = differences({key: there.get(key) for key in ("data", "model")}, shared_identity(config))
        if differing:
            raise UserError(
                f"{workdir.path} holds another experiment ({name}): {'; '.join(differing)}. Use another --workdir"
            )


def check_seeds_alike(workdir: Workdir, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if a run of this name was made with another config, whatever its seed: reports average them."""

    def but_seed(identity):
        return {
            field: value for field, value in identity.items() if field not in ("seed", "num_devices", "init_weights")
        }

    for run, there in workdir.identities(config.name).items():
        if "imported" in there:
            continue
        if differing := differences(but_seed(there), but_seed(run_identity(config, 0, 1))):
            raise _refused(workdir.path / "runs" / run, differing)


def imported_seeds(workdir: Workdir, name: str) -> list[int]:
    """The seeds of the runs of this name that have weights from elsewhere."""
    return [seed for of, seed in workdir.runs() if of == name and is_imported(workdir.run(name, seed))]


def is_imported(path: epath.Path) -> bool:
    """Whether the run in `path` has weights from elsewhere and was never trained here."""
    return (path / "config.json").exists() and "imported" in stored(path)["identity"]


def claim_data(workdir: Workdir, sha256: Mapping[str, str]) -> None:
    """Writes data.json, a digest for each split, or checks that it holds the same. Raises UserError.

    Configs distinguish data sets, but do not notice changed files.
    """
    # Without a run nothing depends on the data yet.
    if hosts.is_first() and not (workdir.data.exists() and workdir.identities()):
        files.write_json(workdir.data, {"sha256": dict(sha256)})
    hosts.wait(f"{workdir.data} is there")
    before = files.read_json(workdir.data)
    before = before.get("sha256") if isinstance(before, dict) else None
    if not isinstance(before, dict):
        raise UserError(f"{workdir.data} holds no digests of data; put it back, or use another --workdir")
    if changed := [name for name in sha256 if sha256[name] != before.get(name)]:
        raise UserError(
            f"{workdir.path} was started with other images or labels in {', '.join(changed)}: the data in run.data_dir "
            f"have changed since, or are decoded by another version of Pillow. Put them back, or use another --workdir"
        )


def stored_config(path: epath.Path) -> ml_collections.ConfigDict:
    """The config that made the output in `path`. Raises UserError if there is none."""
    return ml_collections.ConfigDict(stored(path)["config"], convert_dict=True)


def stored(path: epath.Path) -> dict[str, Any]:
    """The config.json in `path`: identity, config, made_with. Raises UserError if there is none."""
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path} is not a run (it has no config.json); name a folder such as WORKDIR/runs/NAME/seed_0")
    found, parts = files.read_json(file), ("identity", "config", "made_with")
    if not (isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in parts)):
        raise UserError(f"{file} is not what a run writes: {', '.join(parts)}; put it back, or delete {path}")
    return found

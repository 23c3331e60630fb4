"""Where everything of an experiment lies, and which configs may share it.

A workdir holds one data set and network, any number of methods and seeds. Beside each output lies the config that
made it; a config that would have made something else is refused.
"""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from arada import files, hosts, models, provenance
from arada.errors import UserError

# What a run may be called: it is the name of a folder.
RUN_NAME = r"[\w.+-]+"


class Workdir:
    """The paths below one experiment's folder."""

    def __init__(self, path: epath.PathLike):
        self.path = files.absolute(path)

    def create(self) -> None:
        """Makes the folder. Raises UserError if nothing can be written there."""
        probe = self.path / ".writable"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            # Jobs that begin together all look.
            probe.unlink(missing_ok=True)
        except Exception as error:  # an OSError of a folder; a store has kinds of its own
            reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"--workdir={self.path} cannot be written: {reason}; choose another") from None

    def run(self, name: str, seed: int) -> epath.Path:
        """The folder of one training run."""
        return self.path / "runs" / name / f"seed_{seed}"

    def ranking(self, source: str, by: str = "attack", folder: str = "") -> epath.Path:
        """The folder of a ranking: by a run of this workdir, `<name>/seed_<s>`, or any other folder."""
        if not source_run(source):
            return files.absolute(source)
        of_source = self.path / "robustness" / source
        return of_source / (folder or ("" if by == "attack" else f"by_{by}"))

    def refreshed_ranking(self, name: str, seed: int, epoch: int) -> epath.Path:
        """The folder of the ranking by a run's own weights after `epoch` epochs."""
        return self.path / "robustness" / name / f"seed_{seed}" / f"epoch_{epoch}"

    def predictions(self, name: str, seed: int) -> epath.Path:
        """The folder of one run's predictions."""
        return self.path / "predictions" / name / f"seed_{seed}"

    def runs(self) -> list[tuple[str, int]]:
        """(name, seed) of every run that has begun, by name, then seed; not those of sweeps, a folder deeper."""
        return sorted(source_run(run) for run in self._begun("*"))

    def identities(self, name: str = "") -> dict[str, dict[str, Any]]:
        """The identity of every run that has begun, those of sweeps too, or of every seed of one name; by its folder
        below runs/."""
        begun = self._begun(name) if name else [*self._begun("*"), *self._begun("*/*")]
        return {run: stored(self.path / "runs" / run)["identity"] for run in begun}

    def _begun(self, name: str) -> list[str]:
        found = (path.parent for path in self.path.glob(f"runs/{name}/seed_*/config.json"))
        runs = (str(path.relative_to(self.path / "runs")) for path in found)
        return [run for run in runs if re.fullmatch(rf"({RUN_NAME}/)+seed_\d+", run)]

    @property
    def data(self) -> epath.Path:
        """The digests of the images that all runs have in common."""
        return self.path / "data.json"

    @property
    def evaluation(self) -> epath.Path:
        """The metrics of all methods."""
        return self.path / "evaluation.json"


def source_run(source: str) -> tuple[str, int] | None:
    """`<name>/seed_<s>` as (name, seed); None for anything else."""
    match = re.fullmatch(rf"({RUN_NAME})/seed_(\d+)", source)
    return (match[1], int(match[2])) if match else None


def shared_identity(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields that all runs of a workdir have in common."""
    return _plain({"data": config.data, "model": config.model})


def ranking_identity(config: ml_collections.ConfigDict, source: str = "") -> dict[str, Any]:
    """The fields that decide the scores of a ranking by `source` (else `ranking.source`), given its run."""
    ranking, source = config.ranking, source or config.ranking.source
    by = _scored_by(ranking, ranking.attack, ranking.num_subsets) if source_run(source) else {}
    return _plain({"ranking": {"source": source} | by})


def ranking_sources(config: ml_collections.ConfigDict, seed: int) -> tuple[str, ...]:
    """The runs (or the folder) by whose ranks a run with `seed` is trained: one, or one for each member."""
    if config.ensemble.ranks == "shared":
        return (config.ranking.source,)
    name, _ = source_run(config.ranking.source)
    return tuple(f"{name}/seed_{member}" for member in models.member_seeds(seed, config.ensemble.members))


def refreshes(config: ml_collections.ConfigDict) -> bool:
    """Whether a run of this config is ranked anew while it trains."""
    return config.soft_labels.num_subsets > 1 and bool(config.ranking.refresh_epochs or config.ranking.refresh_every)


def uses_precomputed(config: ml_collections.ConfigDict) -> bool:
    """Whether a run of this config ever uses the ranks of `ranking.source`."""
    one_subset = refreshes(config) and config.ranking.before_refresh == "one_subset"
    return config.soft_labels.num_subsets > 1 and not one_subset


def _scored_by(ranking, attack: str, num_subsets: int) -> dict[str, Any]:
    if ranking.by != "attack":
        return {"by": ranking.by}
    # What a first-order ranking measures again depends on where subsets meet.
    edges = {"num_subsets": num_subsets} if attack == "first_order" else {}
    return {"by": "attack", "attack": attack, attack: ranking[attack]} | edges


def run_identity(config: ml_collections.ConfigDict, seed: int, num_devices: int) -> dict[str, Any]:
    """The fields that decide a run's numbers; fields that its method does not use are left out.

    The number of devices is one of them only where each keeps batch statistics of its own.
    """
    soft_labels = dict(config.soft_labels)
    if not soft_labels["adaptive"]:
        del soft_labels["alpha"]
    training = dict(config.training)
    # Runs of undivided batches are older than this field.
    if training["accumulate"] == 1:
        del training["accumulate"]
    identity = shared_identity(config) | _plain(
        {"optimizer": config.optimizer, "training": training, "soft_labels": soft_labels, "seed": seed}
    )
    method = config.method.name
    # Plain cross-entropy has no fields, and its runs are older than `method`.
    if method != "cross_entropy":
        identity["method"] = {"name": method} | _plain(config.method[method])
    if config.model.batch_norm == "per_device":
        identity["num_devices"] = num_devices
    if config.ensemble.of:
        identity["ensemble"] = {"of": config.ensemble.of, "members": config.ensemble.members}
    elif config.ensemble.members > 1:
        identity["ensemble"] = {"members": config.ensemble.members, "ranks": config.ensemble.ranks}
    if uses_precomputed(config):
        identity |= ranking_identity(config)
    if refreshes(config):
        ranking = config.ranking
        cadence = {field: ranking[field] for field in ("refresh_epochs", "refresh_every", "before_refresh")}
        scored_by = _scored_by(ranking, ranking.refresh_attack or ranking.attack, config.soft_labels.num_subsets)
        identity["refresh"] = _plain(cadence | scored_by)
    return identity


def claim(path: epath.Path, identity: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """Writes `path`/config.json, or checks that the one there has the same identity. Raises UserError with the
    fields that differ. All processes come here."""
    file = path / "config.json"
    if hosts.is_first() and not file.exists():
        made = {"commit": provenance.commit(), "hardware": provenance.hardware(), "versions": provenance.versions()}
        files.write_json(file, {"identity": identity, "config": _plain(config), "made_with": made})
    hosts.wait(f"{file} is there")
    differing = differences(stored(path)["identity"], identity)
    if differing:
        is_ranking = "ranking" in identity and "seed" not in identity
        raise _refused(path, differing, "--config.ranking.folder with another --config.name" if is_ranking else "")


def _refused(path: epath.Path, differing: list[str], another: str = "") -> UserError:
    return UserError(
        f"{path} was made with another config: {'; '.join(differing)}. Set them as they are there, use another "
        f"--workdir or {another or '--config.name'}, or delete the folder"
    )


def claim_anew(path: epath.Path, identity: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """As `claim`, but what another identity has left there is deleted: it is of weights that are no more."""
    with hosts.first_before_others(f"{path} is of these weights"):
        if (path / "config.json").exists() and stored(path)["identity"] != identity:
            path.rmtree()
    claim(path, identity, config)


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
        return {field: value for field, value in identity.items() if field not in ("seed", "num_devices")}

    for run, there in workdir.identities(config.name).items():
        if differing := differences(but_seed(there), but_seed(run_identity(config, 0, 1))):
            raise _refused(workdir.path / "runs" / run, differing)


def claim_data(workdir: Workdir, sha256: Mapping[str, str]) -> None:
    """Writes data.json, a digest for each split, or checks that it holds the same. Raises UserError.

    Configs tell one data set from another, not what has happened to the files of one.
    """
    # Without a run nothing depends yet on what was read.
    if hosts.is_first() and not (workdir.data.exists() and workdir.identities()):
        files.write_json(workdir.data, {"sha256": dict(sha256)})
    hosts.wait(f"{workdir.data} is there")
    before = files.read_json(workdir.data)
    before = before.get("sha256") if isinstance(before, dict) else None
    if not isinstance(before, dict):
        raise UserError(f"{workdir.data} holds no digests of data; put it back, or use another --workdir")
    if changed := [name for name in sha256 if sha256[name] != before.get(name)]:
        raise UserError(
            f"{workdir.path} was begun with other images or labels in {', '.join(changed)}: the data in run.data_dir "
            f"have changed since, or are decoded by another version of Pillow. Put them back, or use another --workdir"
        )


def stored_config(path: epath.Path) -> ml_collections.ConfigDict:
    """The config that made the output in `path`. Raises UserError if there is none."""
    return ml_collections.ConfigDict(stored(path)["config"], convert_dict=True)


def stored(path: epath.Path) -> dict[str, Any]:
    """The config.json in `path`: identity, config, made_with. Raises UserError if there is none."""
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path} holds no run: it has no config.json")
    found, parts = files.read_json(file), ("identity", "config", "made_with")
    if not (isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in parts)):
        raise UserError(f"{file} is not what a run writes: {', '.join(parts)}; put it back, or delete {path}")
    return found


def logged(path: epath.Path) -> list[dict[str, float]]:
    """The rows that a run has logged, none if it has not begun. Raises UserError if they are not such."""
    rows = files.read_json_lines(path / "metrics.jsonl")
    numbers = all(isinstance(row, dict) and all(type(x) in (int, float) for x in row.values()) for row in rows)
    steps = [0, *(row.get("step") for row in rows)] if numbers else []
    if not numbers or not all(type(after) is int and after > before for before, after in itertools.pairwise(steps)):
        raise UserError(f"{path / 'metrics.jsonl'} is no log of steps; put it back, or delete {path}")
    return rows


def _plain(value: Any) -> Any:
    """As JSON reads it back: tuples as lists, so that what is stored and what is new compare equal."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    return json.loads(json.dumps(value, default=lambda nested: nested.to_dict()))


def differences(stored: Any, new: Any, field: str = "") -> list[str]:
    """A line for each field that differs between two identities."""
    if isinstance(stored, dict) and isinstance(new, dict):
        keys = sorted(stored.keys() | new.keys())
        nested = (
            differences(stored.get(key, "absent"), new.get(key, "absent"), f"{field}.{key}".lstrip(".")) for key in keys
        )
        return [line for lines in nested for line in lines]
    return [] if stored == new else [f"{field} is {stored} there and {new} here"]

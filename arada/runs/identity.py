"""The identity of a run: the names, sources and fields of a config that decide its numbers."""

import json
import re
from typing import Any

import ml_collections

from arada import models
from arada.data.sources import records

# The names that a run may have: it is the name of a folder, one plain word.
RUN_NAME = r"\w[\w.+-]{0,99}"


def source_run(source: str) -> tuple[str, int] | None:
    """`<name>/seed_<s>` as (name, seed); None for anything else."""
    match = re.fullmatch(rf"({RUN_NAME})/seed_(\d+)", source)
    return (match[1], int(match[2])) if match else None


def source_of(config: ml_collections.ConfigDict, seed: int) -> str:
    """`ranking.source` for a run with `seed`, which takes the place of {seed} in `<name>/seed_{seed}`."""
    return _of_seed(config.ranking.source, seed)


def initial_run(config: ml_collections.ConfigDict, seed: int) -> tuple[str, int] | None:
    """The run (name, seed) whose weights a run with `seed` starts from; None for fresh weights."""
    return source_run(_of_seed(config.training.init_from, seed))


def _of_seed(source: str, seed: int) -> str:
    name, _, end = source.rpartition("/seed_")
    return f"{name}/seed_{seed}" if end == "{seed}" and re.fullmatch(RUN_NAME, name) else source


def ranking_sources(config: ml_collections.ConfigDict, seed: int) -> tuple[str, ...]:
    """The runs (or the folder) whose ranks a run with `seed` uses: one, or one for each member.

    An ensemble of single runs needs what its members need.
    """
    if not config.ensemble.of and config.ensemble.ranks == "shared":
        return (source_of(config, seed),)
    members = models.member_seeds(seed, config.ensemble.members)
    if config.ensemble.of:
        return tuple(dict.fromkeys(source_of(config, member) for member in members))
    name = source_of(config, seed).rpartition("/seed_")[0]
    return tuple(f"{name}/seed_{member}" for member in members)


def refreshes(config: ml_collections.ConfigDict) -> bool:
    """Whether a run of this config is ranked again while it trains."""
    return config.soft_labels.num_subsets > 1 and bool(config.ranking.refresh_epochs or config.ranking.refresh_every)


def uses_precomputed(config: ml_collections.ConfigDict) -> bool:
    """Whether a run of this config ever uses the ranks of `ranking.source`."""
    one_subset = refreshes(config) and config.ranking.before_refresh == "one_subset"
    return config.soft_labels.num_subsets > 1 and not one_subset


def refreshes_after(config: ml_collections.ConfigDict, epoch: int) -> bool:
    """Whether a run is ranked again after this 0-based epoch; never after the last one."""
    done, every = epoch + 1, config.ranking.refresh_every
    due = done in config.ranking.refresh_epochs or (every and done % every == 0)
    return bool(due) and refreshes(config) and done < config.training.epochs


def in_one_subset(config: ml_collections.ConfigDict, epoch: int) -> bool:
    """Whether in this 0-based epoch no image has a rank yet, so that all R soft labels move as one."""
    unranked = not uses_precomputed(config)
    return unranked and not any(refreshes_after(config, before) for before in range(epoch))


def shared_identity(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields that all runs of a workdir have in common."""
    return json_types({"data": config.data, "model": config.model})


def ranking_identity(config: ml_collections.ConfigDict, source: str = "") -> dict[str, Any]:
    """The fields that decide the scores of a ranking by `source` (else `ranking.source`), given its run."""
    ranking = config.ranking
    by = _scored_by(ranking, ranking.attack, ranking.num_subsets) if source_run(source or source_of(config, 0)) else {}
    return json_types({"ranking": {"source": source or ranking.source} | by})


def run_identity(config: ml_collections.ConfigDict, seed: int, num_devices: int) -> dict[str, Any]:
    """The fields that decide a run's numbers; fields that its method does not use are left out.

    The number of devices is one of them only where each keeps batch statistics of its own.
    """
    soft_labels = dict(config.soft_labels)
    if not soft_labels["adaptive"]:
        del soft_labels["alpha"]
    # Some runs are older than this field, and one subset shares with no other.
    if not (soft_labels["adaptive"] and soft_labels["num_subsets"] > 1 and soft_labels.get("shrinkage")):
        soft_labels.pop("shrinkage", None)
    training = dict(config.training)
    # Some runs with undivided batches are older than this field.
    if training["accumulate"] == 1:
        del training["accumulate"]
    # Some runs with fresh weights are older than this field.
    if not training["init_from"]:
        del training["init_from"]
    identity = shared_identity(config) | json_types(
        {"optimizer": config.optimizer, "training": training, "soft_labels": soft_labels, "seed": seed}
    )
    if config.data.source == "imagenet":
        identity["reading_order"] = records.ORDER
    method = config.method.name
    # Plain cross-entropy has no fields, and some of its runs are older than `method`.
    if method != "cross_entropy":
        identity["method"] = {"name": method} | json_types(config.method.get(method, {}))
    if config.model.get("batch_norm") == "per_device":
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
        identity["refresh"] = json_types(cadence | scored_by)
    return identity


def imported_identity(config: ml_collections.ConfigDict, seed: int) -> dict[str, Any]:
    """The fields that a run with imported weights shares with the other runs of its workdir, and its seed."""
    return shared_identity(config) | {"training": {"normalization": config.training.normalization}, "seed": seed}


def _scored_by(ranking, attack: str, num_subsets: int) -> dict[str, Any]:
    if ranking.by != "attack":
        return {"by": ranking.by}
    # Which images a first-order ranking measures again depends on the edges of the subsets.
    edges = {"num_subsets": num_subsets} if attack == "first_order" else {}
    return {"by": "attack", "attack": attack, attack: ranking[attack]} | edges


def vanilla_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same experiment with one-hot labels: it is ranked, and all methods are compared with it."""
    vanilla = ml_collections.ConfigDict(config.to_dict())
    vanilla.name = "vanilla"
    vanilla.soft_labels.update(num_subsets=1, epsilon=0.0, adaptive=False)
    vanilla.method.name = "cross_entropy"
    vanilla.training.init_from = ""
    vanilla.ensemble.update(members=1, of="", ranks="shared")
    return vanilla


def member_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of the single runs of an ensemble: the config of their own preset."""
    member = ml_collections.ConfigDict(config.to_dict())
    member.name = config.ensemble.of
    member.ensemble.update(members=1, of="")
    return member


def members_of(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, tuple[int, ...]]:
    """The config and the seeds of the single runs that an ensemble averages."""
    seeds = (models.member_seeds(seed, config.ensemble.members) for seed in config.seeds)
    return member_config(config), tuple(member for members in seeds for member in members)


def lockstep_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of an ensemble of single runs as if its members had been trained in lockstep."""
    lockstep = ml_collections.ConfigDict(config.to_dict())
    lockstep.ensemble.of = ""
    return lockstep


WAS = "{field} was {stored} and is now {new}"


def differences(stored: Any, new: Any, line: str = WAS, field: str = "") -> list[str]:
    """`line` for each field that differs between two identities."""
    if isinstance(stored, dict) and isinstance(new, dict):
        keys = sorted(stored.keys() | new.keys())
        nested = (
            differences(stored.get(key, "absent"), new.get(key, "absent"), line, f"{field}.{key}".lstrip("."))
            for key in keys
        )
        return [line for lines in nested for line in lines]
    return [] if stored == new else [line.format(field=field, stored=stored, new=new)]


def json_types(value: Any) -> Any:
    """The value as JSON reads it back: tuples become lists, so that stored and new values compare equal."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    return json.loads(json.dumps(value, default=lambda nested: nested.to_dict()))

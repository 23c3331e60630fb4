"""The ranking job: how far each image of a split is from the decision boundary, in part files that survive a kill."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import jax
import ml_collections
import numpy as np
from etils import epath

from arada import attacks, models
from arada.data.splits import Examples, Split
from arada.errors import UserError
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.identity import ranking_identity, ranking_sources, source_run
from arada.runs.ranks import Ranking
from arada.runtime import backend, files, hosts, lease, preemption
from arada.runtime.progress import Progress
from arada.training import streaming
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)

# The values of `config.ranking.by`: the paper's way, and two controls that rank without an attack.
BY = ("attack", "confidence", "random")
# The splits whose subsets training needs.
TRAINED_ON = ("train", "validation")
# Images that a refined ranking measures although they seem decided, chosen at random: they show what it misses.
AUDIT = 0.02


def attack_step(model, attack: str, settings: Mapping) -> Callable:
    """Builds step(variables, batch) -> {"distance", "predicted"}, each [B], for `Replicas.map`.

    The first-order attack adds its "estimate"; the estimate alone is a "score", because it finds no distance. The
    logits function is built from the step's arguments: new weights never recompile.
    """
    logits_fn = models.logits_fn(model)

    def step(variables, batch):
        images = models.unit_range(batch["image"])
        fixed_logits_fn = functools.partial(logits_fn, variables)
        # As inside the attack: a label found at lower precision could differ, and its distance be 0.
        with jax.default_matmul_precision("float32"):
            predicted = fixed_logits_fn(images).argmax(axis=-1).astype(np.int32)
        if attack == "estimate":
            return {
                "score": attacks.first_order_estimate(fixed_logits_fn, images, predicted, **settings),
                "predicted": predicted,
            }
        if attack == "first_order":
            result, estimate = attacks.first_order(fixed_logits_fn, images, predicted, **settings)
            return {"distance": result.distance, "predicted": predicted, "estimate": estimate}
        return {
            "distance": attacks.BY_NAME[attack](fixed_logits_fn, images, predicted, **settings).distance,
            "predicted": predicted,
        }

    return step


def confidence_step(model) -> Callable:
    """Builds step(variables, batch) -> {"score", "predicted"}: the log-odds of the predicted class, a control.

    They rank like the confidence, but do not saturate at 1 in float32.
    """
    logits_fn = models.logits_fn(model)

    def step(variables, batch):
        with jax.default_matmul_precision("float32"):  # as in attacks
            logits = logits_fn(variables, batch["image"])
        predicted = logits.argmax(axis=-1).astype(np.int32)
        is_predicted = jax.nn.one_hot(predicted, logits.shape[-1], dtype=bool)
        others = jax.nn.logsumexp(logits, axis=-1, where=~is_predicted)
        return {"score": logits.max(axis=-1) - others, "predicted": predicted}

    return step


class Ranker:
    """Ranks splits by an attack or by confidence, compiled once: it works for any weights of `model`.

    `mapped` is the program that scores a batch, `refine` the more expensive attack on undecided images; None if none
    are measured again.
    """

    def __init__(
        self,
        model,
        ranking: ml_collections.ConfigDict,
        *,
        attack: str,
        num_subsets: int,
        batch_size: int,
        replicas: Replicas,
    ):
        self._num_subsets, self._batch_size, self._replicas = num_subsets, batch_size, replicas
        self.refine = None
        if ranking.by == "attack":
            settings = ranking[attack].to_dict()
            refine_steps = settings.pop("refine_steps", 0)
            if refine_steps:
                self.refine = self._map(attack_step(model, "fmn", {"steps": refine_steps}))
            self.mapped = self._map(attack_step(model, attack, settings))
        else:
            self.mapped = self._map(confidence_step(model))
        logger.info("ranking by %s; the first batch compiles", attack if ranking.by == "attack" else ranking.by)

    def rank(self, name: str, variables, split: Examples, directory: epath.Path) -> Ranking:
        """`arada.runs.ranking.rank` with this way of ranking; `variables` are replicated."""
        return rank(
            name,
            self.mapped,
            variables,
            split,
            directory=directory,
            num_subsets=self._num_subsets,
            batch_size=self._batch_size,
            replicas=self._replicas,
            refine=self.refine,
        )

    def _map(self, step):
        return self._replicas.map(step, in_axes=(None, 0), out_axes=0)


def rank_by_sources(
    config: ml_collections.ConfigDict,
    workdir: workdirs.Workdir,
    sources: Sequence[str],
    splits: Mapping[str, Examples],
    replicas: Replicas,
) -> None:
    """Ranks the splits that are not ranked yet by the weights of each run of `sources`, or by a control.

    Raises UserError if a run is missing, unfinished, an ensemble's, or ranked already in another way.
    """
    # All of them first: a missing one is reported before the others are ranked.
    for source in sources:
        check_source(config, workdir, source)
    ranking, model = config.ranking, trained.build_ranked(config)

    @functools.cache  # all sources have one program
    def ranker_with(kernels: str) -> Ranker:
        return Ranker(
            model,
            ranking,
            attack=ranking.attack,
            num_subsets=ranking.num_subsets,
            batch_size=config.run.ranking_batch_size,
            replicas=replicas.using(kernels),
        )

    for source in sources:
        run, directory = source_run(source), workdir.ranking(source, ranking.by, ranking.folder)
        if not run:
            logger.info("rank: using the ranking in %s", directory)
            continue
        if ranking.by == "random":
            workdirs.claim(directory, ranking_identity(config, source), config)
            for name, split in splits.items():
                rank_at_random(name, split, directory=directory, num_subsets=ranking.num_subsets, seed=run[1])
            continue
        # The attacked weights are part of a ranking's identity.
        ranked_by = workdirs.stored(workdir.run(*run))["identity"]
        ranked_by["weights"] = trained.final_fingerprint(workdir.run(*run))
        identity = ranking_identity(config, source) | {"source_run": ranked_by}
        workdirs.check_claim(directory, identity)
        wanted = {name: split for name, split in splits.items() if not (directory / f"{name}.npz").exists()}
        if not wanted:
            workdirs.claim(directory, identity, config)
            logger.info("rank: %s is complete", directory)
            continue
        variables = trained.final_variables(workdir.run(*run))
        if ranking.by == "attack":
            check(model, variables, wanted)
        kernels = workdirs.kernels_to_use(directory, config, replicas.cpu_kernels)
        workdirs.claim(directory, identity, config, kernels)
        variables = replicas.replicate(variables)
        with lease.held(directory), backend.fitting("lower run.ranking_batch_size"):
            for name, split in wanted.items():
                preemption.stop_if_asked(f"ranking {name}")
                ranker_with(kernels).rank(name, variables, split, directory)


def check_source(config: ml_collections.ConfigDict, workdir: workdirs.Workdir, source: str) -> None:
    """Raises UserError if the run `source` is missing, unfinished or an ensemble's, and a ranking needs its weights."""
    run = source_run(source)
    if not run or config.ranking.by == "random":
        return
    source_dir = workdir.run(*run)
    if not (source_dir / "config.json").exists():
        raise UserError(
            f"ranking.source is {config.ranking.source!r}, but there is no run {source_dir}; {_how_to_train(*run)}"
        )
    trained.check_single(source_dir)
    if not trained.is_finished(source_dir, workdirs.stored_config(source_dir)):
        raise UserError(f"{source_dir} has not finished training; run --stage=vanilla first")


def check_ranked(config: ml_collections.ConfigDict, workdir: workdirs.Workdir, seed: int) -> None:
    """Raises UserError, naming the stages to run, if a ranking is missing that a run with `seed` trains on."""
    ranking = config.ranking
    for source in ranking_sources(config, seed):
        directory, run = workdir.ranking(source, ranking.by, ranking.folder), source_run(source)
        missing = [name for name in TRAINED_ON if not (directory / f"{name}.npz").exists()]
        if missing and run and ranking.by != "random" and not (workdir.run(*run) / "config.json").exists():
            raise UserError(
                f"there is no ranking {directory}, and no run {source} to rank by; {_how_to_train(*run)}, then rank by "
                f"--stage=rank"
            )
        if missing:
            raise UserError(
                f"there is no ranking {directory / missing[0]}.npz; make it with --stage=rank, or set ranking.source"
            )


def _how_to_train(name: str, seed: int) -> str:
    if name == "vanilla":
        return "train it by the same command with --stage=vanilla"
    return f"train it by the config of {name} with --stage=train --config.seeds='({seed},)'"


def check(model, variables, splits: Mapping[str, Examples]) -> None:
    """Checks images and classifier before hours are spent: raises UserError, or warns."""
    # The weights are an argument: closed over, 178 MB of a ResNet-101 would be constants of the program.
    logits_fn = functools.partial(jax.jit(models.logits_fn(model)), jax.device_put(variables))
    for name, split in splits.items():
        try:
            if isinstance(split, Split) and split.image.dtype != np.uint8:  # streamed images are uint8
                attacks.check_images(split.image)
            first = next(split.in_order(min(16, len(split))))["image"]
            for warning in attacks.classifier_warnings(logits_fn, models.unit_range(first)):
                logger.warning("ranking %s: %s", name, warning)
        except ValueError as error:
            raise UserError(f"ranking {name}: {error}") from None


def rank(
    name: str,
    mapped: Callable,
    variables,
    split: Examples,
    *,
    directory: epath.Path,
    num_subsets: int,
    batch_size: int,
    replicas: Replicas,
    refine: Callable | None = None,
) -> Ranking:
    """Scores every image of `split` and writes `directory`/`name`.npz; continues where a killed job stopped.

    Each process takes its share of the batches, on its own devices (`replicas`); they only exchange the scores. With
    `refine`, a mapped attack more expensive than `mapped`, the images that `arada.attacks.undecided` names are attacked
    again.
    """
    file = directory / f"{name}.npz"
    if file.exists():
        _delete_parts(directory, name)
        return Ranking.read(file)
    if num_subsets > len(split):
        raise UserError(f"{num_subsets} subsets cannot be made of the {len(split)} images of the {name} split")
    passed = functools.partial(
        _pass, variables=variables, directory=directory / "parts", batch_size=batch_size, replicas=replicas
    )
    ranking = Ranking.of(passed(name, mapped, split=split))
    if refine:
        measure = functools.partial(passed, f"{name}_refined", refine)
        ranking = _refined(name, ranking, split, num_subsets, measure)
    if ranking.kind == "distance":
        _log_failures(name, ranking, num_subsets)
    subset = ranking.subsets(num_subsets)
    if hosts.is_first():
        ranking.write(file, subset)
        _delete_parts(directory, name)
    hosts.wait(f"ranked {file}")  # the next process may read the file
    return ranking


def _delete_parts(directory: epath.Path, name: str) -> None:
    # Parts of another batch size and half-written ones too.
    if hosts.is_first():
        for path in files.matching(directory / "parts", f"{name}_*.npz*"):
            path.unlink()


def rank_at_random(name: str, split: Examples, *, directory: epath.Path, num_subsets: int, seed: int = 0) -> Ranking:
    """A control: random subsets, unrelated to robustness. Writes `directory`/`name`.npz unless it exists."""
    file = directory / f"{name}.npz"
    if file.exists():
        return Ranking.read(file)
    score = np.random.default_rng(seed).random(len(split), np.float32)
    ranking = Ranking(split.example_id, score, "score", label=split.label)
    if hosts.is_first():
        ranking.write(file, ranking.subsets(num_subsets))
    hosts.wait(f"ranked {file}")
    return ranking


def _pass(name, mapped, *, variables, split, directory, batch_size, replicas) -> dict[str, np.ndarray]:
    """mapped(variables, batch) of a whole split, batch by batch into part files; finished parts are not computed
    again.
    """
    # The batch size is part of the name: a job with another batch size starts again.
    path_of = [directory / f"{name}_{batch_size}_{number:06}.npz" for number in range(-(-len(split) // batch_size))]
    mine = streaming.own_batches(len(path_of))
    missing = [number for number in mine if not path_of[number].exists()]
    there = len(mine) - len(missing)
    progress = Progress(f"ranking {name}", "batch", len(mine), batch_size * jax.process_count())
    finished = f", {there} of {len(mine)} batches are finished" if there else ""
    logger.info("ranking %s: %d images%s", name, len(split), finished)
    stream = streaming.batches_over(mapped, variables, split, batch_size=batch_size, replicas=replicas, batches=missing)
    for done, (number, part) in enumerate(zip(missing, stream, strict=True), start=there + 1):
        lease.check()
        files.write_npz(path_of[number], part)
        progress.update(done)
        if done < len(mine):
            preemption.stop_if_asked(f"batch {done + 1} of {len(mine)} of ranking {name}")
    parts = [files.read_npz(path_of[number]) for number in mine]
    if not parts:  # see `streaming.map_split`
        parts = list(
            streaming.batches_over(mapped, variables, split, batch_size=batch_size, replicas=replicas, batches=[0])
        )
    return streaming.joined(parts, split, batch_size)


def _refined(name: str, cheap: Ranking, split: Examples, num_subsets: int, measure: Callable) -> Ranking:
    """Measures undecided images again, and some others to check how far the rest can be trusted."""
    undecided = attacks.undecided(cheap.estimate, cheap.score, num_subsets)  # type: ignore[arg-type]
    audited = ~undecided & (np.random.default_rng(0).random(len(split)) < AUDIT)
    again = undecided | audited
    measured = np.full(len(split), np.nan, np.float32)
    if again.any():
        measured[again] = measure(split=split.take(np.flatnonzero(again)))["distance"]
    distance = attacks.refined(cheap.score, measured)
    logger.info("ranking %s: %.1f %% of the images were attacked again", name, 100 * np.mean(again))
    if audited.any():
        expected = attacks.refined(cheap.score, np.where(audited, np.nan, measured))
        same = attacks.equal_subsets(expected, num_subsets) == attacks.equal_subsets(distance, num_subsets)
        logger.info(
            "ranking %s: audit of %d images that were not in doubt: %.1f %% keep their subset",
            name,
            audited.sum(),
            100 * np.mean(same[audited]),
        )
    return dataclasses.replace(cheap, score=distance, refined=again)


def _log_failures(name: str, ranking: Ranking, num_subsets: int) -> None:
    failed = int(np.isinf(ranking.score).sum())
    success = 100 * (1 - failed / len(ranking))
    logger.info("ranking %s: %.1f %% success, median distance %.4f", name, success, np.median(ranking.score))
    if failed > len(ranking) / num_subsets:
        logger.warning(
            "ranking %s: the attack failed on %d of %d images, more than a subset holds: the order among the most "
            "robust subsets is arbitrary",
            name,
            failed,
            len(ranking),
        )

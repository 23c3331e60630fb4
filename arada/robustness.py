"""The ranking job: how far each image of a split is from the decision boundary, in part files that survive a kill."""

import functools
import logging
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np
from etils import epath

from arada import attacks, files, models, streaming
from arada.data.splits import Split
from arada.errors import UserError
from arada.training.progress import Progress
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)


def attack_step(model, attack: str, settings: ml_collections.ConfigDict) -> Callable:
    """Builds step(variables, batch) -> {"distance", "predicted"}, each [B], for `Replicas.map`.

    The logits function is made of the step's arguments: new weights never recompile.
    """
    logits_fn = models.logits_fn(model)
    run = functools.partial(attacks.BY_NAME[attack], **settings)

    def step(variables, batch):
        images = models.unit_range(batch["image"])
        of_images = functools.partial(logits_fn, variables)
        # As inside the attack: a label found at lower precision could differ, and its distance be 0.
        with jax.default_matmul_precision("float32"):
            predicted = of_images(images).argmax(axis=-1).astype(np.int32)
        return {"distance": run(of_images, images, predicted).distance, "predicted": predicted}

    return step


def check(model, variables, splits: Mapping[str, Split]) -> None:
    """Looks at images and classifier before hours are spent: raises UserError, or warns."""
    of_images = jax.jit(functools.partial(models.logits_fn(model), variables))
    for name, split in splits.items():
        try:
            if split.image.dtype != np.uint8:
                attacks.check_images(split.image)
            for warning in attacks.classifier_warnings(of_images, models.unit_range(split.image[:16])):
                logger.warning("ranking %s: %s", name, warning)
        except ValueError as error:
            raise UserError(f"ranking {name}: {error}") from None


def rank(
    name: str,
    mapped: Callable,
    variables,
    split: Split,
    *,
    directory: epath.Path,
    num_subsets: int,
    batch_size: int,
    replicas: Replicas,
) -> dict[str, np.ndarray]:
    """Attacks every image of `split` and writes `directory`/`name`.npz; goes on where a killed job stopped.

    Returns the file's arrays: example_id, distance, subset (0 = least robust), label, predicted.
    """
    file = directory / f"{name}.npz"
    if file.exists():
        return files.read_npz(file)
    if num_subsets > len(split):
        raise UserError(f"ranking.num_subsets is {num_subsets}, but the {name} split has {len(split)} images")
    parts = directory / "parts"
    # The batch size is part of the name: a job that goes on with another one starts anew.
    path_of = [parts / f"{name}_{batch_size}_{number:06}.npz" for number in range(-(-len(split) // batch_size))]
    done = next((number for number, path in enumerate(path_of) if not path.exists()), len(path_of))
    progress = Progress(f"ranking {name}", "batch", len(path_of), batch_size)
    there = f", {done} batches are there" if done else ""
    logger.info("ranking %s: %d images%s; the first batch compiles", name, len(split), there)
    stream = streaming.batches_over(mapped, variables, split, batch_size=batch_size, replicas=replicas, first=done)
    for number, part in enumerate(stream, start=done):
        files.write_npz(path_of[number], part)
        progress.update(number + 1)
    whole = streaming.joined([files.read_npz(path) for path in path_of], split)
    failed = int(np.isinf(whole["distance"]).sum())
    logger.info(
        "ranking %s: %.1f %% success, median distance %.4f",
        name,
        100 * (1 - failed / len(split)),
        np.median(whole["distance"]),
    )
    if failed > len(split) / num_subsets:
        logger.warning(
            "ranking %s: the attack failed on %d of %d images, more than a subset holds: the order among the most "
            "robust subsets is arbitrary",
            name,
            failed,
            len(split),
        )
    whole["subset"] = attacks.equal_subsets(whole["distance"], num_subsets)
    files.write_npz(file, whole)
    # Those of another batch size and the half-written too.
    for path in parts.glob(f"{name}_*.npz*"):
        path.unlink()
    return whole


def subsets(directory: epath.Path, name: str, split: Split, num_subsets: int) -> np.ndarray:
    """The subset int32[N] of each example of `split`, from a ranking's file. Raises UserError unless ids match."""
    file = directory / f"{name}.npz"
    if not file.exists():
        raise UserError(f"there is no ranking {file}; make it with --stage=rank, or set ranking.source")
    ranking = files.read_npz(file)
    order = np.argsort(ranking["example_id"])
    if not np.array_equal(ranking["example_id"][order], split.example_id):
        raise UserError(f"ranking.source: {file} ranks other images than those of the {name} split")
    return attacks.equal_subsets(ranking["distance"][order], num_subsets)

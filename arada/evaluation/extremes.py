"""The training images that are easiest and hardest to attack, with their adversarial images, for the report."""

import json
import logging
import zipfile
import zlib

import jax
import ml_collections
import numpy as np
from etils import epath

from arada import attacks, models
from arada.data import Dataset
from arada.data.splits import Examples
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.identity import ranking_sources, source_run
from arada.runs.ranks import Ranking
from arada.runtime import files
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)

# The number of least robust and of most robust images of a class, and the largest number of classes.
EACH, CLASSES = 3, 10


def attack_step(model, attack: str, settings: dict):
    """Builds step(variables, batch) -> {"adversarial" [B, H, W, C], and "predicted_after", "confidence",
    "confidence_after" [B]}.

    The attack starts from the batch's "predicted", the predictions that the ranking found.
    """
    logits_fn = models.logits_fn(model)

    def step(variables, batch):
        def logits(images):
            return logits_fn(variables, images)

        images = models.unit_range(batch["image"])
        adversarial = attacks.BY_NAME[attack](logits, images, batch["predicted"], **settings).adversarial
        with jax.default_matmul_precision("float32"):
            before, after = (jax.nn.softmax(logits(x)) for x in (images, adversarial))
        return {
            "adversarial": adversarial,
            "predicted_after": after.argmax(axis=-1).astype(np.int32),
            "confidence": before.max(axis=-1),
            "confidence_after": after.max(axis=-1),
        }

    return step


def chosen(label: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Positions of ranked images, ascending: each class's least and most robust images with an adversarial example.

    With more than CLASSES classes, evenly spaced ones are taken.
    """
    labels = np.unique(label)
    labels = labels[np.linspace(0, len(labels) - 1, min(CLASSES, len(labels))).round().astype(int)]
    order = np.argsort(distance, kind="stable")
    order = order[np.isfinite(distance[order])]
    by_class = (order[label[order] == one] for one in labels)
    ends = (rows if len(rows) <= 2 * EACH else np.concatenate([rows[:EACH], rows[-EACH:]]) for rows in by_class)
    return np.sort(np.concatenate([*ends, np.zeros(0, int)]))


def write(
    workdir: workdirs.Workdir,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    train: Examples,
    replicas: Replicas,
) -> epath.Path | None:
    """Attacks at most 60 images as the ranking did and writes DIR/gallery.npz, if it is missing; returns its path.

    Its arrays, by ascending example id: example_id, label, predicted and predicted_after int32[K], rank (0 is the
    least robust of the num_ranked training images) int32[K], distance, confidence and confidence_after float32[K],
    image in the data set's dtype and adversarial float32 [K, H, W, C]; class_names, if the data set has any.

    Returns None without a ranking by an attack on one network of this workdir.
    """
    file, source = workdir.path / "gallery.npz", ranking_sources(config, config.seeds[0])[0]
    directory = workdir.ranking(source)
    if not source_run(source) or not (directory / "train.npz").exists():
        logger.info("gallery: not made, because %s is not a ranking of this workdir", directory)
        return None
    identity = workdirs.stored(directory)["identity"]
    ranking = Ranking.read(directory / "train.npz", labelled=True)
    made_from = _fingerprint(identity, ranking)
    if _made_from(file) == made_from:
        return file
    run_dir = workdir.path / "runs" / source
    if not (run_dir / "config.json").exists() or not trained.is_finished(run_dir, workdirs.stored_config(run_dir)):
        logger.info("gallery: not made, because the weights of %s are missing", run_dir)
        return None
    label, predicted = np.asarray(ranking.label), np.asarray(ranking.predicted)
    rows = chosen(label, ranking.score)
    if not len(rows):
        logger.info("gallery: not made, because the attack found no adversarial examples")
        return None
    # A ranking and its split have the same order, by id.
    images = train.take(rows)
    attack = identity["ranking"]["attack"]
    settings = {key: value for key, value in identity["ranking"][attack].items() if key != "refine_steps"}
    logger.info("gallery: attacking %d images", len(images))
    variables = replicas.replicate(trained.final_variables(run_dir))
    mapped = replicas.map(attack_step(trained.build_ranked(config), attack, settings), in_axes=(None, 0), out_axes=0)
    # One batch for all devices.
    size = -(-len(images) // len(replicas)) * len(replicas)
    batch = next(images.in_order(size))
    padded = predicted[np.pad(rows, (0, size - len(rows)), mode="edge")]
    attacked = replicas.fetch(mapped(variables, {"image": batch["image"], "predicted": padded}))
    rank = np.empty(len(ranking), np.int32)
    rank[np.argsort(ranking.score, kind="stable")] = np.arange(len(rank), dtype=np.int32)
    names = dataset.class_names()
    if jax.process_index():
        return file
    files.write_npz(
        file,
        {"example_id": images.example_id, "label": label[rows], "predicted": predicted[rows]}
        | {"distance": ranking.score[rows]}
        | {key: value[: len(images)] for key, value in ({"image": batch["image"]} | attacked).items()}
        | {"rank": rank[rows], "num_ranked": np.int32(len(rank)), "made_from": np.array(made_from)}
        | ({"class_names": np.array(names)} if names else {}),
    )
    return file


def _made_from(file: epath.Path) -> str:
    """The fingerprint in a gallery.npz; "" if the file or the fingerprint is missing or broken."""
    try:
        return str(files.read_npz(file)["made_from"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return ""


def _fingerprint(identity: dict, ranking: Ranking) -> str:
    """Identifies a ranking by its identity and its distances."""
    text = json.dumps(identity, sort_keys=True).encode()
    return f"{zlib.crc32(np.ascontiguousarray(ranking.score), zlib.crc32(text)):08x}"  # type: ignore[arg-type]

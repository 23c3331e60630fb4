"""The training images that are easiest and hardest to attack, with what the attack makes of them, for the report."""

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
from arada.runtime import files
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)

# Of each class so many of the least and so many of the most robust, of at most so many classes.
EACH, CLASSES = 3, 10


def attack_step(model, attack: str, settings: dict):
    """Builds step(variables, batch) -> {"adversarial" [B, H, W, C], "after", "confidence", "confidence_after" [B]}.

    The batch's "predicted" are the labels to get away from, those that the ranking found.
    """
    logits_fn = models.logits_fn(model)

    def step(variables, batch):
        def of_images(images):
            return logits_fn(variables, images)

        images = models.unit_range(batch["image"])
        adversarial = attacks.BY_NAME[attack](of_images, images, batch["predicted"], **settings).adversarial
        with jax.default_matmul_precision("float32"):
            before, after = (jax.nn.softmax(of_images(x)) for x in (images, adversarial))
        return {
            "adversarial": adversarial,
            "predicted_after": after.argmax(axis=-1).astype(np.int32),
            "confidence": before.max(axis=-1),
            "confidence_after": after.max(axis=-1),
        }

    return step


def chosen(ranking: dict[str, np.ndarray]) -> np.ndarray:
    """Positions in a ranking, ascending: of each class the least and the most robust with an adversarial example.

    Of many classes some are taken, evenly over their numbers.
    """
    labels = np.unique(ranking["label"])
    labels = labels[np.linspace(0, len(labels) - 1, min(CLASSES, len(labels))).round().astype(int)]
    order = np.argsort(ranking["distance"], kind="stable")
    order = order[np.isfinite(ranking["distance"][order])]
    by_class = (order[ranking["label"][order] == label] for label in labels)
    picked = (of if len(of) <= 2 * EACH else np.concatenate([of[:EACH], of[-EACH:]]) for of in by_class)
    return np.sort(np.concatenate([*picked, np.zeros(0, int)]))


def write(
    workdir: workdirs.Workdir,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    train: Examples,
    replicas: Replicas,
) -> epath.Path | None:
    """Writes DIR/gallery.npz by attacking at most 60 images as the ranking did, unless it is there; returns its path.

    Its arrays, by ascending example id: example_id, label, predicted and predicted_after int32[K], rank (0 is the
    least robust of the num_ranked training images) int32[K], distance, confidence and confidence_after float32[K],
    image as the data set has it and adversarial float32 [K, H, W, C]; class_names, if the data set has any.

    None without a ranking by an attack on one network of this workdir.
    """
    file, source = workdir.path / "gallery.npz", ranking_sources(config, config.seeds[0])[0]
    directory = workdir.ranking(source)
    if not source_run(source) or not (directory / "train.npz").exists():
        logger.info("gallery: not made, because %s is not a ranking of this workdir", directory)
        return None
    of_ranking, ranking = workdirs.stored(directory)["identity"], files.read_npz(directory / "train.npz")
    made_from = _fingerprint(of_ranking, ranking)
    if _made_from(file) == made_from:
        return file
    run_dir = workdir.path / "runs" / source
    if not (run_dir / "config.json").exists() or not trained.is_finished(run_dir, workdirs.stored_config(run_dir)):
        logger.info("gallery: not made, because the weights of %s are gone", run_dir)
        return None
    at = chosen(ranking)
    if not len(at):
        logger.info("gallery: not made, because the attack found nothing")
        return None
    # A ranking and its split are in the same order, by id.
    some, few = train.take(at), {key: ranking[key][at] for key in ("example_id", "label", "predicted", "distance")}
    attack = of_ranking["ranking"]["attack"]
    settings = {key: value for key, value in of_ranking["ranking"][attack].items() if key != "refine_steps"}
    logger.info("gallery: attacking %d images", len(some))
    variables = replicas.replicate(trained.final_variables(run_dir))
    mapped = replicas.map(attack_step(trained.build_ranked(config), attack, settings), in_axes=(None, 0), out_axes=0)
    # One batch that all devices share.
    size = -(-len(some) // len(replicas)) * len(replicas)
    batch = next(some.in_order(size))
    predicted = np.concatenate([few["predicted"], np.repeat(few["predicted"][-1:], size - len(some))])
    attacked = replicas.fetch(mapped(variables, {"image": batch["image"], "predicted": predicted}))
    rank = np.empty(len(ranking["distance"]), np.int32)
    rank[np.argsort(ranking["distance"], kind="stable")] = np.arange(len(rank), dtype=np.int32)
    names = dataset.class_names()
    if jax.process_index():
        return file
    files.write_npz(
        file,
        few
        | {key: value[: len(some)] for key, value in ({"image": batch["image"]} | attacked).items()}
        | {"rank": rank[at], "num_ranked": np.int32(len(rank)), "made_from": np.array(made_from)}
        | ({"class_names": np.array(names)} if names else {}),
    )
    return file


def _made_from(file: epath.Path) -> str:
    """The fingerprint in a gallery.npz; "" without one that can be read."""
    try:
        return str(files.read_npz(file)["made_from"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return ""


def _fingerprint(identity: dict, ranking: dict[str, np.ndarray]) -> str:
    """Tells one ranking from another by what made it and by its distances."""
    text = json.dumps(identity, sort_keys=True).encode()
    return f"{zlib.crc32(np.ascontiguousarray(ranking['distance']), zlib.crc32(text)):08x}"  # type: ignore[arg-type]

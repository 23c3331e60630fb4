import logging

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from arada.attacks import equal_subsets
from arada.data.splits import Split
from arada.errors import UserError
from arada.runs import ranking as rankings
from arada.runs.ranks import Ranking, stored_subsets
from arada.runtime import files, preemption
from arada.training.replication import Replicas

COUNT, BATCH = 18, 4  # five batches, the last of them half full
IDS = np.arange(100, 100 + 3 * COUNT, 3, dtype=np.int32)
VARIABLES = np.float32(2)


def split_of(image):
    return Split(image, np.arange(COUNT, dtype=np.int32) % 3, IDS)


@pytest.fixture
def split():
    """Images whose first pixel decides their distance; in no order, and some are equal."""
    rng = np.random.default_rng(0)
    return split_of(rng.choice(np.linspace(0.1, 0.9, 9), (COUNT, 2, 2, 1)).astype(np.float32))


class Linear:
    """A classifier of three classes with the interface of a flax module; counts how often it is traced or called."""

    def __init__(self, output=lambda logits: logits):
        self.calls = 0
        self._output = output

    def apply(self, weights, images, train):
        assert not train
        self.calls += 1
        return self._output(images.reshape(len(images), -1) @ weights["params"]["kernel"])

    @staticmethod
    def variables(seed=0):
        kernel = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
        normalization = {"mean": np.full(1, 0.5, np.float32), "scale": np.ones(1, np.float32)}
        return {"params": {"kernel": kernel}, "batch_stats": {}, "normalization": normalization}


def ranking_on(devices):
    """(replicas, mapped): twice the first pixel for a distance, infinite from 1.5 on; 7 for a prediction."""
    replicas = Replicas(jax.devices()[:devices])

    def step(variables, batch):
        distance = variables * batch["image"][:, 0, 0, 0]
        return {
            "distance": jnp.where(distance < 1.5, distance, jnp.inf),
            "predicted": jnp.full(len(distance), 7, jnp.int32),
        }

    return replicas, replicas.map(step, in_axes=(None, 0), out_axes=0)


@pytest.fixture(scope="module")
def ranking():
    """Of one device and of two."""
    return {devices: ranking_on(devices) for devices in (1, 2)}


@pytest.fixture
def rank(ranking, split, tmp_path):
    """Ranks `split` in a folder of that name; the ids of the batches it attacked are in `rank.attacked`."""

    def run(
        folder="whole",
        batch_size=BATCH,
        num_subsets=3,
        dies_after=None,
        asked_at=None,
        name="train",
        devices=1,
        **changed,
    ):
        replicas, mapped = ranking[devices]

        def counted(variables, batch):
            if len(run.attacked) == dies_after:
                raise KeyboardInterrupt
            if len(run.attacked) == asked_at:
                preemption._ask(None, None)
            run.attacked.append(batch["example_id"][0])
            return mapped(variables, batch)

        run.attacked = []
        of = {"variables": VARIABLES, "split": split, **changed}
        return rankings.rank(
            name,
            counted,
            directory=tmp_path / folder,
            num_subsets=num_subsets,
            batch_size=batch_size,
            replicas=replicas,
            **of,
        )

    return run


def parts_in(folder):
    return sorted(path.name for path in folder.rglob("*_*.npz*"))


def assert_same(actual, expected):
    """Two rankings hold the same numbers of the same type."""
    actual, expected = vars(actual), vars(expected)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert np.asarray(actual[key]).dtype == np.asarray(value).dtype
        np.testing.assert_array_equal(actual[key], value, err_msg=key)


def test_a_ranking_holds_every_image_once(rank, split, tmp_path):
    whole = rank()
    distance = 2 * split.image[:, 0, 0, 0]
    distance = np.where(distance < 1.5, distance, np.float32(np.inf))
    expected = Ranking(IDS, distance, "distance", label=split.label, predicted=np.full(COUNT, 7, np.int32))
    assert_same(whole, expected)
    written = files.read_npz(tmp_path / "whole" / "train.npz")
    assert written.keys() == {"example_id", "label", "predicted", "distance", "subset"}
    np.testing.assert_array_equal(written["subset"], equal_subsets(distance, 3))
    assert_same(Ranking.read(tmp_path / "whole" / "train.npz"), expected)
    assert parts_in(tmp_path) == []
    assert rank.attacked == [IDS[0], IDS[4], IDS[8], IDS[12], IDS[16]]


@pytest.mark.parametrize("dies_after", range(5))
def test_a_ranking_goes_on_where_it_stopped(rank, tmp_path, dies_after):
    with pytest.raises(KeyboardInterrupt):
        rank("stopped", dies_after=dies_after)
    # One batch is always under way.
    done = max(dies_after - 1, 0)
    assert parts_in(tmp_path) == [f"train_4_{number:06}.npz" for number in range(done)]
    assert not (tmp_path / "stopped" / "train.npz").exists()
    resumed = rank("stopped")
    assert rank.attacked == list(IDS[4 * done :: 4])
    assert_same(resumed, rank())
    assert parts_in(tmp_path) == []


@pytest.mark.parametrize("asked_at", range(5))
def test_a_ranking_that_is_asked_to_stop_keeps_its_batches(rank, tmp_path, asked_at):
    done = max(asked_at, 1)
    with pytest.raises(preemption.Stopped, match=f"before batch {done + 1} of 5 of ranking train; .* continues there"):
        rank("stopped", asked_at=asked_at)
    preemption._asked.clear()
    assert parts_in(tmp_path) == [f"train_4_{number:06}.npz" for number in range(done)]
    resumed = rank("stopped")
    assert rank.attacked == list(IDS[4 * done :: 4])
    assert_same(resumed, rank())


def test_a_ranking_that_died_before_its_last_file_attacks_nothing_again(rank, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(rankings.attacks, "equal_subsets", None)
        with pytest.raises(TypeError):
            rank("stopped")
    resumed = rank("stopped")
    assert rank.attacked == []
    assert_same(resumed, rank())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_ranking_goes_on_with_another_number_of_devices(rank, tmp_path, before, after):
    with pytest.raises(KeyboardInterrupt):
        rank("stopped", dies_after=2, devices=before)
    done = before  # the batches of one pass; those of the second are under way
    assert parts_in(tmp_path) == [f"train_4_{number:06}.npz" for number in range(done)]
    resumed = rank("stopped", devices=after)
    assert rank.attacked == list(IDS[4 * done :: 4 * after])
    assert_same(resumed, rank())


def test_another_batch_size_starts_again(rank, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rank("stopped", dies_after=4)
    # What a kill in the middle of writing leaves.
    (tmp_path / "stopped" / "parts" / "train_4_000003.npz.0123.new").write_bytes(b"half")
    resumed = rank("stopped", batch_size=6)
    assert rank.attacked == [IDS[0], IDS[6], IDS[12]]
    assert_same(resumed, rank())
    assert parts_in(tmp_path) == []


def test_the_parts_of_another_split_are_left_alone(rank, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rank("shared", dies_after=2, name="validation")
    rank("shared", name="train")
    assert parts_in(tmp_path) == ["validation_4_000000.npz"]


def test_a_finished_ranking_is_read(rank):
    whole = rank()
    assert_same(rank(), whole)
    assert rank.attacked == []


def test_failures_sort_as_most_robust_by_id(rank, split):
    image = split.image.copy()
    image[:, 0, 0, 0] = np.linspace(0.7, 0.1, COUNT)
    image[[3, 0, 9, 7], 0, 0, 0] = 0.8
    whole = rank(split=split_of(image), num_subsets=9)
    np.testing.assert_array_equal(np.isinf(whole.score).nonzero()[0], [0, 3, 7, 9])
    np.testing.assert_array_equal(whole.subsets(9)[[0, 3, 7, 9]], [7, 7, 8, 8])
    # The others fall from 1.4 with the position: the last two are the least robust.
    np.testing.assert_array_equal(whole.subsets(9)[[17, 16, 15, 1]], [0, 0, 1, 6])


def test_more_subsets_than_images_are_refused_before_the_attack(rank):
    with pytest.raises(UserError, match=r"19 subsets cannot be made of the 18 images of the train split"):
        rank(num_subsets=19)
    assert rank.attacked == []


@pytest.mark.parametrize(("failures", "warns"), [(6, False), (7, True)])
def test_more_failures_than_a_subset_holds_are_warned_of(rank, split, caplog, failures, warns):
    image = split.image.copy()
    image[:, 0, 0, 0] = np.linspace(0.1, 0.7, COUNT)
    image[:failures, 0, 0, 0] = 0.8
    with caplog.at_level(logging.INFO, logger="arada"):
        rank(split=split_of(image), num_subsets=3)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    expected = "ranking train: the attack failed on 7 of 18 images, more than a subset holds: "
    assert [message.startswith(expected) for message in warned] == [True] * warns
    assert f"ranking train: {100 * (18 - failures) / 18:.1f} % success" in caplog.text


@pytest.mark.parametrize(
    ("low", "high", "reach"), [(0, 255, "0 to 255"), (-0.5, 0.5, "-0.5 to 0.5"), (0, np.nan, "nan to nan")]
)
def test_images_out_of_range_are_refused(low, high, reach):
    image = np.full((COUNT, 2, 2, 1), 0.25, np.float32)
    # The last ones: not only those on which the classifier is tried.
    image[-2], image[-1, 0, 0] = low, high
    model = Linear()
    with pytest.raises(UserError, match=rf"ranking validation: attacks take float images in \[0, 1\].* from {reach}"):
        rankings.check(model, Linear.variables(), {"validation": split_of(image)})
    assert model.calls == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_fit_classifier_is_not_remarked_on(split, caplog, dtype):
    image = (split.image * 255).astype(np.uint8) if dtype == np.uint8 else split.image
    rankings.check(Linear(), Linear.variables(), {"train": split_of(image)})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("output", "remark"),
    [
        (jax.nn.softmax, "ranking train: the classifier seems to return probabilities"),
        (
            lambda logits: 0 * logits + jnp.arange(3.0),
            "ranking train: the classifier gives every image the same output",
        ),
    ],
    ids=["probabilities", "constant"],
)
def test_a_classifier_unfit_for_attacks_is_named(split, caplog, output, remark):
    with caplog.at_level(logging.WARNING, logger="arada"):
        rankings.check(Linear(output), Linear.variables(), {"train": split})
    assert remark in caplog.text


def test_a_classifier_of_nan_is_refused(split):
    with pytest.raises(UserError, match="ranking test: the classifier returns NaN or infinity; check"):
        rankings.check(Linear(lambda logits: logits * jnp.nan), Linear.variables(), {"test": split})


def test_new_weights_do_not_compile_again(split):
    model, replicas = Linear(), Replicas(jax.devices()[:2])
    settings = ml_collections.ConfigDict({"steps": 2, "passes": 4})
    mapped = replicas.map(rankings.attack_step(model, "fmn", settings), in_axes=(None, 0), out_axes=0)
    (batch,) = split.in_order(COUNT)
    found = []
    for seed in (0, 1):
        variables = Linear.variables(seed)
        outputs = replicas.fetch(mapped(replicas.replicate(variables), batch))
        kernel = variables["params"]["kernel"]
        logits = (batch["image"].reshape(COUNT, -1) - 0.5) @ kernel
        np.testing.assert_array_equal(outputs["predicted"], logits.argmax(axis=-1))
        assert outputs["predicted"].dtype == np.int32
        # The nearest boundary of a linear classifier; corners of the box may lie in between.
        label = logits.argmax(axis=-1)
        gap = np.take_along_axis(logits, label[:, None], 1) - logits
        norm = np.linalg.norm(kernel.T[label][:, None] - kernel.T[None], axis=-1)
        nearest = np.min(np.where(gap > 0, gap / np.where(norm > 0, norm, 1), np.inf), axis=-1)
        assert np.all(outputs["distance"] > 0.999 * nearest)
        found.append(outputs["distance"])
        if seed == 0:
            traced = model.calls
    assert traced > 0
    assert model.calls == traced
    assert not np.array_equal(*found)


def test_what_the_first_order_leaves_in_doubt_is_measured_again(rank, ranking, split, tmp_path, caplog):
    """A cheap attack that is half a pixel value too far on every third image, and knows it from its estimate."""
    replicas, exact = ranking[1]
    again = []

    def cheap(variables, batch):
        first = batch["image"][:, 0, 0, 0]
        return {"distance": 2 * first + (batch["example_id"] % 9 == 1), "predicted": batch["label"], "estimate": first}

    def dear(variables, batch):
        again.extend(batch["example_id"][batch["mask"]])
        return exact(variables, batch)

    image = np.tile(np.linspace(0.1, 0.7, COUNT, dtype=np.float32)[:, None, None, None], (1, 2, 2, 1))
    mapped = replicas.map(cheap, in_axes=(None, 0), out_axes=0)
    settings = {"directory": tmp_path, "num_subsets": 3, "batch_size": BATCH, "replicas": replicas}
    with caplog.at_level(logging.INFO, logger="arada"):
        whole = rankings.rank("train", mapped, VARIABLES, split_of(image), refine=dear, **settings)
    estimate, distance = image[:, 0, 0, 0], 2 * image[:, 0, 0, 0] + (IDS % 9 == 1)
    in_doubt = equal_subsets(estimate, 3) != equal_subsets(distance, 3)
    assert 0 < in_doubt.sum() < COUNT
    np.testing.assert_array_equal(again, IDS[whole.refined])
    assert np.all(whole.refined[in_doubt])
    np.testing.assert_allclose(whole.score[whole.refined], 2 * estimate[whole.refined], rtol=1e-6)
    assert f"{100 * np.mean(whole.refined):.1f} % of the images were attacked again" in caplog.text
    assert_same(Ranking.read(tmp_path / "train.npz"), whole)
    assert parts_in(tmp_path) == []


def ranker(model, by="attack", attack="", **settings):
    fields = ml_collections.ConfigDict({"by": by, **({attack: settings} if attack else {})})
    replicas = Replicas(jax.devices()[:2])
    return rankings.Ranker(model, fields, attack=attack, num_subsets=3, batch_size=BATCH, replicas=replicas)


def test_the_estimate_alone_is_a_score_for_no_distance_was_found(split, tmp_path):
    whole = ranker(Linear(), attack="estimate", candidates=2).rank("train", Linear.variables(), split, tmp_path)
    assert whole.kind == "score"
    found = ranker(Linear(), attack="first_order", candidates=2).rank("validation", Linear.variables(), split, tmp_path)
    np.testing.assert_array_equal(whole.score, found.estimate)
    np.testing.assert_array_equal(whole.subsets(3), equal_subsets(found.estimate, 3))
    assert_same(Ranking.read(tmp_path / "train.npz"), whole)


def test_a_linear_network_is_never_in_doubt(split, tmp_path, monkeypatch):
    """Its first-order estimate is exact, to the rest of a bisection: no image is measured but those of the audit."""
    # So many images that some are audited, none of them at an edge.
    monkeypatch.setattr(rankings, "AUDIT", 0.3)
    cheap = ranker(Linear(), attack="first_order", candidates=2, refine_steps=10)
    whole = cheap.rank("train", Linear.variables(), split, tmp_path)
    kernel = Linear.variables()["params"]["kernel"]
    logits = (split.image.reshape(COUNT, -1) - 0.5) @ kernel
    label = logits.argmax(axis=-1)
    gap = np.take_along_axis(logits, label[:, None], 1) - logits
    norm = np.linalg.norm(kernel.T[label][:, None] - kernel.T[None], axis=-1)
    nearest = np.min(np.where(gap > 0, gap / np.where(norm > 0, norm, 1), np.inf), axis=-1)
    np.testing.assert_allclose(whole.estimate, nearest, rtol=1e-4)
    np.testing.assert_array_equal(whole.predicted, label)
    audited = np.random.default_rng(0).random(COUNT) < 0.3
    assert 0 < audited.sum() < COUNT
    np.testing.assert_array_equal(whole.refined, audited)
    np.testing.assert_array_equal(whole.subsets(3), equal_subsets(nearest, 3))


def test_what_a_kill_left_of_a_finished_ranking_is_tidied(rank, tmp_path):
    rank()
    files.write_npz(tmp_path / "whole" / "parts" / "train_4_000000.npz", {"distance": IDS})
    rank()
    assert parts_in(tmp_path) == []


def test_the_confidence_control_orders_what_float32_cannot(split, tmp_path):
    """Logits so far apart that every confidence is 1 in float32: log-odds still tell them apart."""
    model = Linear(lambda logits: 200 * logits)
    whole = ranker(model, by="confidence").rank("train", Linear.variables(), split, tmp_path)
    logits = 200 * np.float64((split.image.reshape(COUNT, -1) - 0.5) @ Linear.variables()["params"]["kernel"])
    top = logits.max(axis=-1, keepdims=True)
    wrong = np.sum(np.where(logits == top, 0, np.exp(logits - top)), axis=-1)
    assert np.mean(np.float32(1 / (1 + wrong)) == 1) > 0.5
    np.testing.assert_allclose(whole.score, -np.log(wrong), rtol=1e-4)
    np.testing.assert_array_equal(whole.subsets(3), equal_subsets(-np.log(wrong), 3))
    assert whole.kind == "score"


def test_the_random_control_says_nothing_of_the_images(split, tmp_path):
    whole = rankings.rank_at_random("train", split, directory=tmp_path / "one", num_subsets=3)
    again = rankings.rank_at_random("train", split_of(1 - split.image), directory=tmp_path / "two", num_subsets=3)
    assert_same(again, whole)
    np.testing.assert_array_equal(np.bincount(whole.subsets(3)), [6, 6, 6])
    assert not np.array_equal(whole.subsets(3), np.sort(whole.subsets(3)))
    np.testing.assert_array_equal(stored_subsets(tmp_path / "one", "train", split, 3), whole.subsets(3))

import dataclasses

import numpy as np
import pytest

from arada.data.splits import Share, Split, empty_moments, moments, partition


def split_of(count, *, first_id=0, dtype=np.uint8):
    """Examples whose pixels and labels tell their ids."""
    example_id = np.arange(first_id, first_id + 3 * count, 3, dtype=np.int32)
    image = np.broadcast_to(example_id[:, None, None, None], (count, 2, 3, 1)).astype(dtype)
    return Split(image, example_id % 7, example_id)


def ids(batches):
    return [batch["example_id"].tolist() for batch in batches]


def assert_same_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_order_is_a_function_of_seed_and_epoch():
    split = split_of(24)
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    first = list(split.epoch(4, seed=3, epoch=5))
    np.random.seed(2)  # noqa: NPY002
    assert_same_batches(list(split_of(24).epoch(4, seed=3, epoch=5)), first)
    orders = [np.concatenate(ids(split.epoch(4, seed=seed, epoch=epoch))) for seed, epoch in ((3, 5), (3, 6), (4, 5))]
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert set(order) == set(split.example_id)
        assert np.any(np.diff(order) < 0)


def test_order_does_not_depend_on_the_batch_size():
    split = split_of(24)
    by_4, by_8 = (np.concatenate(ids(split.epoch(size, seed=0, epoch=1))) for size in (4, 8))
    np.testing.assert_array_equal(by_4, by_8)


@pytest.mark.parametrize("skip", range(7))
def test_skip_goes_on_mid_epoch(skip):
    split = split_of(26)
    whole = list(split.epoch(4, seed=0, epoch=2))
    assert len(whole) == 6
    assert_same_batches(list(split.epoch(4, seed=0, epoch=2, skip=skip)), whole[skip:])


def test_shares_make_the_batch_in_order():
    split = split_of(24)
    whole = list(split.epoch(8, seed=1, epoch=2, skip=1))
    shares = [list(split.epoch(8, seed=1, epoch=2, skip=1, share=Share(part, 2))) for part in range(2)]
    assert [len(batch["label"]) for of_one in shares for batch in of_one] == [4, 4, 4, 4]
    together = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*shares, strict=True)]
    assert_same_batches(together, whole)


@pytest.mark.parametrize(("count", "batches"), [(3, 0), (4, 1), (7, 1), (8, 2), (9, 2)])
def test_last_partial_batch_of_an_epoch_is_dropped(count, batches):
    epoch = ids(split_of(count).epoch(4, seed=0, epoch=0))
    assert [len(batch) for batch in epoch] == [4] * batches
    assert len(set(np.ravel(epoch))) == 4 * batches


def test_images_and_labels_go_with_their_ids():
    split = split_of(10, first_id=5)
    for batch in (*split.epoch(4, seed=0, epoch=0), *split.in_order(4)):
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == batch["example_id"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], batch["example_id"] % 7)
        np.testing.assert_array_equal(batch["image"], np.zeros((4, 2, 3, 1)) + batch["example_id"][:, None, None, None])


BATCH = 8


@pytest.mark.parametrize("count", sorted({k * BATCH + by for k in (1, 2, 5) for by in (-1, 0, 1)} | {1}))
def test_in_order_counts_every_example_once(count):
    split = split_of(count)
    batches = list(split.in_order(BATCH))
    assert len(batches) == -(-count // BATCH)
    for batch in batches:
        assert {len(value) for value in batch.values()} == {BATCH}
    mask = np.concatenate([batch["mask"] for batch in batches])
    example_id = np.concatenate([batch["example_id"] for batch in batches])
    assert mask.dtype == bool
    assert mask.sum() == count
    np.testing.assert_array_equal(example_id[mask], split.example_id)
    # What pads is a real example: nothing that could become NaN.
    np.testing.assert_array_equal(example_id[~mask], np.full(len(mask) - count, split.example_id[-1]))


@pytest.mark.parametrize("numbers", [(), (0,), (3,), (1, 3), (2, 0), range(1, 4)])
def test_in_order_gives_batches_by_number(numbers):
    split = split_of(26)
    every = list(split.in_order(8))
    assert_same_batches(list(split.in_order(8, batches=numbers)), [every[number] for number in numbers])


def test_take_keeps_ids_ascending():
    split = split_of(6)
    taken = split.take(np.array([4, 0, 3]))
    np.testing.assert_array_equal(taken.example_id, [0, 9, 12])
    np.testing.assert_array_equal(taken.image[:, 0, 0, 0], [0, 9, 12])
    np.testing.assert_array_equal(taken.label, [0, 2, 5])


def test_a_fingerprint_is_that_of_the_examples():
    split = split_of(6)
    assert split.fingerprint() == split_of(6).fingerprint() == split.take(np.arange(6)).fingerprint()
    for field in ("image", "label", "example_id"):
        changed = getattr(split, field).copy()
        changed[-1] += 1
        other = dataclasses.replace(split, **{field: changed})
        assert other.fingerprint() != split.fingerprint(), field
    assert split.fingerprint() != split_of(6, dtype=np.float32).fingerprint()


@pytest.mark.parametrize("example_id", [[0, 2, 1], [0, 1, 1], [2, 1, 0]])
def test_ids_must_ascend(example_id):
    with pytest.raises(ValueError, match="ascending"):
        Split(np.zeros((3, 1, 1, 1)), np.zeros(3), np.asarray(example_id))


@pytest.mark.parametrize("counts", [(2, 3, 3), (3, 2, 3), (3, 3, 2)])
def test_arrays_must_agree_in_length(counts):
    images, labels, example_ids = counts
    with pytest.raises(ValueError, match="number"):
        Split(np.zeros((images, 1, 1, 1)), np.zeros(labels), np.arange(example_ids))


def test_partition_is_disjoint_and_sized():
    parts = partition(100, (50, 30, 15), seed=0)
    assert [len(part) for part in parts] == [50, 30, 15]
    assert len(np.unique(np.concatenate(parts))) == 95
    for part in parts:
        assert np.all(np.diff(part) > 0)
        assert part.min() >= 0
        assert part.max() < 100
        # At random: neither a run of neighbours nor an end of the data set.
        assert np.ptp(part) >= len(part)


def test_partition_is_a_function_of_its_seed():
    first, again, other = (partition(100, (50, 50), seed) for seed in (0, 0, 1))
    for part, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(part, same)
        assert not np.array_equal(part, different)


def test_partition_may_use_everything():
    (everything,) = partition(10, (10,), seed=3)
    np.testing.assert_array_equal(everything, np.arange(10))


@pytest.mark.parametrize("sizes", [(7, 4), (11,), (12, -2)])
def test_partition_refuses_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match="10"):
        partition(10, sizes, seed=0)


# Above 4,096 images the moments are summed in blocks.
@pytest.mark.parametrize("count", [3, 5000])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_are_numpys(count, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, 3, 4, 2)).astype(dtype)
    image[..., 1] //= 4  # the channels differ
    if dtype is np.float32:
        image /= 255
    split = Split(image, np.zeros(count, np.int32), np.arange(count, dtype=np.int32))
    unit = image.astype(np.float64) / (255 if dtype is np.uint8 else 1)
    expected = {
        "mean_image": {"mean": unit.mean(axis=0), "scale": np.ones(1)},
        "standardize": {"mean": unit.mean(axis=(0, 1, 2)), "scale": unit.std(axis=(0, 1, 2))},
    }
    for kind, values in expected.items():
        of_split = moments(split, kind)
        assert of_split.keys() == values.keys()
        empty = empty_moments(kind, image.shape[1:])
        for key, value in values.items():
            assert of_split[key].dtype == empty[key].dtype == np.float32
            assert of_split[key].shape == empty[key].shape == value.shape
            # float64 inside, rounded once.
            np.testing.assert_allclose(of_split[key], value, rtol=1.2e-7)


def test_unit_leaves_images_as_they_are():
    found = moments(split_of(4), "unit")
    np.testing.assert_array_equal(found["mean"], [0])
    np.testing.assert_array_equal(found["scale"], [1])
    for key, value in empty_moments("unit", (224, 224, 3)).items():
        assert (value.shape, value.dtype) == (found[key].shape, found[key].dtype)


def test_cifars_constants_are_edward2s():
    found = moments(split_of(4), "cifar")
    np.testing.assert_allclose(found["mean"], [0.4914, 0.4822, 0.4465], rtol=1e-6)
    np.testing.assert_allclose(found["scale"], [0.2023, 0.1994, 0.2010], rtol=1e-6)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in empty_moments("cifar", (32, 32, 3)).items()
    }

"""ImageNet as TensorFlow Datasets prepares it, streamed from disk, with the crops of edward2's ImageNet script."""

import dataclasses
import functools

import numpy as np

from arada.data.shifted.imagenet_c import position_of
from arada.data.sources.records import RecordFiles, StreamedSplit
from arada.data.sources.resize import resized
from arada.data.sources.tfds import import_tensorflow, label_names, prepared
from arada.data.splits import partition
from arada.errors import UserError


def train_crop(jpeg, key, size: int, resize: str):
    """A random part of a JPEG, mirrored or not, as uint8[size, size, 3]; a TensorFlow function of `key` int64[2].

    The part has 8 to 100 % of the area and an aspect of 3/4 to 4/3. Where ten attempts find none, it is the centre.
    `resize` is one of `arada.data.sources.resize.RESIZES`.
    """
    tf = import_tensorflow()
    box_key, flip_key = tf.unstack(tf.random.split(key))
    shape = tf.image.extract_jpeg_shape(jpeg)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=box_key,
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    # The script does this, even if the box is as large as the image.
    is_whole = tf.reduce_all(extent[:2] == shape[:2])
    box = tf.where(is_whole, _centre(shape), tf.concat([begin[:2], extent[:2]], axis=0))
    return tf.image.stateless_random_flip_left_right(_cut(jpeg, box, size, resize), flip_key)


def plain_crop(jpeg, size: int, resize: str, side: int = 0):
    """The centre of a JPEG whose shorter side is resized to `side`, as uint8[size, size, 3]; a TensorFlow function.

    `side=0` stands for 8/7 of `size`.
    """
    tf = import_tensorflow()
    part, whole = (size, side) if side else (7, 8)
    if resize != "bilinear":
        return _cut(jpeg, _centre(tf.image.extract_jpeg_shape(jpeg), part, whole), size, resize)
    # torchvision resizes the whole image, then cuts; its longer side is rounded down.
    image = tf.image.decode_jpeg(jpeg, channels=3)
    shape = tf.shape(image)[:2]
    image = resized(image, size * whole // part * shape // tf.reduce_min(shape), resize)
    # Half a pixel more goes to the even neighbour, as Python rounds.
    top, left = tf.unstack(tf.cast(tf.round((tf.shape(image)[:2] - size) / 2), tf.int32))
    return image[top : top + size, left : left + size]


def _centre(shape, part: int = 7, whole: int = 8):
    """The box of the centre square whose side is `part` / `whole` of the shorter side."""
    tf = import_tensorflow()
    side = tf.maximum(part * tf.minimum(shape[0], shape[1]) // whole, 1)
    return tf.stack([(shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2, side, side])


def _cut(jpeg, box, size: int, resize: str):
    """The part `box` (top, left, height, width) of a JPEG, decoded alone: grey and CMYK ones become RGB."""
    return resized(import_tensorflow().image.decode_and_crop_jpeg(jpeg, box, channels=3), (size, size), resize)


@dataclasses.dataclass(frozen=True)
class ImageNet:
    """Train is the published `train`; validation and test are random parts of the published `validation`."""

    name: str
    data_dir: str
    image_size: int
    num_train: int
    num_validation: int
    num_test: int
    split_seed: int
    shuffle_buffer: int
    resize: str
    streams: int = 1
    resize_side: int = 0

    def splits(self) -> dict[str, StreamedSplit]:
        """The three splits; sizes below the published ones take a random part, by `split_seed`. Nothing is read yet."""
        parts = {
            "train": {"train": self.num_train},
            "validation": {"validation": self.num_validation, "test": self.num_test},
        }
        return {name: split for source, sizes in parts.items() for name, split in self._cut(source, sizes).items()}

    def _cut(self, source: str, sizes: dict[str, int]) -> dict[str, StreamedSplit]:
        info = prepared(self.name, self.data_dir).info
        if source not in info.splits:
            raise UserError(f"data.name: {self.name} in {info.data_dir} has no {source!r} split; prepare all of it")
        published = info.splits[source]
        files = RecordFiles(tuple(map(str, published.filepaths)), tuple(published.shard_lengths))
        wanted = sum(sizes.values())
        if wanted > len(files):
            raise UserError(
                f"{' + '.join(f'data.num_{name}' for name in sizes)} is {wanted}, but {self.name} in {info.data_dir} "
                f"has {len(files)} images in its {source!r} split; choose fewer, or prepare all of it"
            )
        whole = StreamedSplit(
            files,
            example_id=np.arange(len(files), dtype=np.int32),
            image_shape=(self.image_size, self.image_size, 3),
            num_classes=info.features["label"].num_classes,
            shuffle_buffer=self.shuffle_buffer,
            streams=self.streams,
            train_crop=functools.partial(train_crop, size=self.image_size, resize=self.resize),
            plain_crop=functools.partial(plain_crop, size=self.image_size, resize=self.resize, side=self.resize_side),
        )
        positions = partition(len(files), tuple(sizes.values()), self.split_seed)
        return {name: whole.take(part) for name, part in zip(sizes, positions, strict=True)}

    def shifted(self, test: StreamedSplit, name: str, severity: int) -> StreamedSplit:
        """Raises UserError: the simple shifts need images in memory."""
        raise UserError(f"evaluation.shift_source is 'simple', but {name!r} is for data in memory; use another")

    def published_position(self, test: StreamedSplit) -> np.ndarray:
        """The position of each test image in the published order, from its file's name: int64[N]."""
        return np.array([position_of(name) for name in test.file_name])

    def class_names(self) -> list[str]:
        """The wnids."""
        return label_names(self.name, self.data_dir)

    def why_absent(self, name: str, image_shape: tuple[int, ...]) -> str:
        """Raises UserError: ImageNet has no out-of-distribution set here."""
        raise UserError(f"evaluation.out_of_distribution names {name!r}, but ImageNet has none here; set it to ()")

    def out_of_distribution(self, name: str) -> StreamedSplit:
        """Raises UserError: ImageNet has no out-of-distribution set here."""
        raise UserError(f"evaluation.out_of_distribution names {name!r}, but ImageNet has none here; set it to ()")

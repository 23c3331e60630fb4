"""Lists the data that a config needs, says which exist, and downloads what TensorFlow Datasets can fetch.

    python -m arada.prepare --config=configs/cifar10.py [--check] [--export=FILE.npz]

Existing data are read once to find half-written files now: also ImageNet's, which takes minutes. Of shifted sets only
names, sizes and some labels are checked. Exit code 1 if anything is missing. Training never downloads. --export writes
the data set to one file for machines without TensorFlow.
"""

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from arada import checks, data
from arada.data.shifted import published
from arada.data.shifted import sources as shift_sources
from arada.data.sources import archives, npz, tfds
from arada.data.sources.records import StreamedSplit
from arada.errors import UserError
from arada.runtime import console, files

# Not __name__: in a command it is "__main__", whose lines `console.start_logging` does not show.
logger = logging.getLogger("arada.prepare")

# The sources whose run.data_dir is not TFDS' folder.
FROM_FILES = ("folder", "npz", "cifar_archive")
# Zenodo's record of each data set's published corruptions, and the archives in it.
PUBLISHED = {
    "cifar10": (2535967, "CIFAR-10-C.tar"),
    "cifar100": (3555552, "CIFAR-100-C.tar"),
    "imagenet2012": (2235448, "blur.tar digital.tar noise.tar weather.tar"),
}


class Item(NamedTuple):
    """A data set that a config needs."""

    name: str
    is_there: bool
    # Its place and content, or how to get it.
    text: str


def items(config: ml_collections.ConfigDict, download: bool) -> Iterator[Item]:
    """Every data set that `config` needs, after an attempt to download those that TFDS can fetch."""
    splits: dict[str, Any] = {}
    source, run = config.data.source, config.run
    dataset = data.build(config.data, run.data_dir)

    def training() -> str:
        splits.update(data.load_splits(dataset, config.data))
        # Validation and test may be parts of the same files.
        for files_ in {split.files: None for split in splits.values() if isinstance(split, StreamedSplit)}:
            logger.info("%s: reading all files, %d from %s on", name, len(files_.paths), files_.paths[0])
            files_.check()
        return ", ".join(f"{name} {len(split):,}" for name, split in splits.items())

    def elsewhere(name: str) -> str:
        if why := dataset.why_absent(name, tuple(config.data.image_shape)):
            raise UserError(why)
        return f"{len(dataset.out_of_distribution(name)):,}"

    name = config.data.get("name", source)
    tfds_dir = "" if source in FROM_FILES else run.data_dir
    yield _item(name, training, name if source not in ("digits", *FROM_FILES) else "", run.data_dir, download)
    for name in config.evaluation.out_of_distribution:
        yield _item(name, functools.partial(elsewhere, name), "" if source == "digits" else name, tfds_dir, download)
    # The simple shifts need nothing.
    if config.evaluation.shifts and config.evaluation.shift_source != "simple":
        yield _shifted(config, dataset, splits.get("test"), tfds_dir, download)


def _item(name: str, read: Callable[[], str], tfds_name: str, data_dir: str, download: bool) -> Item:
    """The result of `read` for a data set; `tfds_name` is its name in TFDS, if it comes from there."""
    where = data_dir
    try:
        if tfds_name:
            builder = tfds.builder(tfds_name, data_dir)
            where = builder.data_path
            if not where.exists():
                if not download:
                    raise UserError(f"not in {where}; {_by_hand(builder)}")
                _download(builder)
        return Item(name, True, f"{read()} images{f' in {where}' if where else ''}")
    except UserError as error:
        return Item(name, False, str(error))


def _download(builder) -> None:
    print(f"downloading {builder.info.full_name} to {builder.data_path} ...", flush=True)
    try:
        builder.download_and_prepare()
    # No network, no host, a checksum, no space, no manual download: each has an exception of its own.
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
        raise UserError(f"could not be downloaded ({reason}); {_by_hand(builder)}") from None


def _by_hand(builder) -> str:
    """What to fetch and where to put it, for this data set."""
    # The folder of all data sets is above name, configuration and version.
    manual = builder.data_path.parents[builder.info.full_name.count("/")] / "downloads" / "manual"
    if builder.name.startswith("imagenet2012"):
        return (
            f"register at https://image-net.org/download-images, put ILSVRC2012_img_train.tar and "
            f"ILSVRC2012_img_val.tar into {manual}, and run this command without --check"
        )
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        text = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        return f"put into {manual} what TFDS asks for ({text}) and run this command again"
    ways = f"run this command without --check where there is a network, or copy {builder.info.full_name} of a prepared "
    ways += f"TFDS folder to {builder.data_path}"
    if builder.name in archives.LAYOUTS:
        ways += f", or {archives.how_to_get(builder.name, '')} and set data.source=cifar_archive, run.data_dir=DIR"
    return ways


def _shifted(config: ml_collections.ConfigDict, dataset, test, tfds_dir: str, download: bool) -> Item:
    """The shifted versions of the test split, as the evaluation will look for them."""
    evaluation = config.evaluation
    source, types, severities = evaluation.shift_source, shift_sources.types(evaluation), evaluation.severities
    name, data_set = f"{source} shifts", config.data.get("name", "")
    by_hand = ""
    if source == "published" and data_set in PUBLISHED:
        record, tars = PUBLISHED[data_set]
        by_hand = f"; fetch {tars} of https://zenodo.org/records/{record}, unpack, set run.published_dir to the folder"
    try:
        if source == "tfds" and download:
            for full_name in published.tfds_names(data_set, types, severities):
                builder = tfds.builder(full_name, tfds_dir)
                if not builder.data_path.exists():
                    _download(builder)
        if test is None:
            raise UserError("cannot be checked before the training data are there")
        absent = shift_sources.build(config, dataset, test, "").absent(types, severities)
    except UserError as error:
        return Item(name, False, f"{error}{by_hand}")
    text = f"{len(types) - len(absent)} of {len(types)} types"
    if not absent:
        return Item(name, True, text)
    text += f"; without {', '.join(absent)}: {'; '.join(dict.fromkeys(absent.values()))}{by_hand}"
    # Types that are generated here can be left out; requested files must exist.
    return Item(name, source == "generated", text)


def prepare(config: ml_collections.ConfigDict, download: bool) -> bool:
    """Prints one line a data set; returns whether all are there."""
    there = True
    for item in items(config, download):
        print(f"{item.name:<24} {'ready  ' if item.is_there else 'MISSING'}  {item.text}", flush=True)
        there &= item.is_there
    return there


def export(config: ml_collections.ConfigDict, path: str) -> str:
    """Writes the data set of `config` as one .npz, which data.source "npz" reads, with the same example ids.

    Returns a line on its content and use. Raises UserError.
    """
    dataset = data.build(config.data, config.run.data_dir)
    if not isinstance(dataset, data.InMemory):
        raise UserError(f"--export writes what fits in memory, but data.source is {config.data.source!r}")
    file = files.absolute(path)
    if file.suffix != ".npz":
        raise UserError(
            f"--export={path} is not an .npz file; name one, such as {config.data.get('name', 'images')}.npz"
        )
    data.load_splits(dataset, config.data)  # images and labels are checked
    arrays = npz.arrays_of(dataset.source)
    files.write_npz(file, arrays)
    counts = ", ".join(f"{key} {len(array):,}" for key, array in arrays.items() if key.endswith("label"))
    return f"{file} holds {counts}; use it by --config.data.source=npz --config.run.data_dir={file}"


def main() -> None:
    """Entry point; exits with 1 if a data set is missing."""
    config = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
    check = flags.DEFINE_bool("check", False, "Downloads nothing.")
    export_to = flags.DEFINE_string("export", "", "Writes the data set to this .npz too, which needs no TensorFlow.")
    flags.mark_flag_as_required("config")

    def start(_) -> None:
        console.start_logging()
        # It logs each of its many retries.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        with console.ending_in_one_line():
            checks.check_config(config.value, num_devices=1)
            there = prepare(config.value, download=not check.value)
            if export_to.value:
                print(export(config.value, export_to.value))
        sys.exit(int(not there))

    app.run(start, flags_parser=console.config_parser(config))


if __name__ == "__main__":
    main()

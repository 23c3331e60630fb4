"""Measures the speed of a streamed data set: reading, decoding, cropping and batching, without a network.

    python -m launch.benchmarks.loader --config=configs/imagenet.py

Each figure comes from its own process, which is pinned to the given number of cores (Linux only). Other processes
disturb images per second of a core's time least.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
import time

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from arada import data
from arada.data.sources import tfds
from arada.runtime import console

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file.", lock_config=True)
_CORES = flags.DEFINE_multi_integer("cores", (1, 2), "Cores to measure with.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Seconds of each measurement.", lower_bound=0.1)

BATCH = 128
# A smaller sample is repeated up to this size, because restarting a pipeline is slow.
LEAST_IMAGES = 20_000
# 10^9 multiply-adds in a forward pass at 224 x 224. A training step has three times as many, with two operations each.
GIGA_MACS = {50: 4.1, 101: 7.8, 152: 11.5}
# Peak operations a second in bfloat16, by the makers' data sheets, and the assumed share of it.
PEAK = {"TPU v4-8 (four chips)": 4 * 275e12, "A100": 312e12}
UTILISATION = 0.3


def measure(fields: dict, data_dir: str, cores: int, crops: str, seconds: float) -> tuple[float, float]:
    """Images per second, and images per second of processor time, in this process tied to `cores` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    split = repeated(data.ImageNet(data_dir=data_dir, **fields).splits()["train"])
    batches = split.epoch(BATCH, seed=0, epoch=0) if crops == "training" else split.in_order(BATCH)
    for _ in range(3):  # TensorFlow tunes its parallelism
        next(batches)
    count, start, cpu_start = 0, time.monotonic(), time.process_time()
    for batch in batches:
        count += len(batch["label"])
        if time.monotonic() - start > seconds:
            break
    return count / (time.monotonic() - start), count / (time.process_time() - cpu_start)


def repeated(split: data.Examples) -> data.Examples:
    """The split with its files repeated until there are enough images."""
    times = -(-LEAST_IMAGES // len(split.files))
    if times == 1:
        return split
    files = dataclasses.replace(split.files, paths=split.files.paths * times, lengths=split.files.lengths * times)
    return dataclasses.replace(split, files=files, example_id=np.arange(len(files), dtype=np.int32))


def main(_) -> None:
    """Measures and prints."""
    config = _CONFIG.value
    if config.data.source != "imagenet":
        sys.exit(f"error: data.source is {config.data.source!r}; only ImageNet streams from disk")
    with console.ending_in_one_line():
        prepared = tfds.prepared(config.data.name, config.run.data_dir).info.splits["train"]
    fields = {key: config.data[key] for key in ("name", "split_seed", "shuffle_buffer", "streams", "resize")}
    fields |= {"image_size": config.data.image_shape[0], "num_train": prepared.num_examples}
    fields |= {"num_validation": 1, "num_test": 1}
    print(f"{config.data.name}: {prepared.num_examples} training images in {prepared.num_shards} files")
    available = len(os.sched_getaffinity(0))
    # JAX's and TensorFlow's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    for cores in _CORES.value:
        if cores > available:
            sys.exit(f"error: --cores={cores}, but this process may use {available}; give fewer")
        for crops in ("training", "evaluation"):
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
                job = pool.submit(measure, fields, config.run.data_dir, cores, crops, _SECONDS.value)
                rate, core_rate = job.result()
            print(f"{cores} core(s), {crops} crops: {rate:.0f} images/s, {core_rate:.0f} a second of a core's time")
    if config.model.name == "resnet_v1" and config.model.depth in GIGA_MACS:
        operations = 6e9 * GIGA_MACS[config.model.depth]
        for device, peak in PEAK.items():
            print(
                f"estimate: {device} trains ResNet-{config.model.depth} with {UTILISATION * peak / operations:.0f} "
                f"images/s at {UTILISATION:.0%} of its peak ({operations / 1e9:.0f} GFLOP an image)"
            )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=console.config_parser(_CONFIG))

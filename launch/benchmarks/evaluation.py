"""The time for the metrics of a large experiment: `python -m launch.benchmarks.evaluation`.

Draws random predictions of several runs on the test set, the validation set and 95 shifted sets, writes them like an
experiment, and measures the part of `--stage=evaluate` after the last prediction.
"""

import argparse
import resource
import tempfile
import time

import jax
import numpy as np

from arada.evaluation import predictions, summary
from arada.runs import workdir as workdirs
from arada.runs.identity import run_identity
from arada.runs.workdir import Workdir
from arada.runtime import console, files
from configs import cifar10


def fill(workdir: Workdir, config, runs: int, images: int) -> int:
    """Writes random predictions of `runs` vanilla runs; returns the number of files."""
    rng, classes = np.random.default_rng(0), config.data.num_classes
    labels = rng.integers(classes, size=images).astype(np.int32)
    names = predictions.dataset_names(config.evaluation)
    for seed in range(runs):
        identity = run_identity(config, seed, 1)
        for folder in (workdir.run(config.name, seed), workdir.predictions(config.name, seed)):
            workdirs.claim(folder, identity, config)
        for name in names:
            logits = 2 * rng.normal(size=(1, images, classes)) + 4 * np.eye(classes)[labels]
            arrays = {"example_id": np.arange(images, dtype=np.int32), "label": labels}
            arrays["logits"] = logits.astype(np.float32)
            files.write_npz(workdir.predictions(config.name, seed) / f"{name}.npz", arrays)
    return runs * len(names)


def main() -> None:
    parser = argparse.ArgumentParser(prog="launch.benchmarks.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    console.start_logging()
    config = cifar10.get_config()
    config.evaluation.out_of_distribution = ()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(folder)
        count = fill(workdir, config, arguments.runs, arguments.images)
        before, start = time.process_time(), time.perf_counter()
        summary.summarize(workdir, config)
        seconds, processor = time.perf_counter() - start, time.process_time() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count} files of {arguments.images:,} x {config.data.num_classes} logits, without and with two calibrators, "
        f"1,000 resamples: {seconds:.0f} s ({processor:.0f} s of processor time), {memory:.1f} GiB at most, "
        f"{jax.devices()[0].device_kind}"
    )


if __name__ == "__main__":
    main()

"""Imports weights that were trained elsewhere as a finished run of a workdir: nothing is trained.

    python -m arada.import_weights --config=configs/imagenet.py:vanilla,pretrained --weights=resnet101.safetensors \\
      --workdir=DIR

Takes .safetensors with the names of torchvision's or timm's ResNet-50, 101 and 152, and .safetensors, flax' .msgpack
or an orbax folder of networks of our own. The run gets the config's name and first seed. Ranking, evaluation
and report then continue from it: `python -m arada.main --config=configs/imagenet.py:vanilla,pretrained --workdir=DIR`.
"""

from absl import app, flags
from ml_collections import config_flags

from arada import data
from arada.data import splits
from arada.experiment import Experiment
from arada.runs import imported
from arada.runtime import console, files


def main(_) -> None:
    """Imports one file; a user's mistake ends in one line and exit code 1."""
    console.start_logging()
    with console.ending_in_one_line():
        experiment = Experiment(flags.FLAGS.config, flags.FLAGS.workdir)
        kind = experiment.config.training.normalization

        def normalization():
            # Constants need no images.
            return data.moments(experiment.splits["train"] if kind in splits.FROM_IMAGES else None, kind)

        weights = files.absolute(flags.FLAGS.weights)
        run_dir = imported.make_run(experiment.config, experiment.workdir, weights, normalization)
        print(f"Imported: {run_dir}", flush=True)


def run() -> None:
    """Entry point."""
    config = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the experiment; made if missing.")
    flags.DEFINE_string("weights", None, "The file, or orbax' folder.")
    flags.mark_flags_as_required(["config", "workdir", "weights"])
    app.run(main, flags_parser=console.config_parser(config))


if __name__ == "__main__":
    run()

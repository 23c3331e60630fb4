"""Downloads and prepares a config's data set: `python -m arada.data.prepare --config=configs/cifar10.py`.

Training never downloads; this command does, through TensorFlow Datasets, and says what it finds.
"""

from absl import app, flags
from ml_collections import config_flags

from arada.data import published, shift_sources, tfds

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file.", lock_config=True)
_EVALUATION = flags.DEFINE_bool(
    "evaluation", False, "Also prepares the out-of-distribution sets, and the shifted ones of the shift source tfds."
)


def main(_) -> None:
    """Prepares `config.data` in `config.run.data_dir`, or in TFDS' default folder."""
    config = _CONFIG.value
    if config.data.source != "tfds":
        print(f"{config.data.source}: nothing to prepare, the data set comes with an installed package")
        return
    names, evaluation = [config.data.name], config.evaluation
    if _EVALUATION.value:
        names += evaluation.out_of_distribution
        if evaluation.shift_source == "tfds":
            names += published.tfds_names(config.data.name, shift_sources.types(evaluation), evaluation.severities)
    for name in names:
        builder = tfds.builder(name, config.run.data_dir)
        builder.download_and_prepare()
        sizes = ", ".join(f"{split} {of.num_examples}" for split, of in builder.info.splits.items())
        print(f"{builder.info.full_name} in {builder.data_path}: {sizes}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)

"""Downloads and prepares a config's data set: `python -m arada.data.prepare --config=configs/cifar10.py`.

Training never downloads; this command does, through TensorFlow Datasets, and says what it finds.
"""

from absl import app, flags
from ml_collections import config_flags

from arada.data import tfds

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file.", lock_config=True)


def main(_) -> None:
    """Prepares `config.data` in `config.run.data_dir`, or in TFDS' default folder."""
    config = _CONFIG.value
    if config.data.source != "tfds":
        print(f"{config.data.source}: nothing to prepare, the data set comes with an installed package")
        return
    builder = tfds.builder(config.data.name, config.run.data_dir)
    builder.download_and_prepare()
    sizes = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"{builder.info.full_name} in {builder.data_path}: {sizes}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)

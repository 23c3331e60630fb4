"""Your own images, in one folder for each class: copy this file, or set its fields on the command line.

    python -m arada.main --config=configs/own_images.py:ar_adals --workdir=workdir/own --config.run.data_dir=DIR \
      --config.data.num_classes=5 --config.data.num_train=3000 \
      --config.data.num_validation=500 --config.data.num_test=500

DIR holds `<class>/*.png` (jpg, jpeg, jfif, bmp, webp), or `train/<class>/` and `test/<class>/`. For one .npz with
`image` and `label` add --config.data.source=npz, and give the file as DIR. `python -m arada.prepare` with the same
options shows what it finds there.

Hardware: a CPU for a few thousand images of 32 x 32, less than an hour for 4,000 on two cores; a GPU for more. Accuracy
and ECE depend on your data. Network, recipe and method settings are those of `configs/cifar10.py:laptop` and not tuned
for your data: tune them on validation by `python -m arada.sweep`.
"""

import ml_collections

from configs import base

METHODS = base.methods(label_smoothing=0.05, adals=0.1, ar_adals=0.1, refresh_epochs=(13, 26), members=3)

SIZES: dict[str, base.Overrides] = {}


def get_config(presets: str = "") -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals"."""
    config = base.config()
    config.seeds = (0, 1, 2)
    config.data = {
        # "folder" or "npz", in run.data_dir.
        "source": "folder",
        "num_classes": 10,
        # Images of a folder are cut and resized to this shape (arada/data/sources/folders.py); 1 channel for grey.
        "image_shape": (32, 32, 3),
        # Random, by split_seed. Test images come from the test part if there is one, else from the same images.
        "num_train": 4000,
        "num_validation": 1000,
        "num_test": 1000,
        "split_seed": 0,
    }
    # An epoch has 31 steps; with fewer images lower the momentum (a warning says when).
    config.model.update(depth=11, batch_norm_momentum=0.9)
    config.optimizer.decay = ((25, 0.1), (35, 0.01))
    config.training.epochs = 40
    config.training.batch_size = 128
    config.training.augmentation = "flip"
    config.run.ranking_batch_size = 64
    config.run.log_every_steps = 10
    config.run.checkpoint_every_steps = 150
    return base.with_presets(config, presets, METHODS, SIZES)

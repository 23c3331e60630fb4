"""ImageNet with the paper's ResNet-101 v1 (section A.3; recipe of edward2's imagenet/deterministic.py).

    python -m arada.main --config=configs/imagenet.py:ar_adals --workdir=workdir/imagenet

Hardware: one host with eight GPUs of 80 GB, or several hosts. The paper has 128 images a core: 32 cores for a batch of
4,096. On smaller machines use `--config.training.batch_size=1024` (a TPU v4-8) or less; the learning rate is scaled
with it. Batch norm takes the statistics of each device's images: 512 on eight devices, 256 on the four of a v4-8.

Hours, estimated by `python -m launch.benchmarks.roofline` at 30 % of peak and never measured: a training takes 2 to 4
on eight A100, 4 to 13 on the four chips of a v4-8, more if XLA fuses less; a ranking of all 1,331,167 images by the
default attack, in float32, takes 5 and 4. `launch/benchmarks/loader.py` shows whether the host's cores can keep up. The
preset needs one vanilla run, its ranking and five runs of its own.

Paper: accuracy of vanilla 77.7 %. Mean ECE on ImageNet-C, in %: vanilla 10.7, label smoothing 8.1, AdaLS 8.0,
AR-AdaLS 6.9 (Table 3, five runs). Its figures show the ECE on clean images. The paper ranked by Carlini-Wagner
(`--config.ranking.attack=cw`), at 80 times the cost.

Memory of a training step with 128 images a device: at most 24 GiB, by the memory analysis of the compiled step on
XLA:CPU, which computes bfloat16 as float32 (6.2 GiB with 32 images; it is linear). The backward pass keeps 7.2 GiB in
bfloat16, counted by `jax.eval_shape` of `jax.vjp`. We assume 12 GiB. The five members of `ar_adals_of_ensemble` take
five times as much if they are stacked: then use `--config.run.members=unrolled` or smaller batches. The host holds 1 GB
of waiting JPEGs, 1 GB of read buffers, 2 GB of batches, and, if it fits, its share of 3.8 GB of validation images.

The data are the published images as TensorFlow Datasets prepares them, 150 GB: see docs/data.md. `testing` needs 32
training and 60 validation images of them, and no shifted ones. `pretrained` is for weights of torchvision or timm
(docs/pretrained.md).
"""

import ml_collections

from configs import base

_BASE = base.methods(label_smoothing=0.02, adals=0.03, ar_adals=0.001, refresh_epochs=(30, 60), members=5)
_RANKED = [name for name, fields in _BASE.items() if fields.get("soft_labels.num_subsets", 1) > 1]
# The paper's alpha of AR-AdaLS rises after 60 epochs. The paper did not rank ImageNet on the fly; its epochs are ours.
METHODS = {
    name: fields | ({"soft_labels.alpha": ((0, 0.001), (60, 0.05))} if name in _RANKED else {})
    for name, fields in _BASE.items()
}
# Forty validation images make four subsets of ten images, the smallest allowed subset.
TESTING_METHODS = {
    name: fields
    | ({"soft_labels.num_subsets": 4} if name in _RANKED else {})
    | ({"ranking.refresh_epochs": (1,)} if name == "ar_adals_on_the_fly" else {})
    for name, fields in METHODS.items()
}

# The padding, resizing and normalisation of torchvision's and timm's weights (`python -m arada.import_weights`). Other
# recipes differ: torchvision's IMAGENET1K_V2 has resize_side=232.
PRETRAINED = {
    "pretrained": {
        "seeds": (0,),
        "data.resize": "bilinear",
        "data.resize_side": 256,
        "model.padding": "both",
        "model.batch_norm_momentum": 0.9,
        "model.batch_norm_epsilon": 1e-5,
        "training.normalization": "imagenet",
    },
}
SIZES = {
    # For tests: the full network on a sample of 160 + 80 full-size images; the results have no meaning.
    "testing": {
        "seeds": (0,),
        "data.num_train": 32,
        "data.num_validation": 40,
        "data.num_test": 20,
        "model.batch_norm_momentum": 0.75,
        "optimizer.warmup_epochs": 1.0,
        "optimizer.decay": (),
        "training.epochs": 2,
        "training.batch_size": 8,
        "ranking.num_subsets": 4,
        "ranking.fmn.steps": 1,
        "evaluation.shifts": (),
        "run.cpu_kernels": "stock",
        "run.evaluation_batch_size": 10,
        "run.ranking_batch_size": 10,
        "run.log_every_steps": 1,
        "run.checkpoint_every_steps": 1,
    },
}


def get_config(presets: str = "") -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals"."""
    config = base.config()
    config.seeds = (0, 1, 2, 3, 4)
    config.data = {
        "source": "imagenet",
        "name": "imagenet2012",
        "num_classes": 1000,
        "image_shape": (224, 224, 3),
        "num_train": 1_281_167,
        # Random halves of the published 50,000, by split_seed; the paper gives neither seed nor method.
        "num_validation": 25_000,
        "num_test": 25_000,
        "split_seed": 0,
        # Images in the shuffle buffer, 0.9 GB of JPEGs. The script has 1,024, after as many shuffled files.
        "shuffle_buffer": 8192,
        # The number of parts that an epoch is read in, a multiple of the number of hosts; sixteen files of each part
        # are read at once.
        "streams": 8,
        # "tf1_bicubic" (the script's), "tf2_bicubic" or "bilinear" (torchvision's): arada/data/sources/resize.py.
        # Evaluation resizes the shorter side of an image to `resize_side` pixels and takes the centre; 0 for 8/7 of the
        # centre's side, 256 for 224.
        "resize": "tf1_bicubic",
        "resize_side": 0,
    }
    config.model.update(name="resnet_v1", depth=101, width=64, dtype="bfloat16")
    config.model.update(batch_norm="per_device", batch_norm_momentum=0.9)
    # The layers with strides, and their padding (arada/models/resnet_v1.py); PyTorch's epsilon.
    config.model.update(stride_on="3x3", padding="same", batch_norm_epsilon=1e-5)
    config.training.update(epochs=90, batch_size=4096, normalization="unit")
    config.optimizer.name = "sgd"
    # Linear in the batch size; a field reference, so that overrides of the batch size apply.
    config.optimizer.learning_rate = 0.1 * config.training.get_ref("batch_size").to_float() / 256
    config.optimizer.update(
        warmup_epochs=5.0,
        decay=((30, 0.1), (60, 0.01), (80, 0.001)),
        momentum=0.9,
        nesterov=True,
        l2=1e-4,
        l2_on="kernels_and_biases",
    )
    # ImageNet-C in run.published_dir; without it, it is left out. The logits of its 75 sets of 25,000 images would take
    # 7.5 GB a run; summaries take 0.4 GB.
    config.evaluation.update(shift_source="published", shifts=("imagenet",), store_shifted="summaries")
    config.run.update(evaluation_batch_size=128, ranking_batch_size=64)
    return base.with_presets(config, presets, METHODS, SIZES | PRETRAINED, {"testing": TESTING_METHODS})

"""scikit-learn's handwritten digits through a noisy camera: AR-AdaLS in minutes on any machine.

    python -m arada.main --config=configs/digits.py:ar_adals --workdir=workdir/digits

1,797 real 8x8 images: 800 for training, 500 for validation, 497 for testing; a pre-activation ResNet of depth 11. The
paper has no such experiment. Hardware: any CPU. docs/results.md has the results with 20 seeds.

Smoothing and alpha have the lowest debiased ECE on the validation images. Seeds 0 to 4, each with the ranking of its
own seed; ECE and debiased ECE (15 bins of equal width) in percent, NLL in nats, mean and standard deviation over seeds;
two CPU cores, commit 0a64b47:

                              debiased ECE         ECE           NLL
    label smoothing  epsilon
                     0.01      5.3 +- 1.3     7.0 +- 1.0    1.100 +- .057
                     0.02      3.2 +- 1.1     5.3 +- 0.9    1.109 +- .056
                     0.05      6.1 +- 1.8     7.6 +- 1.5    1.154 +- .053
                     0.1      13.4 +- 2.6    13.8 +- 2.3    1.219 +- .049
                     0.2      21.7 +- 2.3    21.8 +- 2.2    1.333 +- .038
    AdaLS            alpha
                     0.02      3.1 +- 1.7     5.1 +- 1.2    1.124 +- .054
                     0.05      1.9 +- 2.5     4.4 +- 1.9    1.119 +- .063
                     0.1       3.0 +- 2.6     5.2 +- 2.1    1.109 +- .070
                     0.2       2.9 +- 1.4     5.0 +- 1.1    1.115 +- .062
                     0.4       2.6 +- 1.9     4.8 +- 1.5    1.117 +- .057
    AR-AdaLS         alpha
                     0.02      3.0 +- 2.0     5.2 +- 1.6    1.135 +- .059
                     0.05      3.0 +- 1.0     5.2 +- 0.8    1.153 +- .067
                     0.1       2.3 +- 1.9     4.7 +- 1.4    1.176 +- .080
                     0.2       4.1 +- 1.0     5.9 +- 0.7    1.240 +- .132
                     0.4       4.2 +- 1.0     6.1 +- 0.8    1.327 +- .139

AR-AdaLS was swept at commit 48f38a3. Label smoothing depends on its setting; the alphas of AdaLS differ by less than
their standard deviations. All variants of AR-AdaLS, also the controls, take the alpha of AdaLS instead of their own
best one, so that they differ only in the ranking. The NLL (the default of `evaluation.choose_by`) would choose 0.01,
0.1 and 0.02; the first and the last are at the edge of their grids.
"""

import ml_collections

from configs import base

RATES = {"label_smoothing": 0.02, "adals": 0.05, "ar_adals": 0.05}
# After a third and two thirds of the epochs, as in the paper.
METHODS = base.methods(**RATES, refresh_epochs=(13, 26), members=3)
TESTING_METHODS = base.methods(**RATES, refresh_epochs=(1, 2), members=2)

SIZES = {
    # For tests: takes seconds; the results have no meaning.
    "testing": {
        "data.num_train": 128,
        "data.num_validation": 128,
        "model.width": 4,
        "model.batch_norm_momentum": 0.75,
        "training.epochs": 3,
        "training.batch_size": 32,
        "evaluation.shifts": ("noise", "rotation"),
        "evaluation.severities": (1, 5),
        "run.evaluation_batch_size": 128,
        "run.ranking_batch_size": 64,
        "run.log_every_steps": 2,
        "run.checkpoint_every_steps": 3,
    },
}


def get_config(presets: str = "") -> ml_collections.ConfigDict:
    """The config with `presets` applied, such as "ar_adals" or "ar_adals,testing"."""
    config = base.config()
    config.seeds = (0, 1, 2)
    config.data = {
        "source": "digits",
        "num_classes": 10,
        "image_shape": (8, 8, 1),
        "num_train": 800,
        "num_validation": 500,
        "split_seed": 0,
        # The camera (arada/data/sources/digits.py): the standard deviation of its noise in units of the signal's range,
        # the factor by which it compresses the noisy signal around mid-grey, and the seed of the noise.
        "noise": 0.4,
        "contrast": 0.3,
        "noise_seed": 0,
    }
    # Statistics over one epoch, which has 8 steps (4 in `testing`).
    config.model.update(depth=11, batch_norm_momentum=0.875)
    config.training.epochs = 40
    config.training.batch_size = 100
    config.optimizer.decay = ((30, 0.1),)
    config.ranking.source = "vanilla/seed_{seed}"
    config.evaluation.out_of_distribution = ("photographs",)
    # The kernels of the published numbers. With 8x8 images oneDNN saves less time than every process needs to compile
    # its programs again.
    config.run.cpu_kernels = "stock"
    config.run.log_every_steps = 8
    config.run.checkpoint_every_steps = 160
    return base.with_presets(config, presets, METHODS, SIZES, {"testing": TESTING_METHODS})

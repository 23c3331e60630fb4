"""The roofline's counts against operations and bytes counted by hand, and its arithmetic."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from arada.errors import UserError
from arada.runs import ranking as rankings
from arada.runs import trained
from arada.training.replication import Replicas
from configs import cifar10, digits, imagenet
from launch.benchmarks import roofline
from launch.benchmarks.roofline import Assumed, Device, Programs, Work


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_dense_layer_by_hand():
    work = roofline.work_of(lambda batch_size: (jnp.matmul, (shape(batch_size, 5), shape(5, 3))))
    # A multiply-add is two operations; 5 numbers in and 3 out an image, and the 15 weights.
    assert work == Work(flops=2 * 5 * 3, bytes=4 * (5 + 3), fixed_flops=0, fixed_bytes=4 * 15)


def test_a_convolution_by_hand():
    def convolution(images, kernel):
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    work = roofline.work_of(lambda batch_size: (convolution, (shape(batch_size, 8, 8, 2), shape(3, 3, 2, 7))))
    # Of the 3 columns of the kernel one lies outside at either edge: 3 * 8 - 2 pairs a side, and no padding counted.
    assert work.flops == 2 * (3 * 8 - 2) ** 2 * 2 * 7
    assert work.bytes == 4 * 8 * 8 * (2 + 7)
    assert work.fixed_bytes == 4 * 3 * 3 * 2 * 7


def test_the_body_of_a_loop_is_counted_once():
    def loop(count):
        return lambda x, w: lax.fori_loop(0, count, lambda _, x: x @ w, x)

    few, many = (roofline.work_of(lambda n, count=count: (loop(count), (shape(n, 4), shape(4, 4)))) for count in (2, 9))
    assert few.flops == many.flops == 2 * 4 * 4


@pytest.fixture(scope="module")
def programs():
    """Those of the testing size of digits."""
    return roofline.programs(digits.get_config("ar_adals,testing"))


def test_a_network_by_hand(programs):
    # ResNet v2 of depth 11 and width 4 on 8x8: kernels of 3x3 see (3 * 8 - 2)^2 pairs of pixels, then (3 * 4 - 2)^2 and
    # (3 * 2 - 2)^2 on the halved maps; 1x1 ones see each pixel once. Bottlenecks of 4-4-16, 16-32, 32-64 channels.
    macs = 22**2 * 1 * 4
    for pixels, pairs, before, inside, after in ((64, 22**2, 4, 4, 16), (16, 10**2, 16, 16, 32), (4, 4**2, 32, 32, 64)):
        macs += pixels * before * inside + pairs * inside**2 + pixels * inside * after + pixels * before * after
    macs += 64 * 10
    assert 2 * macs < programs.forward.flops < 1.15 * 2 * macs  # batch norm, activations and sums besides
    # Backwards every product is done by the input, and in training by the kernel too; not by the first layer's input.
    assert programs.gradient.flops == pytest.approx(2 * programs.forward.flops, rel=0.1)
    assert programs.train.flops == pytest.approx(3 * programs.forward.flops, rel=0.1)
    # The update reads weights, gradients and two moments of Adam, and writes three of them.
    assert programs.train.fixed_bytes > 7 * 4 * 19_666


def test_an_attack_is_its_gradients_and_passes(programs):
    config = digits.get_config("vanilla,testing")
    step = rankings.attack_step(trained.build_ranked(config), "fmn", {"steps": 10})
    variables = trained.state_shapes(config).variables
    mapped = Replicas(jax.devices()[:1], "shard_map").map(step, in_axes=(None, 0), out_axes=0)
    lowered = jax.jit(mapped).trace(variables, {"image": shape(64, 8, 8, 1)}).lower(lowering_platforms=("tpu",))
    # Bodies of loops once: one gradient, two passes of the image (which compilers merge), one of the ray, the check.
    expected = programs.gradient.flops + 4 * programs.forward.flops
    assert lowered.cost_analysis()["flops"] / 64 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("by", "attack", "settings", "expected"),
    [
        ("attack", "cw", {"binary_search_steps": 3, "max_iterations": 500}, (1500, 2)),
        ("attack", "fmn", {"steps": 10}, (10, 5)),
        ("attack", "sdf", {"rounds": 3, "steps": 3, "candidates": 1}, (12, 6)),
        ("attack", "first_order", {"candidates": 1, "refine_steps": 20}, (1, 5)),
        ("attack", "estimate", {"candidates": 1}, (1, 1)),
        ("confidence", "fmn", {}, (0, 1)),
        ("random", "fmn", {}, (0, 0)),
    ],
)
def test_passes_of_a_ranking(by, attack, settings, expected):
    assert roofline.passes(by, attack, settings) == expected


def test_images_of_imagenet():
    counts = roofline.images_of(imagenet.get_config("ar_adals"))
    # Six trainings, 312 whole batches an epoch; 15 types of ImageNet-C at five severities, 25,000 images each.
    assert counts.trained == 6 * 90 * 312 * 4096
    assert counts.validated == 6 * 90 * 25_000
    assert counts.ranked == 1_281_167 + 50_000
    assert counts.evaluated == 5 * (50_000 + 15 * 5 * 25_000)


def test_images_of_a_ranking_on_the_fly():
    counts = roofline.images_of(cifar10.get_config("ar_adals_on_the_fly"))
    assert (counts.ranked, counts.refreshed) == (60_000, 5 * 2 * 50_000)
    assert roofline.images_of(cifar10.get_config("vanilla")).trained == 5 * 200 * 175 * 256


def test_the_slower_of_computing_and_moving():
    work = Work(flops=6.0, bytes=2.0, fixed_flops=10.0, fixed_bytes=40.0)
    # 100 images in 10 batches: 700 operations and 600 bytes.
    assert work.seconds(100, 10, peak=7.0, bandwidth=100.0) == 100.0
    assert work.seconds(100, 10, peak=700.0, bandwidth=6.0) == 100.0


def test_hours_and_rates():
    config = imagenet.get_config("ar_adals")
    of = Programs(train=Work(4096.0, 0.0), gradient=Work(2.0, 0.0), forward=Work(1.0, 0.0))
    device = Device("device", bfloat16=4096.0, default=0.0, float32=50.0, bandwidth=1.0, price=1.0)
    found = roofline.estimate(config, of, device, Assumed(devices=4, utilisation=0.5, bandwidth=1.0))
    assert found.training_rate == found.unmoved_rate == pytest.approx(0.5)
    # FMN: ten gradients and 5 passes are 25 operations, at 25 a second; Carlini-Wagner's 1,500 and 2 are 3,002.
    assert found.ranking_rate == pytest.approx(1.0)
    assert found.ranking == pytest.approx(1_331_167 / 3600)
    assert found.papers_ranking == pytest.approx(1_331_167 * 3002 / 25 / 3600)
    assert found.evaluation == pytest.approx(5 * 1_925_000 / 2048 / 3600)
    text = roofline.table(config, of, Assumed(devices=4, utilisation=0.5, bandwidth=1.0))
    assert "6 trainings of 90 epochs, 1,331,167 images ranked by fmn in float32, 9,625,000 evaluated" in text


@pytest.mark.parametrize("method", ["ccat", "mixup", "ar_adals_of_ensemble"])
def test_steps_with_loops_are_refused(method):
    with pytest.raises(UserError, match=f"cannot estimate {method}"):
        roofline.programs(digits.get_config(f"{method},testing"))

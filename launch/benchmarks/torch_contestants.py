"""PyTorch and its libraries as contestants: the work of `contestants.py`, with the same weights and images.

Each waits for its device before it reads the clock.
"""

import os
import shutil
import time
from collections.abc import Callable

import jax
import numpy as np

from arada import models
from launch.benchmarks import contestants
from launch.benchmarks.contestants import Contestant, Network, mean_top_logit, optimizer_settings, working


def _import_torch():
    """torch, and its device of the same kind as JAX's."""
    import torch

    torch.set_num_threads(contestants.usable_cpus())
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as XLA has it; a CPU stays at float32
    platform = jax.default_backend()
    if platform not in ("cpu", "gpu"):
        raise ImportError(f"PyTorch does not run on {platform!r}")
    if platform == "gpu" and not torch.cuda.is_available():
        raise ImportError("this PyTorch finds no GPU; install one that is built for it")
    return torch, torch.device("cuda" if platform == "gpu" else "cpu")


def _wait(torch) -> None:
    """Waits until the GPU, if there is one, has finished its work."""
    if jax.default_backend() == "gpu":
        torch.cuda.synchronize()


def _compiled(torch, f: Callable) -> Callable:
    """`torch.compile` of f. Raises ImportError without a C++ compiler, which it needs on a CPU."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ImportError("torch.compile needs a C++ compiler")
    return torch.compile(f)


def _classifier(network: Network, images: np.ndarray, layout: str):
    """(torch, classifier, images [B, C, H, W] in [0, 1] or uint8) in a memory layout, on the device."""
    torch, device = _import_torch()
    from launch.benchmarks import peers

    memory_format = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}[layout]
    classifier = peers.classifier(*network.build()).to(device, memory_format=memory_format)
    images = torch.tensor(images).to(device).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    return torch, classifier, images


def training(network: Network, batch_size: int, optimizer: dict, layout: str, compiled: bool = False) -> Contestant:
    """The same step in PyTorch with fused updates. Weight decay replaces the l2 term, with the same gradient."""
    torch, classifier, images = _classifier(network, contestants.draw_images(batch_size, network.image_shape), layout)
    labels = torch.tensor(contestants.draw_labels(batch_size)).long().to(images.device)
    settings = optimizer_settings(optimizer)
    counted = [[], []]
    for parameter in classifier.parameters():
        counted[settings.l2_on == "everything" or parameter.ndim == 4].append(parameter)
    groups = [{"params": counted[0], "weight_decay": 0}, {"params": counted[1], "weight_decay": 2 * settings.l2}]
    groups = [group for group in groups if group["params"]]
    rate = settings.learning_rate
    if settings.name == "adam":
        updates = torch.optim.Adam(groups, lr=rate, eps=1e-7, fused=True)
    else:
        updates = torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    classifier.train()

    def loss_of(images, labels):
        return torch.nn.functional.cross_entropy(classifier(images.float() / 255), labels)

    loss_of = _compiled(torch, loss_of) if compiled else loss_of

    def work():
        loss = loss_of(images, labels)
        updates.zero_grad()
        loss.backward()
        updates.step()
        _wait(torch)
        return loss.item()

    return working(work, batch_size, float)


def gradients(network: Network, batch_size: int, layout: str, compiled: bool = False) -> Contestant:
    """The same by autograd, in a Python loop, without gradients of the weights."""
    torch, classifier, images = _classifier(network, contestants.draw_images(batch_size, network.image_shape), layout)
    classifier.requires_grad_(False)
    images = images.float() / 255
    with torch.no_grad():
        label = classifier(images).argmax(dim=1)
    is_label = torch.nn.functional.one_hot(label, 10).bool()
    logits_of = _compiled(torch, classifier) if compiled else classifier

    def work():
        moved = images
        for _ in range(contestants.GRADIENT_STEPS):
            moved = moved.detach().requires_grad_()
            logits = logits_of(moved)
            margins = logits[is_label] - logits.masked_fill(is_label, -torch.inf).amax(dim=1)
            moved = moved.detach() - 1e-3 * torch.autograd.grad(margins.sum(), moved)[0]
        _wait(torch)
        return moved - images

    return working(work, contestants.GRADIENT_STEPS * batch_size, lambda moved: moved.norm().item())


def attack(
    network: Network, images: np.ndarray, library: str, iterations: int, amount: float, layout: str
) -> Contestant:
    """Carlini-Wagner of a PyTorch library, one search of `iterations` without abort, on `images` as one batch.

    The weights need no gradients, which saves the libraries useless work. torchattacks may stop early; its work is
    counted by its calls of the network.
    """
    torch, classifier, images = _classifier(network, np.asarray(models.unit_range(images)), layout)
    classifier.requires_grad_(False)
    with torch.no_grad():
        logits = classifier(images)
    label, calls = logits.argmax(dim=1), 0
    if library == "foolbox":
        import foolbox

        attack = foolbox.attacks.L2CarliniWagnerAttack(
            1, iterations, stepsize=0.005, confidence=0, initial_const=1e-2, abort_early=False
        )
        foolbox_model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=images.device)

        def run():
            attack(foolbox_model, images, label, epsilons=None)
    elif library == "torchattacks":
        import torchattacks

        attack = torchattacks.CW(classifier, c=1e-2, kappa=0, steps=iterations, lr=0.005)

        def run():
            attack(images, label)
    else:
        from adv_lib.attacks import carlini_wagner_l2

        options = {"binary_search_steps": 1, "max_iterations": iterations, "learning_rate": 0.005}

        def run():
            carlini_wagner_l2(classifier, images, label, initial_const=1e-2, abort_early=False, **options)

    def count(*_):
        nonlocal calls
        calls += 1

    classifier.register_forward_hook(count)

    def turn():
        nonlocal calls
        calls, start = 0, time.perf_counter()
        run()
        _wait(torch)
        return amount * min(calls / iterations, 1), time.perf_counter() - start

    return Contestant(turn, mean_top_logit(logits.numpy(force=True)))

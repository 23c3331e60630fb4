"""The networks of `arada.models` in PyTorch, written from their descriptions, and the conversion of weights.

Tests compare logits with them, `launch/benchmarks/speed.py` compares speed. Needs torch (tests/requirements-peers.txt).
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from arada import models


class Conv(nn.Conv2d):
    """A convolution with TensorFlow's `SAME` padding, for maps of even size."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, *, bias: bool):
        super().__init__(inputs, outputs, size, stride, padding=size // 2 if stride == 1 else 0, bias=bias)

    def forward(self, x):
        """[B, C, H, W] to [B, outputs, H / stride, W / stride]."""
        if self.stride == (2, 2) and self.kernel_size == (3, 3):
            x = functional.pad(x, (0, 1, 0, 1))
        return super().forward(x)


class Twin(nn.Module):
    """Keeps layers in the order of their calls, which is the order of flax's names."""

    # The constructor's arguments after the number of channels: fields of the module in `arada.models`.
    fields = ("num_classes", "depth", "width")

    def __init__(self, *, bias: bool, epsilon: float, momentum: float):
        super().__init__()
        self.bias, self.epsilon, self.momentum = bias, epsilon, momentum
        self.convolutions, self.norms, self.blocks = nn.ModuleList(), nn.ModuleList(), []

    def conv(self, inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
        """A new convolution."""
        self.convolutions.append(Conv(inputs, outputs, size, stride, bias=self.bias))
        return self.convolutions[-1]

    def norm(self, features: int) -> nn.Module:
        """A new batch norm. PyTorch's momentum is the weight of the new value."""
        self.norms.append(nn.BatchNorm2d(features, self.epsilon, 1 - self.momentum))
        return self.norms[-1]


class ResNetV1(Twin):
    """edward2's ResNet for ImageNet."""

    fields = (*Twin.fields, "stride_on")

    def __init__(self, channels: int, num_classes: int, depth: int, width: int, stride_on: str):
        super().__init__(bias=False, epsilon=1e-5, momentum=0.9)
        self.stem, self.stem_norm = self.conv(channels, width, 7, 2), self.norm(width)
        before = width
        groups = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
        for group, blocks in enumerate(groups):
            inside, after = width << group, 4 * width << group
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                first, second = {"1x1": (stride, 1), "3x3": (1, stride)}[stride_on]
                block = {"conv_0": self.conv(before, inside, 1, first), "norm_0": self.norm(inside)}
                block["conv_1"], block["norm_1"] = self.conv(inside, inside, 3, second), self.norm(inside)
                block["conv_2"], block["norm_2"] = self.conv(inside, after, 1), self.norm(after)
                block["shortcut"] = None
                if index == 0:
                    block["shortcut"] = nn.Sequential(self.conv(before, after, 1, stride), self.norm(after))
                self.blocks.append(block)
                before = after
        self.head = nn.Linear(before, num_classes)

    def forward(self, x):
        """Normalised images [B, C, H, W] to logits [B, Z]."""
        x = functional.relu(self.stem_norm(self.stem(functional.pad(x, (3, 3, 3, 3)))))
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        for block in self.blocks:
            y = functional.relu(block["norm_0"](block["conv_0"](x)))
            y = functional.relu(block["norm_1"](block["conv_1"](y)))
            y = block["norm_2"](block["conv_2"](y))
            x = functional.relu((block["shortcut"](x) if block["shortcut"] else x) + y)
        return self.head(x.mean((2, 3)))


class ResNetV2(Twin):
    """Keras' ResNet v2."""

    def __init__(self, channels: int, num_classes: int, depth: int, width: int):
        super().__init__(bias=True, epsilon=1e-3, momentum=0.99)
        self.stem, self.stem_norm = self.conv(channels, width, 3), self.norm(width)
        before = inside = width
        for stage in range(3):
            after = 4 * width if stage == 0 else 2 * before
            for index in range((depth - 2) // 9):
                stride = 2 if stage > 0 and index == 0 else 1
                block = {"norm_0": None if stage == index == 0 else self.norm(before)}
                block["conv_0"], block["norm_1"] = self.conv(before, inside, 1, stride), self.norm(inside)
                block["conv_1"], block["norm_2"] = self.conv(inside, inside, 3), self.norm(inside)
                block["conv_2"] = self.conv(inside, after, 1)
                block["shortcut"] = self.conv(before, after, 1, stride) if index == 0 else None
                self.blocks.append(block)
                before = after
            inside = after
        self.head_norm, self.head = self.norm(before), nn.Linear(before, num_classes)

    def forward(self, x):
        """Normalised images [B, C, H, W] to logits [B, Z]."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            y = functional.relu(block["norm_0"](x)) if block["norm_0"] else x
            y = functional.relu(block["norm_1"](block["conv_0"](y)))
            y = functional.relu(block["norm_2"](block["conv_1"](y)))
            x = (block["shortcut"](x) if block["shortcut"] else x) + block["conv_2"](y)
        return self.head(functional.relu(self.head_norm(x)).mean((2, 3)))


class WideResNet(Twin):
    """edward2's wide ResNet, version 2."""

    def __init__(self, channels: int, num_classes: int, depth: int, width: int):
        super().__init__(bias=False, epsilon=1e-5, momentum=0.9)
        self.stem = self.conv(channels, 16, 3)
        before = 16
        for group, after in enumerate((16 * width, 32 * width, 64 * width)):
            for index in range((depth - 4) // 6):
                stride = 2 if group > 0 and index == 0 else 1
                block = {"norm_0": self.norm(before), "conv_0": self.conv(before, after, 3, stride)}
                block["norm_1"], block["conv_1"] = self.norm(after), self.conv(after, after, 3)
                changes = before != after or stride != 1
                block["shortcut"] = self.conv(before, after, 1, stride) if changes else None
                self.blocks.append(block)
                before = after
        self.head_norm, self.head = self.norm(before), nn.Linear(before, num_classes)

    def forward(self, x):
        """Normalised images [B, C, H, W] to logits [B, Z]."""
        x = self.stem(x)
        for block in self.blocks:
            y = block["conv_0"](functional.relu(block["norm_0"](x)))
            y = block["conv_1"](functional.relu(block["norm_1"](y)))
            x = (block["shortcut"](x) if block["shortcut"] else x) + y
        return self.head(functional.relu(self.head_norm(x)).mean((2, 3)))


class Classifier(nn.Module):
    """A network with its normalisation inside: images [B, C, H, W] in [0, 1] to logits [B, Z]."""

    def __init__(self, network: nn.Module, mean: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, images):
        """Logits [B, Z]."""
        return self.network((images - self.mean) / self.scale)


TWINS = {models.ResNetV1: ResNetV1, models.ResNetV2: ResNetV2, models.WideResNet: WideResNet}


def twin(model, variables) -> Twin:
    """`model` of `arada.models` in PyTorch with the weights of `variables`, in evaluation mode."""
    channels = np.shape(variables["params"]["Conv_0"]["kernel"])[2]
    kind = TWINS[type(model)]
    network = kind(channels, *(getattr(model, field) for field in kind.fields))
    copy_weights(variables, network)
    return network.eval()


def classifier(model, variables) -> Classifier:
    """`arada.models.logits_fn(model)` with `variables` bound, in PyTorch."""
    mean, scale = (_channels_first(variables["normalization"][name]) for name in ("mean", "scale"))
    return Classifier(twin(model, variables), mean, scale).eval()


def copy_weights(variables, network: Twin) -> None:
    """Copies flax's variables into a twin. Raises ValueError if the two differ in size."""
    params, stats = variables["params"], variables["batch_stats"]
    with torch.no_grad():
        for index, conv in enumerate(network.convolutions):
            conv.weight.copy_(_tensor(params[f"Conv_{index}"]["kernel"]).permute(3, 2, 0, 1))
            if conv.bias is not None:
                conv.bias.copy_(_tensor(params[f"Conv_{index}"]["bias"]))
        for index, norm in enumerate(network.norms):
            norm.weight.copy_(_tensor(params[f"BatchNorm_{index}"]["scale"]))
            norm.bias.copy_(_tensor(params[f"BatchNorm_{index}"]["bias"]))
            norm.running_mean.copy_(_tensor(stats[f"BatchNorm_{index}"]["mean"]))
            norm.running_var.copy_(_tensor(stats[f"BatchNorm_{index}"]["var"]))
        network.head.weight.copy_(_tensor(params["Dense_0"]["kernel"]).T)
        network.head.bias.copy_(_tensor(params["Dense_0"]["bias"]))
    found = sum(parameter.numel() for parameter in network.parameters())
    expected = sum(np.size(leaf) for layer in params.values() for leaf in layer.values())
    if found != expected:
        raise ValueError(f"the twin has {found} parameters, the network {expected}")


def _tensor(value) -> torch.Tensor:
    return torch.tensor(np.asarray(value))


def _channels_first(value) -> torch.Tensor:
    """Converts an array that broadcasts against [B, H, W, C] into one for [B, C, H, W]."""
    value = np.asarray(value, np.float32)
    return torch.tensor(value.reshape((1,) * (4 - value.ndim) + value.shape)).permute(0, 3, 1, 2)


class Bottleneck(nn.Module):
    """A block of `TorchvisionResNet`."""

    def __init__(self, inputs: int, inside: int, stride: int, changes: bool):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = nn.Conv2d(inside, inside, 3, stride, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = nn.Conv2d(inside, 4 * inside, 1, bias=False), nn.BatchNorm2d(4 * inside)
        self.downsample = None
        if changes:
            projection = nn.Conv2d(inputs, 4 * inside, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * inside))

    def forward(self, x):
        """[B, C, H, W] to [B, 4 * inside, H / stride, W / stride]."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))
        return functional.relu(y + (self.downsample(x) if self.downsample else x))


class TorchvisionResNet(nn.Module):
    """A ResNet with bottlenecks and the weight names of torchvision and timm."""

    def __init__(self, depth: int, num_classes: int = 1000):
        super().__init__()
        self.conv1, self.bn1, before = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), 64
        for group, blocks in enumerate({50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]):
            made = []
            for index in range(blocks):
                made.append(Bottleneck(before, 64 << group, 2 if group > 0 and index == 0 else 1, index == 0))
                before = 256 << group
            setattr(self, f"layer{group + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x):
        """Normalised images [B, 3, H, W] to logits [B, Z]."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))

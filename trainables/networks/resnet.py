"""Residual networks for small images, 6n + 2 layers deep."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.networks.cnn import Shape
from trainables.networks.layers import conv1x1, conv3x3, he_initialise

THIN = (16, 16, 32, 64)
"""Channels of the stem and of the three stages."""
WIDE = (32, 64, 128, 256)
"""The same of the networks called x4, whose stem is only twice as wide."""


def resnet(depth: int, channels: tuple[int, ...], shape: Shape, classes: int) -> nn.Module:
    """Three stages of (depth - 2) / 6 blocks at whole, half and quarter size, global pooling.

    Args:
        depth: 6n + 2, convolutions and the linear layer.
        channels: `THIN` or `WIDE`.
        shape: of one image.
        classes: number of logits.

    Source:
        He et al. 2016, section 4.2. Where a block changes the shape, its shortcut is a projection
        with batch norm (their option B), as in the literature on distillation (Tian et al.
        2020), to compare with it; they padded with zeros on CIFAR (option A), which takes 2752
        parameters less, whatever the depth.
    """
    stem, *stages = channels
    layers: list[nn.Module] = [conv3x3(shape[0], stem), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
    inputs = stem
    for stage, outputs in enumerate(stages):
        for block in range((depth - 2) // 6):
            layers.append(Block(inputs, outputs, stride=2 if stage and not block else 1))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return he_initialise(nn.Sequential(*layers, *head))


class Block(nn.Module):
    """`relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features `[n, inputs, H, W]` to `[n, outputs, H / stride, W / stride]`."""
        features = F.relu(self.norm1(self.conv1(x)), inplace=True)
        features = self.norm2(self.conv2(features))
        return F.relu(features.add_(self.shortcut(x)), inplace=True)

"""Wide residual networks for small images, 6n + 4 layers deep."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.networks.cnn import Shape
from trainables.networks.layers import conv1x1, conv3x3, he_initialise

_STEM = 16


def wide_resnet(depth: int, widening: int, shape: Shape, classes: int) -> nn.Module:
    """Three stages of (depth - 4) / 6 blocks of 16, 32 and 64 times `widening` channels.

    Args:
        depth: 6n + 4, convolutions (one shortcut among them).
        widening: k of WRN-depth-k.
        shape: of one image.
        classes: number of logits.

    Source:
        Zagoruyko & Komodakis 2016, table 1, with B(3, 3) blocks and no dropout.
    """
    layers: list[nn.Module] = [conv3x3(shape[0], _STEM)]
    inputs = _STEM
    for stage in range(3):
        outputs = _STEM * widening * 2**stage
        for block in range((depth - 4) // 6):
            layers.append(PreActivationBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return he_initialise(
        nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), *head)
    )


class PreActivationBlock(nn.Module):
    """`conv(relu(norm(conv(a)))) + x` with `a = relu(norm(x))`; a projection of a if shapes differ.

    Source:
        He et al. 2016, "Identity mappings in deep residual networks".
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.projection = None if inputs == outputs else conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[n, inputs, H, W]` to `[n, outputs, H / stride, W / stride]`."""
        active = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(active)
        features: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        return features.add_(shortcut)

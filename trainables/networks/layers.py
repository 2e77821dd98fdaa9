"""What residual networks for small images have in common."""

from torch import nn


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, or halves it with stride 2; batch norm has the bias."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A projection of every position (every second one with stride 2)."""
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def he_initialise(model: nn.Module) -> nn.Module:
    """Draw the weights of all convolutions from `N(0, 2 / (kernel area * output channels))`.

    Source:
        He et al. 2015, equation 14: the backward form, which published residual networks use.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model

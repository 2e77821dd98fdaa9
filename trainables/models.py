"""Networks by name: a small convolutional network in several widths."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

Shape = tuple[int, int, int]
"""Channels, height, width."""


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        # Batch norm subtracts any bias again.
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def small_cnn(width: int, shape: Shape, classes: int) -> nn.Module:
    """Two convolutional blocks of `width` and `2 * width` channels and a linear layer.

    The last pooling leaves 2x2 positions whatever the image size: on 8x8 digits *where*
    a stroke lies tells classes apart, which global pooling would throw away.

    Args:
        width: channels of the first block.
        shape: of one image.
        classes: number of logits.
    """
    return nn.Sequential(
        *_block(shape[0], width),
        nn.MaxPool2d(2),
        *_block(width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    f"cnn{width}": partial(small_cnn, width) for width in (4, 8, 16, 32, 64)
}
"""Every architecture by name: shape and number of classes to a network."""


def build(name: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """Build a network whose initial weights depend on `seed` alone.

    The global random state stays as it was.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the GPUs as well.
        torch.default_generator.manual_seed(seed)
        return MODELS[name](shape, classes)


def count_parameters(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())

"""A small convolutional network in several widths."""

from torch import nn

Shape = tuple[int, int, int]
"""Channels, height, width."""


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


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        # Batch norm subtracts any bias again.
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]

"""What networks cost to run. Of ours it is known without building them, and without torch."""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise

Shape = tuple[int, int, int]
"""Channels, height, width."""
Price = Callable[[Shape, int], int]
"""From the shape of an image and the number of classes to multiplications."""


def _cnn(width: int, shape: Shape, classes: int) -> int:
    channels, height, tall = shape
    first = height * tall * 9 * channels * width
    second = (height // 2) * (tall // 2) * 9 * width * 2 * width
    return first + second + 8 * width * classes


def _residual(channels: tuple[int, ...], blocks: int, shape: Shape, classes: int) -> int:
    """Stem and three stages of so many blocks, with a projection where the channels change."""
    height, width = shape[1:]
    products = height * width * 9 * shape[0] * channels[0]
    for stage, (inputs, outputs) in enumerate(pairwise(channels)):
        if stage:  # the stride of 2
            height, width = (height + 1) // 2, (width + 1) // 2
        convolutions = 9 * outputs * (inputs + (2 * blocks - 1) * outputs)
        projection = inputs * outputs if inputs != outputs else 0
        products += height * width * (convolutions + projection)
    return products + channels[-1] * classes


def _cnn_weights(width: int, channels: int, classes: int) -> int:
    normed = 2 * width + 4 * width
    return 9 * width * (channels + 2 * width) + normed + (8 * width + 1) * classes


def _residual_weights(
    widths: tuple[int, ...], blocks: int, channels: int, classes: int, *, wide: bool = False
) -> int:
    """As `_residual`; wide ones normalise before they convolve, and not their stem and shortcut."""
    weights = 9 * channels * widths[0] + (0 if wide else 2 * widths[0])
    for inputs, outputs in pairwise(widths):
        weights += 9 * outputs * (inputs + (2 * blocks - 1) * outputs)
        weights += 2 * (inputs + (2 * blocks - 1) * outputs) if wide else 4 * blocks * outputs
        if inputs != outputs:
            weights += inputs * outputs + (0 if wide else 2 * outputs)
    return weights + (2 * widths[-1] if wide else 0) + (widths[-1] + 1) * classes


_THIN, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
PRICES: dict[str, Price] = {
    **{f"cnn{width}": partial(_cnn, width) for width in (4, 8, 16, 32, 64)},
    **{
        f"resnet{depth}": partial(_residual, _THIN, (depth - 2) // 6)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{f"resnet{depth}x4": partial(_residual, _WIDE, (depth - 2) // 6) for depth in (8, 32)},
    **{
        f"wrn-{depth}-{k}": partial(_residual, (16, 16 * k, 32 * k, 64 * k), (depth - 4) // 6)
        for depth, k in ((16, 2), (40, 2), (40, 4))
    },
}
"""Of our architectures, by name; a test holds them to what torch counts."""
_WEIGHTS: dict[str, Callable[[int, int], int]] = {
    **{f"cnn{width}": partial(_cnn_weights, width) for width in (4, 8, 16, 32, 64)},
    **{
        f"resnet{depth}": partial(_residual_weights, _THIN, (depth - 2) // 6)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4": partial(_residual_weights, _WIDE, (depth - 2) // 6) for depth in (8, 32)
    },
    **{
        f"wrn-{depth}-{k}": partial(
            _residual_weights, (16, 16 * k, 32 * k, 64 * k), (depth - 4) // 6, wide=True
        )
        for depth, k in ((16, 2), (40, 2), (40, 4))
    },
}
"""From channels of an image and number of classes to trained parameters; tested likewise."""


def parameters(architecture: str, channels: int, classes: int) -> int | None:
    """Trained parameters of a network of ours; None for any other.

    Args:
        architecture: any name.
        channels: of an image.
        classes: number of logits.
    """
    count = _WEIGHTS.get(architecture)
    return None if count is None else count(channels, classes)


@lru_cache(maxsize=64)
def forward_flops(architecture: str, shape: Shape, classes: int) -> int:
    """Floating-point operations of one image's forward pass: those of its matrix products alone.

    Convolutions and linear layers are matrix products; what is left (normalisation, pooling) is
    bound by memory and is not counted. A forward and a backward pass take three times as many.
    A network that is not ours is built to be counted, which loads torch.

    Args:
        architecture: any name that `models.build` knows.
        shape: of an image.
        classes: number of logits.

    Returns:
        At least 1, so that it can be divided by.

    Raises:
        ValueError: as for `models.build`.
    """
    if architecture in PRICES:
        return 2 * PRICES[architecture](shape, classes)
    return count_flops(architecture, shape, classes)


def count_flops(architecture: str, shape: Shape, classes: int) -> int:
    """The same, counted by torch while an image goes through."""
    import torch  # noqa: PLC0415  (plans do without, where they can)
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    from trainables import models  # noqa: PLC0415

    model = models.build(architecture, shape, classes, seed=0).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *shape))
    flops: int = counter.get_total_flops()
    return max(1, flops)

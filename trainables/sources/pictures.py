"""PNG, JPEG and their like, decoded in threads into one array of a common shape."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.sources.common import DataError, Progress

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp")
)
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # trying all that PIL knows is slower
_GREY = ("1", "L", "LA", "La")
_COLOUR = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_BATCH = 64
"""Pictures that a thread decodes at a time."""
_LOOKED_AT = 100
"""Pictures whose headers tell grey-scale from colour."""

Picture = tuple[str, Path | bytes]
"""What to call it in messages, and the file or its content."""
T = TypeVar("T")


def common_shape(pictures: Sequence[Picture], image_size: int | None) -> tuple[int, int, int]:
    """Channels, height and width that pictures are decoded to; only headers are read.

    The channels are 1 if all pictures are grey-scale, else 3 (of a hundred, evenly spaced; a
    colour picture that turns up later is an error). The size is `image_size`, or else the first
    picture's own.
    """
    looked_at = pictures[:: -(-len(pictures) // _LOOKED_AT)]
    grey = all(_use(each, lambda image: image.mode in _GREY) for each in looked_at)
    width, height = (
        (image_size, image_size)
        if image_size
        else _use(pictures[0], lambda image: (image.width, image.height))
    )
    return 1 if grey else 3, height, width


def decode(
    pictures: Iterable[Picture],
    count: int,
    shape: tuple[int, int, int],
    image_size: int | None,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Decode pictures in their order.

    Args:
        pictures: `count` of them; only a few batches are drawn ahead.
        count: of pictures.
        shape: of every decoded image; see `common_shape`.
        image_size: the shorter side is scaled to it (bilinear, antialiased) and the middle of the
            longer one cut out; if None, pictures must have the size that `shape` says.
        progress: called after each hundredth.

    Returns:
        uint8 `[count, C, H, W]`.

    Raises:
        DataError: a picture is damaged, or of another size or kind; it is named.
    """
    out = np.empty((count, *shape), np.uint8)

    def decode_batch(start: int, batch: Sequence[Picture]) -> None:
        for row, picture in enumerate(batch, start):
            out[row] = _use(
                picture, partial(_pixels, picture[0], shape=shape, image_size=image_size)
            )

    workers = len(os.sched_getaffinity(0))
    source = iter(pictures)
    done = told = 0
    with ThreadPoolExecutor(workers) as pool:
        # A few batches per worker at a time: what waits is in memory still encoded.
        while window := [b for _ in range(8 * workers) if (b := list(islice(source, _BATCH)))]:
            starts = range(done, count, _BATCH)
            for batch, _ in zip(window, pool.map(decode_batch, starts, window), strict=True):
                done += len(batch)
                if progress is not None and done * 100 // count > told:
                    told = done * 100 // count
                    progress(done, count)
    return out


def _use(picture: Picture, function: Callable[[Image.Image], T]) -> T:
    name, content = picture
    try:
        opened = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(opened, formats=_FORMATS) as image:
            return function(image)
    except DataError:
        raise
    except Exception as error:  # PIL's plugins raise whatever a damaged file leads them to
        cause = str(error).partition(" <_io")[0] or type(error).__name__
        raise DataError(f"{name}: not a picture that can be read: {cause}") from error


def _pixels(
    name: str, image: Image.Image, shape: tuple[int, int, int], image_size: int | None
) -> NDArray[np.uint8]:
    channels, height, width = shape
    if image.mode not in (*_GREY, *_COLOUR):
        raise DataError(f"{name}: pixels of mode {image.mode}; allowed: 8 bits a channel")
    if channels == 1 and image.mode not in _GREY:
        raise DataError(f"{name}: in colour, among pictures in grey-scale")
    if image_size is None and image.size != (width, height):
        raise DataError(
            f"{name}: {image.width}x{image.height} pixels, the first has {width}x{height}; "
            "set image_size to bring all to one size",
            "image_size",
        )
    converted = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        converted = _fit(converted, image_size)
    pixels = np.asarray(converted)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, round(scale * length)) for length in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))

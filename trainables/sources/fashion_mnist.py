"""Fashion-MNIST in the IDX files of its authors, gzipped or not.

They lie in `root` itself, as they are published and as Debian's `dataset-fashion-mnist` installs
them, or in `root/FashionMNIST/raw`, where torchvision puts them.
"""

import gzip
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.config import ImageDataset
from trainables.sources import published
from trainables.sources.common import DataError, Format, Part, Progress, Split, TrainingSet, root_of

SIZE = TrainingSet(samples=60_000, classes=10, shape=(1, 28, 28))
_TITLE = "Fashion-MNIST"
_FOLDERS = ("", "FashionMNIST/raw")


def _files(config: ImageDataset, split: Split) -> tuple[Path, Path]:
    """Images and labels, where they are or else where they should be."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images, labels = (
        [
            root_of(config) / folder / f"{prefix}-{name}-ubyte{suffix}"
            for folder in _FOLDERS
            for suffix in (".gz", "")
        ]
        for name in ("images-idx3", "labels-idx1")
    )
    return _first(images), _first(labels)


def _first(places: list[Path]) -> Path:
    return next((path for path in places if path.is_file()), places[0])


def measure(config: ImageDataset) -> TrainingSet:
    """60,000 images of 28x28 pixels in grey-scale."""
    published.require(config, _TITLE, _files(config, "train"))
    return SIZE


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """60,000 or 10,000 images."""
    if config.download and not all(path.is_file() for path in _files(config, split)):
        from torchvision.datasets import FashionMNIST  # noqa: PLC0415  (see `common`)

        make = partial(FashionMNIST, root_of(config), download=True)
        published.construct(config, _TITLE, make, {})
    published.require(config, _TITLE, _files(config, split))
    images, labels = _files(config, split)
    pixels = read_idx(images, 3)[:, None]
    return Part(pixels, read_idx(labels, 1).astype(np.int64), SIZE.classes)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped if its name ends in `.gz`.

    Raises:
        DataError: it is damaged or holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    # Two zero bytes, the code of unsigned bytes, the number of dimensions; then each dimension.
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < header:
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    if len(content) - header != np.prod(shape):
        raise DataError(
            f"{path} is damaged: {len(content) - header} bytes instead of {np.prod(shape)}"
        )
    # A bytearray, so that the array may be written to.
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)


FORMAT = Format(measure, read)

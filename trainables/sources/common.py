"""What every source has: its size, what identifies its content, and how it is read.

The modules of this package import neither torch nor pyarrow when they are imported, so that a
data set can be described in a moment.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.config import ImageDataset
from trainables.parts import PATH_VARIABLE

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]
"""Called with the images done and their total, about a hundred times."""


class DataError(ValueError):
    """A data set is missing, damaged or not in the form it must have.

    Args:
        message: names the file or folder, what is wrong and what is allowed.
        key: of the search file's `dataset` whose value is to blame.
    """

    def __init__(self, message: str, key: str = "root") -> None:
        super().__init__(message)
        self.key = key


class TrainingSet(NamedTuple):
    """Size of a training set as published, before any split."""

    samples: int
    classes: int
    shape: tuple[int, int, int]
    """Channels, height and width."""


class Part(NamedTuple):
    """The training or the test set as published."""

    images: NDArray[np.uint8]
    """`[n, C, H, W]`, one channel for grey-scale."""
    labels: NDArray[np.int64]
    """`[n]`, in 0..classes-1."""
    classes: int


@dataclass(frozen=True)
class Format:
    """How the data sets of one source are measured and read."""

    measure: Callable[[ImageDataset], TrainingSet]
    """Quick. Raises `DataError` if the training set is missing."""
    read: Callable[[ImageDataset, Split, Progress | None], Part]
    """Raises `DataError` if files are missing or damaged; a test set that is not there is empty."""
    identity: Callable[[ImageDataset, Split], Any] | None = None
    """JSON values that change with the content of the files; None: reading is quick enough (or
    its outcome not known beforehand), and nothing is cached."""


def root_of(config: ImageDataset) -> Path:
    """Folder of a data set's files; a relative one starts where the search did, in workers too."""
    return Path(os.environ.get(PATH_VARIABLE, ""), Path(config.root).expanduser()).absolute()


def empty(classes: int, shape: tuple[int, int, int]) -> Part:
    """A test set that is not there."""
    return Part(np.empty((0, *shape), np.uint8), np.empty(0, np.int64), classes)


def fingerprint(root: Path, files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Names below `root`, sizes and modification times (ns) of files."""
    stats = ((path, path.stat()) for path in files)
    return [(path.relative_to(root).as_posix(), s.st_size, s.st_mtime_ns) for path, s in stats]


def check(part: Part, where: str, key: str = "root") -> Part:
    """Return the part if it is in the documented form.

    Args:
        part: maybe empty.
        where: its file, folder or function, for messages.
        key: of the search file, for messages.

    Raises:
        DataError: it is not.
    """
    images, labels, classes = part
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:  # noqa: PLR2004
        raise DataError(
            f"{where}: images must be uint8 [n, C, H, W], found {images.dtype} "
            f"{list(images.shape)}",
            key,
        )
    if labels.dtype != np.int64 or labels.shape != (len(images),):
        raise DataError(
            f"{where}: labels must be int64 [{len(images)}], one an image, found {labels.dtype} "
            f"{list(labels.shape)}",
            key,
        )
    if classes < 2:  # noqa: PLR2004
        raise DataError(f"{where}: {classes} classes; at least 2 are needed", key)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise DataError(
            f"{where}: sample {outside[0]} has label {labels[outside[0]]}; allowed: 0 to "
            f"{classes - 1}",
            key,
        )
    return part

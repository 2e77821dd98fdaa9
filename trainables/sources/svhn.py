"""Street View House Numbers, cropped digits, in the MATLAB files of its authors."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import ImageDataset
from trainables.sources import published
from trainables.sources.common import (
    Format,
    Part,
    Progress,
    Split,
    TrainingSet,
    fingerprint,
    root_of,
)

SIZE = TrainingSet(samples=73_257, classes=10, shape=(3, 32, 32))
"""Without the half million `extra` images."""


def _file(config: ImageDataset, split: Split) -> Path:
    return root_of(config) / f"{split}_32x32.mat"


def measure(config: ImageDataset) -> TrainingSet:
    """73,257 images of 32x32 pixels in colour."""
    published.require(config, "SVHN", [_file(config, "train")])
    return SIZE


def identity(config: ImageDataset, split: Split) -> list[tuple[str, int, int]]:
    """The file, once it is there."""
    file = _file(config, split)
    if not file.is_file():
        _construct(config, split)
    return fingerprint(root_of(config), [file])


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """73,257 or 26,032 images; label 0 is the digit 0."""
    data = _construct(config, split)
    return Part(np.ascontiguousarray(data.data), np.asarray(data.labels, np.int64), SIZE.classes)


def _construct(config: ImageDataset, split: Split) -> Any:
    from torchvision.datasets import SVHN  # noqa: PLC0415  (see `common`)

    return published.construct(
        config,
        "SVHN",
        partial(SVHN, root_of(config), split=split, download=config.download),
        {_file(config, split): SVHN.split_list[split][2]},
    )


FORMAT = Format(measure, read, identity)

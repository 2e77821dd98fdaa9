"""CIFAR-10 and CIFAR-100 in the pickled batches of their authors, read by torchvision."""

from functools import partial
from typing import Any

import numpy as np

from trainables.config import ImageDataset
from trainables.sources import published
from trainables.sources.common import Format, Part, Progress, Split, TrainingSet, root_of

_SAMPLES, _SHAPE = 50_000, (3, 32, 32)
_FOLDERS = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
_FIRST = {10: "data_batch_1", 100: "train"}


def measure(classes: int, config: ImageDataset) -> TrainingSet:
    """50,000 images of 32x32 pixels in colour."""
    first = root_of(config) / _FOLDERS[classes] / _FIRST[classes]
    published.require(config, f"CIFAR-{classes}", [first])
    return TrainingSet(_SAMPLES, classes, _SHAPE)


def read(
    classes: int, config: ImageDataset, split: Split, progress: Progress | None = None
) -> Part:
    """50,000 or 10,000 images; of CIFAR-100 the fine labels."""
    from torchvision import datasets  # noqa: PLC0415  (see `common`)

    kind: Any = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    root = root_of(config)
    data = published.construct(
        config,
        f"CIFAR-{classes}",
        partial(kind, root, train=split == "train", download=config.download),
        {root / kind.base_folder / name: md5 for name, md5 in listed},
    )
    images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    return Part(images, np.asarray(data.targets, np.int64), classes)


FORMATS = {
    f"cifar{classes}": Format(partial(measure, classes), partial(read, classes))
    for classes in (10, 100)
}
"""Nothing is cached: torchvision reads the batches as quickly as a cache would be."""

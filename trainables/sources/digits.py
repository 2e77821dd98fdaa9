"""Scikit-learn's 1797 handwritten digits: no files, no download."""

import numpy as np

from trainables.config import ImageDataset
from trainables.sources.common import Format, Part, Progress, Split, TrainingSet

SIZE = TrainingSet(samples=1437, classes=10, shape=(1, 8, 8))


def measure(config: ImageDataset) -> TrainingSet:
    """1437 images of 8x8 pixels in grey-scale."""
    return SIZE


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """8x8 grey values 0..16, scaled to 0..240.

    They come without an official test split: a stratified fifth is set aside by a
    constant seed, the same whatever the configuration.
    """
    import torch  # noqa: PLC0415  (see `common`; scikit-learn is slow too)
    from sklearn.datasets import load_digits  # noqa: PLC0415

    from trainables.datasets import generator, stratified  # noqa: PLC0415  (it imports us)

    bunch = load_digits()
    images = (bunch.images * 15).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    count = len(labels) - SIZE.samples
    test = stratified(torch.from_numpy(labels), count, generator("digits test split")).numpy()
    train = np.setdiff1d(np.arange(len(labels)), test)
    index = train if split == "train" else test
    return Part(images[index], labels[index], SIZE.classes)


FORMAT = Format(measure, read)

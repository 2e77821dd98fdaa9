"""Data sources as uint8 tensors in memory, split the same way for everyone.

The order matters and is fixed: test set aside first, then a clean, stratified
validation split, then label noise on what is left to train on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from trainables.augment import AUGMENTATIONS, Images
from trainables.config import ImageDataset
from trainables.seeds import derive
from trainables.sizes import IMAGE_SOURCES, count_share, count_validation


@dataclass(frozen=True)
class Source:
    """A data set as published: images uint8 `[n, C, H, W]`, labels int64 `[n]`."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True, eq=False)
class Splits:
    """Training and validation split of a data set."""

    images: Tensor
    """uint8 `[n, C, H, W]`, the training split."""
    labels: Tensor
    """int64 `[n]`, with label noise: what training sees."""
    clean_labels: Tensor
    """int64 `[n]`, before label noise."""
    val_images: Tensor
    """uint8 `[v, C, H, W]`."""
    val_labels: Tensor
    """int64 `[v]`, clean."""
    classes: int
    mean: Tensor
    """float32 `[C]`, of the training images scaled to [0, 1]."""
    std: Tensor
    """float32 `[C]`."""
    augmentation: str = "none"
    """Name of the views that training sees."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True, eq=False)
class Samples:
    """What a training loop reads: images as they are stored, rendered batch by batch."""

    images: Tensor
    """uint8 `[n, C, H, W]`."""
    labels: Tensor
    """int64 `[n]`."""
    mean: Tensor
    """float32 `[C]`, of pixels scaled to [0, 1]."""
    std: Tensor
    """float32 `[C]`."""
    augmentation: str = "none"
    """A name of `augment.AUGMENTATIONS`."""
    noisy: Tensor | None = None
    """bool `[n]`, whose label was replaced; None where that is not known."""

    def on(self, device: torch.device) -> Images:
        """The images on a device, ready to be rendered."""
        augmentation = AUGMENTATIONS[self.augmentation]
        return Images(self.images, self.mean, self.std, augmentation, device)


def generator(*parts: object) -> torch.Generator:
    """A CPU generator for the stream of randomness that `parts` name."""
    return torch.Generator().manual_seed(derive(*parts))


def stratified(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draw exactly `count` indices with every class in proportion.

    Each class gives its share rounded down; the places left go to the largest
    remainders (Hamilton's method), so that the total is exact.

    Args:
        labels: int64 `[n]`.
        count: how many of the n to draw.
        rng: draws the members of each class.

    Returns:
        int64 `[count]`, sorted.
    """
    per_class = torch.bincount(labels)
    share = per_class.double() * (count / len(labels))
    quota = share.floor().long()
    by_remainder = torch.argsort(share - quota, descending=True, stable=True)
    quota[by_remainder[: count - int(quota.sum())]] += 1
    drawn = []
    for label, places in enumerate(quota.tolist()):
        members = torch.nonzero(labels == label).flatten()
        drawn.append(members[torch.randperm(len(members), generator=rng)[:places]])
    return torch.cat(drawn).sort().values


def _rest(samples: int, taken: Tensor) -> Tensor:
    left = torch.ones(samples, dtype=torch.bool)
    left[taken] = False
    return torch.nonzero(left).flatten()


def digits(config: ImageDataset) -> Source:
    """Scikit-learn's 1797 handwritten digits, 8x8 grey values 0..16 scaled to 0..240.

    They come without an official test split: a stratified fifth is set aside by a
    constant seed, the same whatever the configuration.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415  (slow; other sources do without)

    bunch = load_digits()
    images = (torch.from_numpy(bunch.images) * 15).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    count = len(labels) - IMAGE_SOURCES["digits"].train_samples
    test = stratified(labels, count, generator("digits test split"))
    train = _rest(len(labels), test)
    return Source(images[train], labels[train], images[test], labels[test])


SOURCES: dict[str, Callable[[ImageDataset], Source]] = {"digits": digits}
"""Every data source by name."""


@lru_cache(maxsize=4)
def load(config: ImageDataset, cache_folder: Path | None = None) -> Splits:
    """Training and validation split, cached in this process.

    Args:
        config: of the data set.
        cache_folder: where decoded images are kept; decoded anew each time if None.
    """
    source = SOURCES[config.name](config)
    count = count_validation(len(source.labels), config.validation)
    aside = stratified(source.labels, count, generator("validation", config.seed))
    kept = _rest(len(source.labels), aside)
    images, clean = source.images[kept], source.labels[kept]
    classes = IMAGE_SOURCES[config.name].classes
    scaled = images.float() / 255
    return Splits(
        images=images,
        labels=add_label_noise(clean, classes, config.label_noise, config.seed),
        clean_labels=clean,
        val_images=source.images[aside],
        val_labels=source.labels[aside],
        classes=classes,
        mean=scaled.mean(dim=(0, 2, 3)),
        std=scaled.std(dim=(0, 2, 3)),
        augmentation="none" if config.augmentation == "auto" else config.augmentation,
    )


def load_test(config: ImageDataset) -> tuple[Tensor, Tensor]:
    """The test split, uint8 `[t, C, H, W]` and int64 `[t]`: for confirming answers only."""
    source = SOURCES[config.name](config)
    return source.test_images, source.test_labels


def add_label_noise(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Replace exactly `share` of the labels by another class, drawn uniformly.

    Args:
        labels: int64 `[n]`.
        classes: number of classes.
        share: in [0, 1); rounded half up to whole samples.
        seed: draws which samples and which classes.
    """
    rng = generator("label noise", seed)
    count = count_share(len(labels), share)
    chosen = torch.randperm(len(labels), generator=rng)[:count]
    shift = torch.randint(1, classes, (count,), generator=rng)
    noisy = labels.clone()
    noisy[chosen] = (noisy[chosen] + shift) % classes
    return noisy


def training_samples(splits: Splits, kept: Tensor | None = None) -> Samples:
    """The training split, or the `kept` indices (int64 `[k]`) of it, ready for the engine."""
    index = torch.arange(len(splits.labels)) if kept is None else kept
    return Samples(
        splits.images[index],
        splits.labels[index],
        splits.mean,
        splits.std,
        splits.augmentation,
        splits.labels[index] != splits.clean_labels[index],
    )


def validation_samples(splits: Splits) -> Samples:
    """The validation split, ready for the engine."""
    return Samples(splits.val_images, splits.val_labels, splits.mean, splits.std)

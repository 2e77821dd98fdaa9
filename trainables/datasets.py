"""Data sources as uint8 tensors in memory, split the same way for everyone.

The order matters and is fixed: the test set stays where it is, a stratified subset of the
published training set is drawn if only a part is wanted, then a clean, stratified validation
split is set aside, and label noise comes upon what is left to train on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainables import cache
from trainables.augment import AUGMENTATIONS, Images
from trainables.config import ImageDataset, content_key, plain_name
from trainables.seeds import derive
from trainables.sizes import augmentation_of, count_kept, count_share, count_validation
from trainables.sources import common
from trainables.sources.common import Progress, Split
from trainables.sources.known import find_source


@dataclass(frozen=True, eq=False)
class Source:
    """What a user's own function returns: a data set as published, on the CPU."""

    images: Tensor
    """uint8 `[n, C, H, W]`."""
    labels: Tensor
    """int64 `[n]`, in 0..classes-1."""
    classes: int
    test: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Reads the test set, uint8 `[t, C, H, W]` and int64 `[t]`. Only a confirmation calls it; None
    if there is no test set, and answers can then not be confirmed."""


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
    positions: Tensor | None = None
    """int64 `[n]`, where the training split's samples stand in the published training set."""

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
    lost_classes: int = 0
    """Classes of the training split that are not among these samples."""

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


class Published(NamedTuple):
    """The training or the test set of a source."""

    images: Tensor
    """uint8 `[n, C, H, W]`, maybe mapped into memory: not to be changed."""
    labels: Tensor
    """int64 `[n]`."""
    classes: int


def read(
    config: ImageDataset,
    split: Split,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
) -> Published:
    """A published training or test set.

    What is slow to decode is kept in the cache under a name that changes with the files, and is
    mapped into memory from there.

    Raises:
        DataError: files are missing or damaged, or not what they should be; it names them.
    """
    source = find_source(config)

    def decode() -> cache.Entry:
        part = source.read(config, split, progress)
        common.check(part, f"{config.name}, {split} set")
        tensors = {
            "images": torch.as_tensor(part.images),
            "labels": torch.as_tensor(part.labels),
        }
        return tensors, {"classes": str(part.classes), "source": config.name}

    if cache_folder is None or source.identity is None:
        tensors, metadata = decode()
    else:
        options = config.model_dump(include={"name", "train", "test", "image_size"})
        content = {
            **options,
            "root": str(common.root_of(config)),
            "split": split,
            "content": source.identity(config, split),
        }
        key = f"images-{plain_name(config.name)}-{split}-{content_key(content)}"
        tensors, metadata = cache.get_or_make(cache_folder, key, decode, mapped=True)
    return Published(tensors["images"], tensors["labels"], int(metadata["classes"]))


_loaded: dict[tuple[ImageDataset, Path | None], Splits] = {}
_MOST_LOADED = 4


def load(
    config: ImageDataset, cache_folder: Path | None = None, progress: Progress | None = None
) -> Splits:
    """Training and validation split; the latest few are kept in this process.

    Args:
        config: of the data set.
        cache_folder: where decoded images are kept; decoded anew each time if None.
        progress: told how many images are decoded, where that takes long.

    Raises:
        DataError: files are missing or damaged, or not what they should be; it names them.
    """
    key = (config, cache_folder)
    if key not in _loaded:
        splits = _split(config, read(config, "train", cache_folder, progress))
        while len(_loaded) >= _MOST_LOADED:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = splits
    return _loaded[key]


def _split(config: ImageDataset, published: Published) -> Splits:
    used = torch.arange(len(published.labels))
    if config.subset < 1.0:
        count = count_kept(len(used), config.subset)
        used = stratified(published.labels, count, generator("subset", config.seed))
    labels = published.labels[used]
    count = count_validation(len(labels), config.validation)
    aside = stratified(labels, count, generator("validation", config.seed))
    kept = _rest(len(labels), aside)
    images, clean = published.images[used[kept]], labels[kept]
    mean, std = channel_statistics(images)
    return Splits(
        images=images,
        labels=add_label_noise(
            clean, published.classes, config.label_noise, config.seed, kind=config.noise
        ),
        clean_labels=clean,
        val_images=published.images[used[aside]],
        val_labels=labels[aside],
        classes=published.classes,
        mean=mean,
        std=std,
        augmentation=augmentation_of(config),
        positions=used[kept],
    )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, float32 `[C]`, of pixels scaled to [0, 1].

    Exact up to the last rounding, and without a copy in floating point: computed from how often
    each of the 256 values occurs.

    Args:
        images: uint8 `[n, C, H, W]`.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in torch.split(images, 4096):
        for channel, pixels in enumerate(chunk.unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(1, keepdim=True)
    mean = (counts * values).sum(1, keepdim=True) / total
    variance = (counts * (values - mean).square()).sum(1) / (total.squeeze(1) - 1)
    return mean.squeeze(1).float(), variance.sqrt().float()


def add_label_noise(
    labels: Tensor, classes: int, share: float, seed: int, kind: str = "symmetric"
) -> Tensor:
    """Replace exactly `share` of the labels by another class.

    Args:
        labels: int64 `[n]`.
        classes: number of classes.
        share: in [0, 1); rounded half up to whole samples.
        seed: draws which samples and, if `symmetric`, which classes.
        kind: `symmetric`, any other class uniformly; or `class_dependent`, always the next one,
            `(y + 1) mod classes`.
    """
    rng = generator("label noise", seed)
    count = count_share(len(labels), share)
    chosen = torch.randperm(len(labels), generator=rng)[:count]
    shift = torch.randint(1, classes, (count,), generator=rng) if kind == "symmetric" else 1
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
        len(set(splits.labels.tolist()) - set(splits.labels[index].tolist())),
    )


def validation_samples(splits: Splits) -> Samples:
    """The validation split, ready for the engine."""
    return Samples(splits.val_images, splits.val_labels, splits.mean, splits.std)

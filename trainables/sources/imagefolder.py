"""A folder of pictures for every class, below `root/train` and `root/test`."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import ImageDataset
from trainables.sources import pictures
from trainables.sources.common import (
    DataError,
    Format,
    Part,
    Progress,
    Split,
    TrainingSet,
    empty,
    fingerprint,
    root_of,
)


def _folder(config: ImageDataset, split: Split) -> Path:
    return root_of(config) / (config.train if split == "train" else config.test)


def _classes(folder: Path) -> list[str]:
    """Names of the classes, sorted: the order of their numbers."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; it must hold a folder for every class")
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if len(names) < 2:  # noqa: PLR2004
        raise DataError(f"{folder} holds {len(names)} class folders; 2 are the least")
    return names


def _pictures(folder: Path) -> list[Path]:
    """Pictures in a folder and those below it, sorted."""
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name[0] != "." and os.path.splitext(name)[1].lower() in pictures.SUFFIXES  # noqa: PTH122
    ]
    if not found:
        allowed = ", ".join(sorted(pictures.SUFFIXES))
        raise DataError(f"{folder} holds no pictures ({allowed})")
    return sorted(found)


def _listing(config: ImageDataset, split: Split) -> dict[str, list[Path]]:
    """Pictures by class; the folders of the training set say which classes there are."""
    folder = _folder(config, split)
    if split == "train":
        return {name: _pictures(folder / name) for name in _classes(folder)}
    if not folder.is_dir():
        return {}
    known = _classes(_folder(config, "train"))
    there = _classes(folder)
    if unknown := set(there) - set(known):
        raise DataError(f"{folder / min(unknown)}: no such class in {_folder(config, 'train')}")
    return {name: _pictures(folder / name) for name in there}


def _named(listing: dict[str, list[Path]]) -> list[pictures.Picture]:
    return [(str(path), path) for paths in listing.values() for path in paths]


def measure(config: ImageDataset) -> TrainingSet:
    """Counts the pictures; of some the headers are read."""
    listing = _listing(config, "train")
    named = _named(listing)
    shape = pictures.common_shape(named, config.image_size)
    return TrainingSet(len(named), len(listing), shape)


def identity(config: ImageDataset, split: Split) -> Any:
    """Names, sizes and times of the pictures, and the names of the classes."""
    files = [path for _, path in _named(_listing(config, split))]
    names = _classes(_folder(config, "train"))
    return [names, fingerprint(_folder(config, split), files)]  # type: ignore[arg-type]


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """All pictures, class by class, each class sorted by path."""
    size = measure(config)
    listing = _listing(config, split)
    if not listing:
        return empty(size.classes, size.shape)
    named = _named(listing)
    number = {name: label for label, name in enumerate(_classes(_folder(config, "train")))}
    labels = np.repeat([number[name] for name in listing], [len(p) for p in listing.values()])
    images = pictures.decode(named, len(named), size.shape, config.image_size, progress)
    return Part(images, labels.astype(np.int64), size.classes)


FORMAT = Format(measure, read, identity)

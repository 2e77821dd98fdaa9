"""Parquet files in Hugging Face's layout: encoded pictures beside their labels."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

_IMAGES = ("img", "image")
_LABELS = ("label", "fine_label")
_ROWS = 1024
"""Rows read at a time."""


def _files(config: ImageDataset, split: Split) -> list[Path]:
    """Files of a split, sorted: their paths below `root` match its pattern, not the other's."""
    root = root_of(config)
    found = sorted(root.rglob("*.parquet"))
    patterns = {"train": config.train, "test": config.test}
    matching = {
        each: [
            path
            for path in found
            if fnmatchcase(path.relative_to(root).as_posix(), f"*{pattern}*.parquet")
        ]
        for each, pattern in patterns.items()
    }
    if both := set(matching["train"]) & set(matching["test"]):
        raise DataError(
            f"{min(both)} matches both patterns, {config.train!r} and {config.test!r}", "train"
        )
    if split == "train" and not matching["train"]:
        others = f"; others there: {', '.join(p.name for p in found[:3])}" if found else ""
        raise DataError(f"no file *{config.train}*.parquet in {root}{others}")
    return matching[split]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str, str]]:
    """A file and the names of its columns of images and labels."""
    import pyarrow as pa  # noqa: PLC0415  (see `common`)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            image, label = (
                next((name for name in names if name in schema.names), None)
                for names in (_IMAGES, _LABELS)
            )
            if image is None or label is None:
                raise DataError(
                    f"{path} has columns {', '.join(schema.names)}; it needs "
                    f"{' or '.join(_IMAGES)}, and {' or '.join(_LABELS)}"
                )
            kind = schema.field(image).type
            if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise DataError(f"{path}: column {image} must be a struct with a field `bytes`")
            if not pa.types.is_integer(schema.field(label).type):
                raise DataError(f"{path}: column {label} must hold integers")
            yield file, image, label
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _classes(files: list[Path]) -> int:
    """From the schema if it knows, else from the labels of the training set."""
    with _opened(files[0]) as (file, _, label):
        described = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        feature = json.loads(described)["info"]["features"][label]
        return int(feature.get("num_classes") or len(feature["names"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return max(int(_labels(path).max(initial=-1)) for path in files) + 1


def _labels(path: Path) -> NDArray[np.int64]:
    with _opened(path) as (file, _, label):
        column = file.read([label]).column(0)
        if column.null_count:
            raise DataError(f"{path}: {column.null_count} rows have no label")
        labels: NDArray[np.int64] = column.to_numpy().astype(np.int64)
        return labels


def _rows(path: Path) -> int:
    with _opened(path) as (file, _, _):
        return int(file.metadata.num_rows)


def _encoded(path: Path) -> Iterator[pictures.Picture]:
    with _opened(path) as (file, image, _):
        row = 0
        for batch in file.iter_batches(_ROWS, columns=[image]):
            for content in batch.column(0).field("bytes"):
                name = f"{path}, row {row}"
                if not content.is_valid:
                    raise DataError(f"{name}: no bytes; pictures must be within the file")
                yield name, content.as_py()
                row += 1


def _head(path: Path) -> list[pictures.Picture]:
    encoded = _encoded(path)
    try:
        return [picture for picture, _ in zip(encoded, range(100), strict=False)]
    finally:
        encoded.close()  # type: ignore[attr-defined]


def measure(config: ImageDataset) -> TrainingSet:
    """From the files' metadata and their first pictures' headers."""
    files = _files(config, "train")
    samples = sum(map(_rows, files))
    head = [picture for path in files[:1] for picture in _head(path)]
    if not head:
        raise DataError(f"{files[0]} has no rows")
    return TrainingSet(samples, _classes(files), pictures.common_shape(head, config.image_size))


def identity(config: ImageDataset, split: Split) -> Any:
    """Names, sizes and times of the files; the training set says how many classes there are."""
    both = sorted({*_files(config, "train"), *_files(config, split)})
    return fingerprint(root_of(config), both)


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """All rows, file by file."""
    size = measure(config)
    files = _files(config, split)
    if not files:
        return empty(size.classes, size.shape)
    labels = np.concatenate([_labels(path) for path in files])
    encoded = (picture for path in files for picture in _encoded(path))
    images = pictures.decode(encoded, len(labels), size.shape, config.image_size, progress)
    return Part(images, labels, size.classes)


FORMAT = Format(measure, read, identity)

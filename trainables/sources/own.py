"""A user's own data: a function `package.module:function` that returns a `datasets.Source`."""

from typing import TYPE_CHECKING, Any

from trainables.config import ImageDataset
from trainables.parts import find
from trainables.sources.common import (
    DataError,
    Format,
    Part,
    Progress,
    Split,
    TrainingSet,
    check,
)

if TYPE_CHECKING:
    from trainables.datasets import Source

_DTYPES = {"images": "uint8", "labels": "int64"}


def _source(config: ImageDataset) -> "Source":
    """Call the user's function."""
    from trainables.datasets import Source  # noqa: PLC0415  (it imports us)

    name = config.name
    try:
        source = find(name, "a data source")(config)
    except Exception as error:
        # What `find` says names the function already.
        message = str(error) if str(error).startswith(name) else f"{name} failed: {error!r}"
        raise DataError(message, "name") from error
    if not isinstance(source, Source):
        raise DataError(
            f"{name} must return a trainables.datasets.Source, it returned a "
            f"{type(source).__name__}",
            "name",
        )
    if source.test is not None and not callable(source.test):
        found = type(source.test).__name__
        raise DataError(f"{name}: test must be a function or None, found a {found}", "name")
    return source


def _train(source: "Source", name: str) -> Part:
    part = _part(source.images, source.labels, source.classes, name)
    if not len(part.images):
        raise DataError(f"{name} returned no training images", "name")
    return part


def _test(source: "Source", name: str) -> Part:
    train = _train(source, name)
    if source.test is None:
        return Part(train.images[:0], train.labels[:0], train.classes)
    try:
        images, labels = source.test()
    except Exception as error:
        raise DataError(f"{name}, test set failed: {error!r}", "name") from error
    part = _part(images, labels, source.classes, f"{name}, test set")
    if part.images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"{name}: test images are {list(part.images.shape[1:])}, training images "
            f"{list(train.images.shape[1:])}",
            "name",
        )
    return part


def _part(images: object, labels: object, classes: int, where: str) -> Part:
    """Tensors of the user's as a part, checked."""
    from torch import Tensor  # noqa: PLC0415  (see `common`)

    arrays: list[Any] = []
    for (field, dtype), value in zip(_DTYPES.items(), (images, labels), strict=True):
        # Before numpy is asked, which does not know all of torch's types.
        if not isinstance(value, Tensor) or str(value.dtype) != f"torch.{dtype}":
            found = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{where}: {field} must be a tensor of {dtype}, found {found}", "name")
        arrays.append(value.detach().cpu().numpy())
    return check(Part(arrays[0], arrays[1], classes), where, "name")


def measure(config: ImageDataset) -> TrainingSet:
    """Loads the data: only the function knows."""
    part = read(config, "train")
    channels, height, width = part.images.shape[1:]
    return TrainingSet(len(part.images), part.classes, (channels, height, width))


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """What the function returns; its test set is asked for only if it is wanted."""
    source = _source(config)
    return _train(source, config.name) if split == "train" else _test(source, config.name)


FORMAT = Format(measure, read)

"""A user's own data: a function `package.module:function` that returns a `datasets.Source`."""

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

_FIELDS = {"images": "uint8", "labels": "int64", "test_images": "uint8", "test_labels": "int64"}


def _parts(config: ImageDataset) -> dict[Split, Part]:
    """Call the user's function and check what it returns."""
    from torch import Tensor  # noqa: PLC0415  (see `common`)

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
    arrays = []
    for field, dtype in _FIELDS.items():
        value = getattr(source, field)
        # Before numpy is asked, which does not know all of torch's types.
        if not isinstance(value, Tensor) or str(value.dtype) != f"torch.{dtype}":
            found = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{name}: {field} must be a tensor of {dtype}, found {found}", "name")
        arrays.append(value.detach().cpu().numpy())
    images, labels, test_images, test_labels = arrays
    train = check(Part(images, labels, source.classes), name, "name")
    if not len(images):
        raise DataError(f"{name} returned no training images", "name")
    if not len(test_images):
        return {"train": train, "test": Part(images[:0], labels[:0], source.classes)}
    test = check(Part(test_images, test_labels, source.classes), f"{name}, test set", "name")
    if test_images.shape[1:] != images.shape[1:]:
        raise DataError(
            f"{name}: test images are {list(test_images.shape[1:])}, training images "
            f"{list(images.shape[1:])}",
            "name",
        )
    return {"train": train, "test": test}


def measure(config: ImageDataset) -> TrainingSet:
    """Loads the data: only the function knows."""
    part = _parts(config)["train"]
    channels, height, width = part.images.shape[1:]
    return TrainingSet(len(part.images), part.classes, (channels, height, width))


def read(config: ImageDataset, split: Split, progress: Progress | None = None) -> Part:
    """What the function returns."""
    return _parts(config)[split]


FORMAT = Format(measure, read)

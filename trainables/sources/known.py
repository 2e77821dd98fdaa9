"""Every source by name."""

import difflib

from trainables.config import ImageDataset, is_own
from trainables.sources import cifar, digits, fashion_mnist, imagefolder, own, parquet, svhn
from trainables.sources.common import DataError, Format

SOURCES: dict[str, Format] = {
    "digits": digits.FORMAT,
    "fashion_mnist": fashion_mnist.FORMAT,
    **cifar.FORMATS,
    "svhn": svhn.FORMAT,
    "imagefolder": imagefolder.FORMAT,
    "parquet": parquet.FORMAT,
}
_PICTURES = ("imagefolder", "parquet")
_USED_BY = {
    "download": ("fashion_mnist", "cifar10", "cifar100", "svhn"),
    "train": _PICTURES,
    "test": _PICTURES,
    "image_size": _PICTURES,
}
"""Options that some sources alone understand."""


def find_source(config: ImageDataset) -> Format:
    """The source of a data set.

    Raises:
        DataError: it is unknown, or has no use for an option that is set.
    """
    name = config.name
    if is_own(name):
        return own.FORMAT
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DataError(
            f"{name!r}: unknown data set{hint} Known: {', '.join((*SOURCES, 'ridge'))}, and "
            "package.module:function of your own.",
            "name",
        )
    for option, users in _USED_BY.items():
        default = ImageDataset.model_fields[option].default
        if name not in users and getattr(config, option) != default:
            raise DataError(f"has no effect on {name}; leave it out", option)
    return SOURCES[name]

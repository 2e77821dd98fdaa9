"""The test set: what a search never sees.

Only `trainables.confirmation` imports this module, which import-linter sees to.
"""

from pathlib import Path

from torch import Tensor

from trainables import datasets
from trainables.config import ImageDataset, is_own
from trainables.sources.common import DataError, Progress, root_of


def load_test(
    config: ImageDataset, cache_folder: Path | None = None, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """The test set as published, uint8 `[t, C, H, W]` and int64 `[t]`.

    Raises:
        DataError: there is none; or as for `datasets.load`.
    """
    images, labels, _ = datasets.read(config, "test", cache_folder, progress)
    if not len(images):
        where = "" if is_own(config.name) else f" ({config.test!r} in {root_of(config)})"
        raise DataError(f"{config.name} has no test set{where}", "test")
    return images, labels

"""How much there is of everything, before anything is loaded.

All split arithmetic lives here, without torch, so that the checks of a search file and
the loaders count the same samples.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from trainables.config import ImageDataset, RidgeDataset, TrialConfig
from trainables.sources.known import find_source


@dataclass(frozen=True)
class DatasetInfo:
    """The size of a data set as trials see it."""

    train_samples: int
    """Training samples before pruning, the validation split already set aside."""
    classes: int
    """Number of classes (1 for a regression)."""
    shape: tuple[int, ...]
    """Shape of one sample, `(channels, height, width)` or `(features,)`."""


VIEWS = {"none": 1, "crop": 81, "crop-flip": 162}
"""How many views of an image each augmentation has."""
_AUTO = {"digits": "none", "svhn": "crop"}
"""What `augmentation: auto` means where it is not `crop-flip`: mirrored digits are others."""


def augmentation_of(config: ImageDataset) -> str:
    """Name of the views that training sees."""
    auto = config.augmentation == "auto"
    return _AUTO.get(config.name, "crop-flip") if auto else config.augmentation


EARLY = 0.1
"""Part of the training after which early scores are taken (Paul et al.: epochs 10 to 20 of 200)."""


def early_epoch(epochs: int) -> int:
    """The epoch of so many after which early scores are taken, at least 1."""
    return max(1, round(EARLY * epochs))


def count_share(samples: int, share: float) -> int:
    """Round `share * samples` half up (Python's `round` would go to the even neighbour)."""
    return math.floor(share * samples + 0.5)


def count_kept(samples: int, fraction: float) -> int:
    """Samples that a fraction keeps: rounded half up, at least 1."""
    return max(1, count_share(samples, fraction))


def count_validation(samples: int, share: float) -> int:
    """Samples set aside for validation: at least 1, and at least 1 is left to train on."""
    return min(max(1, count_share(samples, share)), samples - 1)


@lru_cache(maxsize=64)
def describe(config: ImageDataset | RidgeDataset) -> DatasetInfo:
    """Size of a data set, without loading it; a user's own function is called.

    Files are looked at once in a process: what changes later is not seen.

    Raises:
        DataError: the source is unknown, its files are missing or cannot be read, or an option has
            no effect on it.
    """
    if isinstance(config, RidgeDataset):
        return DatasetInfo(config.samples, 1, (config.dimension,))
    whole = find_source(config).measure(config)
    used = count_kept(whole.samples, config.subset)
    aside = count_validation(used, config.validation)
    return DatasetInfo(used - aside, whole.classes, whole.shape)


def kept_samples(config: TrialConfig) -> int:
    """Training samples that a trial keeps after pruning."""
    return count_kept(describe(config.dataset).train_samples, config.fraction)


def total_epochs(config: TrialConfig) -> int:
    """Epochs of a trial's full budget, the last one maybe partial."""
    return config.recipe.total_epochs(kept_samples(config))

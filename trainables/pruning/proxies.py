"""The networks trained only for the scores they give."""

from collections.abc import Callable

from trainables import datasets, engine, models
from trainables.config import Recipe
from trainables.seeds import derive

Progress = Callable[[int, int], None]
"""Called with the epochs done and their total."""

EARLY = 0.1
"""Part of the training after which early scores are taken (Paul et al.: epochs 10 to 20 of 200)."""


def proxy_training(
    splits: datasets.Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    on_batch: engine.OnBatch | None = None,
) -> engine.Training:
    """The untrained proxy of this index, on the whole training split.

    Its seeds are a stream of their own, apart from teachers' and students', and the same for
    every method.

    Args:
        splits: of the data set; the validation split plays no part in its weights.
        architecture: usually the student's.
        recipe: as for a student on all the data.
        index: which of the scores' seeds, from 0.
        on_batch: see `engine.Cohort`.
    """
    seed = derive("scores", index)
    return engine.Training(
        models.build(architecture, splits.shape, splits.classes, derive("weights", seed)),
        datasets.training_samples(splits),
        datasets.validation_samples(splits),
        recipe,
        seed,
        on_batch=on_batch,
    )


def train(training: engine.Training, epochs: int, progress: Progress | None = None) -> None:
    """Train up to an epoch.

    Raises:
        Diverged: the proxy's loss became NaN or infinite.
    """
    while training.epoch < epochs:
        training.step()
        if progress is not None:
            progress(training.epoch, epochs)


def early_epoch(epochs: int) -> int:
    """The epoch after which early scores are taken, at least 1."""
    return max(1, round(EARLY * epochs))


def early_proxy(
    splits: datasets.Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    progress: Progress | None = None,
) -> engine.Training:
    """A proxy trained up to the early epoch.

    The epoch is one of the full recipe, whose learning-rate schedule spans all epochs, left early.
    """
    training = proxy_training(splits, architecture, recipe, index)
    train(training, early_epoch(training.epochs), progress)
    return training

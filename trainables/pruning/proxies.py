"""The networks trained only for the scores they give."""

from collections.abc import Callable

from trainables import datasets, models
from trainables.config import Recipe
from trainables.engine import OnBatch
from trainables.seeds import derive
from trainables.sizes import early_epoch
from trainables.training import Training

Progress = Callable[[int, int], None]
"""Called with the epochs done and their total."""


def proxy_training(
    splits: datasets.Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    on_batch: OnBatch | None = None,
) -> Training:
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
    return Training(
        models.build(architecture, splits.shape, splits.classes, derive("weights", seed)),
        datasets.training_samples(splits),
        datasets.validation_samples(splits),
        recipe,
        seed,
        on_batch=on_batch,
    )


def watched_training(
    splits: datasets.Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    watch: OnBatch,
    progress: Progress | None = None,
) -> Training:
    """A proxy trained to the end under the eyes of `watch`, which sees every sample.

    Args:
        splits: as for `proxy_training`, like the three that follow.
        architecture: trained for the scores.
        recipe: of its training.
        index: which of the seeds.
        watch: see `engine.Cohort`.
        progress: called with the epochs done and their total.

    Raises:
        ValueError: the recipe's iterations are less than one epoch.
        Diverged: the proxy's loss became NaN or infinite.
    """
    samples = len(splits.labels)
    if recipe.total_steps(samples) < recipe.steps_per_epoch(samples):
        raise ValueError(
            f"recipe.iterations: {recipe.iterations} end before all {samples} samples were seen, "
            f"and scores of training need each once at least; allowed: "
            f"{recipe.steps_per_epoch(samples)} or more"
        )
    training = proxy_training(splits, architecture, recipe, index, on_batch=watch)
    train(training, training.epochs, progress)
    return training


def train(training: Training, epochs: int, progress: Progress | None = None) -> None:
    """Train up to an epoch.

    Raises:
        Diverged: the proxy's loss became NaN or infinite.
    """
    while training.epoch < epochs:
        training.step()
        if progress is not None:
            progress(training.epoch, epochs)


def early_proxy(
    splits: datasets.Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    progress: Progress | None = None,
) -> Training:
    """A proxy trained up to the early epoch.

    The epoch is one of the full recipe, whose learning-rate schedule spans all epochs, left early.
    """
    training = proxy_training(splits, architecture, recipe, index)
    train(training, early_epoch(training.epochs), progress)
    return training

"""The networks trained only for the scores they give."""

from collections.abc import Callable

from trainables import datasets, engine, models
from trainables.config import Recipe
from trainables.seeds import derive

Progress = Callable[[int, int], None]
"""Called with the trainings done and their total."""


def proxy_training(
    splits: datasets.Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    on_batch: engine.OnBatch | None = None,
) -> engine.Training:
    """The untrained proxy of this index, on the whole training split.

    Its seeds are a stream of their own, apart from teachers' and students'.
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

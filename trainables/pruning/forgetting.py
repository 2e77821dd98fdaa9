"""Forgetting events: how often a learned sample is unlearned again."""

import torch
from torch import Tensor

from trainables import engine
from trainables.config import Pruning, Recipe
from trainables.datasets import Splits
from trainables.pruning.proxies import Progress, watched_training


class ForgettingCounter:
    """Counts correct → wrong transitions between consecutive presentations of a sample.

    Args:
        labels: int64 `[n]`, on the device of the batches.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.events = torch.zeros_like(labels, dtype=torch.float32)
        self.was_correct = torch.zeros_like(labels, dtype=torch.bool)
        self.learned = torch.zeros_like(self.was_correct)

    def __call__(self, batch: Tensor, logits: Tensor) -> None:
        """Record a presentation: sample indices `[batch]`, logits `[batch, classes]`."""
        correct = logits.argmax(1) == self.labels[batch]
        self.events[batch] += (self.was_correct[batch] & ~correct).float()
        self.was_correct[batch] = correct
        self.learned[batch] |= correct

    def counts(self, never_learned: int) -> Tensor:
        """Events per sample, float32 `[n]`, with this count for samples never correct."""
        return torch.where(self.learned, self.events, float(never_learned))


def score(
    splits: Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    options: Pruning,
    progress: Progress | None = None,
) -> Tensor:
    """Forgetting events over a full training, one seed's.

    Correctness at a presentation is that of the training batch's own forward pass.

    Args:
        splits: of the data set.
        architecture: trained for the scores, usually the student's.
        recipe: as for a student on all the data.
        index: which of the seeds.
        options: with `never_learned: maximum`, a sample that is never correct gets the number of
            presentations (epochs), which no count of events can reach; with `zero` it gets 0.
        progress: called with the epochs done and their total.

    Returns:
        float32 `[n]`, whole numbers, higher = harder.

    Raises:
        ValueError: the recipe's iterations are less than one epoch.

    Source:
        Toneva et al. 2019, algorithm 1, where events are summed over seeds and samples never
        learned rank first. DeepCore's implementation leaves them at 0 events.
    """
    counter = ForgettingCounter(splits.labels.to(engine.default_device()))
    training = watched_training(splits, architecture, recipe, index, counter, progress)
    most = training.epochs if options.never_learned == "maximum" else 0
    return counter.counts(never_learned=most).cpu()

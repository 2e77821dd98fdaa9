"""Forgetting events: how often a learned sample is unlearned again."""

import torch
from torch import Tensor

from trainables import engine
from trainables.config import Recipe
from trainables.datasets import Splits
from trainables.pruning.proxies import Progress, proxy_training


class ForgettingCounter:
    """Counts correct → wrong transitions between consecutive presentations of a sample.

    Args:
        labels: int64 `[n]`.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.events = torch.zeros(len(labels))
        self.was_correct = torch.zeros(len(labels), dtype=torch.bool)
        self.learned = torch.zeros_like(self.was_correct)

    def __call__(self, batch: Tensor, logits: Tensor) -> None:
        """Record a presentation: sample indices `[batch]`, logits `[batch, classes]`."""
        batch = batch.cpu()
        correct = logits.argmax(1).cpu() == self.labels[batch]
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
    seeds: int,
    progress: Progress | None = None,
) -> Tensor:
    """Forgetting events over a full training, summed over seeds.

    Correctness at a presentation is that of the training batch's own forward pass. A
    sample that is never correct gets the maximum, per seed the number of presentations
    (epochs), which no count of events can reach.

    Args:
        splits: of the data set; the validation split plays no part.
        architecture: trained for the scores, usually the student's.
        recipe: as for a student on all the data.
        seeds: number of trainings.
        progress: called with the trainings done and their total.

    Returns:
        float32 `[n]`, whole numbers, higher = harder.

    Source:
        Toneva et al. 2019, algorithm 1; there, never learned counts as infinite in the
        ranking. DeepCore's implementation leaves it at 0 events.
    """
    total = torch.zeros(len(splits.labels))
    for index in range(seeds):
        counter = ForgettingCounter(splits.labels)
        training = proxy_training(splits, architecture, recipe, index, on_batch=counter)
        engine.train(training)
        total += counter.counts(never_learned=training.epochs)
        if progress is not None:
            progress(index + 1, seeds)
    return total

"""EL2N: how wrong a network is about a sample early in training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import engine
from trainables.config import Recipe
from trainables.datasets import Splits
from trainables.pruning.proxies import Progress, proxy_training

EARLY = 0.1
"""Part of the training after which scores are taken (Paul et al.: epochs 10 to 20 of 200)."""


def early_epoch(epochs: int) -> int:
    """The epoch after which scores are taken, at least 1."""
    return max(1, round(EARLY * epochs))


def score(
    splits: Splits,
    architecture: str,
    recipe: Recipe,
    seeds: int,
    progress: Progress | None = None,
) -> Tensor:
    """`‖softmax(logits) - onehot(label)‖₂` at an early epoch, mean over seeds.

    The early epoch is one of the full recipe, whose learning-rate schedule spans all
    epochs, left early. Evaluation mode, un-augmented images, noisy labels as given.

    Args:
        splits: of the data set; the validation split plays no part.
        architecture: trained for the scores, usually the student's.
        recipe: as for a student on all the data.
        seeds: number of trainings.
        progress: called with the trainings done and their total.

    Returns:
        float32 `[n]`, in [0, √2], higher = harder.

    Source:
        Paul, Ganguli & Dziugaite 2021, the EL2N score; 10 seeds there.
    """
    onehot = F.one_hot(splits.labels, splits.classes).float()
    total = torch.zeros(len(splits.labels))
    for index in range(seeds):
        training = proxy_training(splits, architecture, recipe, index)
        while training.epoch < early_epoch(training.epochs):
            training.step()
        logits = engine.predict_logits(training.model, training.cohort.train_images).cpu()
        total += (F.softmax(logits, dim=1) - onehot).norm(dim=1)
        if progress is not None:
            progress(index + 1, seeds)
    return total / seeds

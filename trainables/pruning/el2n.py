"""EL2N: how wrong a network is about a sample early in training."""

import torch.nn.functional as F
from torch import Tensor

from trainables import engine
from trainables.config import Pruning, Recipe
from trainables.datasets import Splits
from trainables.pruning.proxies import Progress, early_proxy


def score(
    splits: Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    options: Pruning,
    progress: Progress | None = None,
) -> Tensor:
    """`‖softmax(logits) - onehot(label)‖₂` at an early epoch, one seed's.

    Evaluation mode, images without augmentation, noisy labels as given.

    Args:
        splits: of the data set.
        architecture: trained for the scores, usually the student's.
        recipe: as for a student on all the data.
        index: which of the seeds.
        options: none bears on these scores.
        progress: called with the epochs done and their total.

    Returns:
        float32 `[n]`, in [0, √2], higher = harder.

    Source:
        Paul, Ganguli & Dziugaite 2021, the EL2N score; the mean over 10 seeds there.
    """
    training = early_proxy(splits, architecture, recipe, index, progress)
    logits = engine.predict_logits(training.model, training.cohort.train_images)
    return errors(logits, training.cohort.train_labels).square().sum(1).sqrt().cpu()


def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """`softmax(logits) - onehot(label)`, the gradient of the cross-entropy in the logits.

    Args:
        logits: `[n, classes]`.
        labels: int64 `[n]`.

    Returns:
        float32 `[n, classes]`.
    """
    logits = logits.float()
    return F.softmax(logits, dim=1) - F.one_hot(labels, logits.shape[1])

"""AUM: by how far a network prefers other classes to a sample's label, all through training."""

import torch
from torch import Tensor

from trainables import engine
from trainables.config import Pruning, Recipe
from trainables.datasets import Splits
from trainables.pruning.proxies import Progress, watched_training


class MarginMeter:
    """Averages a sample's margins over its presentations.

    Args:
        labels: int64 `[n]`, on the device of the batches.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.total = torch.zeros_like(labels, dtype=torch.float32)
        self.presentations = torch.zeros_like(self.total)

    def __call__(self, batch: Tensor, logits: Tensor) -> None:
        """Record a presentation: sample indices `[batch]`, logits `[batch, classes]`."""
        self.total[batch] += margins(logits, self.labels[batch])
        self.presentations[batch] += 1

    def means(self) -> Tensor:
        """Area under the margin, float32 `[n]`, of samples that were all presented."""
        return self.total / self.presentations


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the largest other one, `[n]`; negative where they are wrong.

    Args:
        logits: `[n, classes]`, two classes or more.
        labels: int64 `[n]`.
    """
    column = labels[:, None]
    others = logits.scatter(1, column, -torch.inf)
    return logits.gather(1, column).squeeze(1) - others.max(1).values


def score(
    splits: Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    options: Pruning,
    progress: Progress | None = None,
) -> Tensor:
    """`-mean over epochs of (logit of the label - largest other logit)`, one seed's.

    The logits of a presentation are those of the training batch's own forward pass.

    Args:
        splits: of the data set.
        architecture: trained for the scores, usually the student's.
        recipe: as for a student on all the data.
        index: which of the seeds.
        options: none bears on these scores.
        progress: called with the epochs done and their total.

    Returns:
        float32 `[n]`, of either sign, higher = harder.

    Raises:
        ValueError: the recipe's iterations are less than one epoch.

    Source:
        Pleiss et al. 2020, equation 2, negated (a large area is an easy sample), over all
        epochs, where the paper stops at the first drop of the learning rate. The code of
        coverage-centric selection takes margins of probabilities instead of logits.
    """
    meter = MarginMeter(splits.labels.to(engine.default_device()))
    watched_training(splits, architecture, recipe, index, meter, progress)
    return -meter.means().cpu()

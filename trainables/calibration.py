"""How far probabilities can be believed, and what logits are worth once that is mended."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_STEEPEST = 1e3
"""Largest inverse temperature: perfect predictions would drive it to infinity."""
_STEPS = 30
_TOLERANCE = 1e-7


class Scaled(NamedTuple):
    """Logits divided by the temperature that suits the labels best."""

    nll: float
    """Mean negative log-likelihood at that temperature, in nats."""
    temperature: float


def scale(logits: Tensor, labels: Tensor) -> Scaled:
    """Fit one temperature exactly and return what is left of the negative log-likelihood.

    In the inverse temperature β the loss `mean(logsumexp(β z) - β z_y)` is convex, with slope
    `mean(E_p[z] - z_y)` and curvature `mean(Var_p[z])`: Newton's steps, halved while they do not
    descend, find its minimum.

    Args:
        logits: `[n, classes]`.
        labels: int64 `[n]`.

    Source:
        Guo et al. 2017, temperature scaling.
    """
    z = logits.double()
    z = z - z.mean(dim=1, keepdim=True)
    of_label = z.gather(1, labels[:, None]).squeeze(1)

    def loss(beta: float) -> float:
        return float(((beta * z).logsumexp(1) - beta * of_label).mean())

    beta, best = 1.0, loss(1.0)
    for _ in range(_STEPS):
        probs = F.softmax(beta * z, dim=1)
        expected = (probs * z).sum(1)
        slope = float((expected - of_label).mean())
        curvature = float(((probs * z.square()).sum(1) - expected.square()).mean())
        step = -slope / max(curvature, 1e-12)
        while abs(step) > _TOLERANCE * beta:
            candidate = min(max(beta + step, 1.0 / _STEEPEST), _STEEPEST)
            if (value := loss(candidate)) < best:
                break
            step /= 2
        else:
            break
        beta, best = candidate, value
    return Scaled(best, 1.0 / beta)


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, in [0, 1].

    Args:
        logits: `[n, classes]`.
        labels: int64 `[n]`.
        bins: of the confidence, the largest probability.

    Source:
        Naeini et al. 2015; 15 bins as in Guo et al. 2017.
    """
    confidence, predicted = F.softmax(logits.float(), dim=1).max(1)
    correct = (predicted == labels).float()
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, device=logits.device).index_add_(0, which, confidence - correct)
    return float(gaps.abs().sum() / len(labels))

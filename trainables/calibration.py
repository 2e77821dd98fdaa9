"""How far probabilities can be believed, and what logits are worth once that is mended."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_STEEPEST = 1e3
"""Largest inverse temperature, and 1 / smallest: perfect predictions would drive it to infinity."""
_STEPS = 100
_TOLERANCE = 1e-9


class Scaled(NamedTuple):
    """Logits divided by the temperature that suits the labels best."""

    nll: float
    """Mean negative log-likelihood at that temperature, in nats."""
    temperature: float


def scale(logits: Tensor, labels: Tensor) -> Scaled:
    """Fit one temperature exactly and return what is left of the negative log-likelihood.

    In the inverse temperature β the loss `mean(logsumexp(β z) - β z_y)` is convex, with slope
    `mean(E_p[z] - z_y)` and curvature `mean(Var_p[z])`: Newton's method finds its minimum, with
    a bisection (of log β) wherever it would leave the bracket that the slopes leave.

    Args:
        logits: `[n, classes]`.
        labels: int64 `[n]`.

    Returns:
        The minimum over temperatures from 0.001 to 1000; 1 where all are equally good.

    Source:
        Guo et al. 2017, temperature scaling.
    """
    z = logits.double()
    z = z - z.mean(dim=1, keepdim=True)
    of_label = z.gather(1, labels[:, None]).squeeze(1)

    def derivatives(beta: float) -> tuple[float, float]:
        probs = F.softmax(beta * z, dim=1)
        expected = (probs * z).sum(1)
        variance = (probs * (z - expected[:, None]).square()).sum(1)
        return float((expected - of_label).mean()), float(variance.mean())

    beta = 1.0
    slope, curvature = derivatives(beta)
    end = 1 / _STEEPEST if slope > 0 else _STEEPEST
    if slope != 0 and slope * derivatives(end)[0] >= 0:
        beta, slope = end, 0.0  # downhill all the way
    low, high = min(end, beta), max(end, beta)
    for _ in range(_STEPS):
        if slope == 0:
            break
        low, high = (low, beta) if slope > 0 else (beta, high)
        newton = beta - slope / curvature if curvature > 0 else low
        following = newton if low < newton < high else math.sqrt(low * high)
        if abs(following - beta) <= _TOLERANCE * beta:
            break
        beta = following
        slope, curvature = derivatives(beta)
    nll = float(((beta * z).logsumexp(1) - beta * of_label).mean())
    return Scaled(nll, 1.0 / beta)


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

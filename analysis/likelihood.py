"""What logits are worth once one temperature is mended: many networks at once, without torch."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEEPEST = 1e3
"""Largest inverse temperature, and 1 / smallest, as in `trainables.calibration`."""
_STEPS = 100
_TOLERANCE = 1e-6
"""Of β, relative: the likelihood is flat there, so its own error is of the order of 1e-12."""
_CHUNK = 1 << 17
"""Logits worked on at once: what fits into a processor's cache and costs little memory."""


def scaled_nll(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Mean negative log-likelihood of each network after one exactly fitted temperature.

    In the inverse temperature β the loss `mean(logsumexp(β z) - β z_y)` is convex: Newton's
    method finds its minimum, with a bisection of log β wherever it would leave the bracket. The
    same as `trainables.calibration.scale`, for arrays of networks.

    Args:
        logits: `[..., v, classes]`, finite.
        labels: `[v]`, in 0..classes-1.

    Returns:
        `[...]`, in nats; the minimum over temperatures from 0.001 to 1000.

    Source:
        Guo et al. 2017, temperature scaling.
    """
    *shape, v, classes = logits.shape
    flat = logits.reshape(-1, v, classes)
    size = max(1, _CHUNK // max(v * classes, 1))
    parts = [_minimum(flat[i : i + size], labels) for i in range(0, len(flat), size)]
    return np.concatenate(parts).reshape(shape) if parts else np.empty(shape)


def _minimum(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """`[b]`, for logits `[b, v, classes]`."""
    z = logits.astype(np.float64)
    z -= z.mean(axis=2, keepdims=True)
    of_label = z[:, np.arange(len(labels)), labels]
    target = of_label.mean(axis=1)

    def derivatives(rows: NDArray[np.intp], at: Floats) -> tuple[Floats, Floats]:
        part = z[rows]
        exp = np.exp(_shifted(part, at))
        exp /= exp.sum(axis=2, keepdims=True)
        exp *= part
        expected = exp.sum(axis=2)
        exp *= part
        variance = exp.sum(axis=2) - expected**2
        return expected.mean(axis=1) - target[rows], variance.mean(axis=1)

    beta = np.ones(len(z))
    low, high = np.full(len(z), 1 / _STEEPEST), np.full(len(z), _STEEPEST)
    active = np.arange(len(z))
    for _ in range(_STEPS):
        if not len(active):
            break
        at = beta[active]
        slope, curvature = derivatives(active, at)
        high[active] = np.where(slope > 0, at, high[active])
        low[active] = np.where(slope > 0, low[active], at)
        newton = at - slope / np.where(curvature > 0, curvature, np.nan)
        inside = (low[active] < newton) & (newton < high[active])
        following = np.where(inside, newton, np.sqrt(low[active] * high[active]))
        beta[active] = following
        active = active[np.abs(following - at) > _TOLERANCE * at]
    # Bisected towards, an end is reached up to the tolerance only.
    for end in (1 / _STEEPEST, _STEEPEST):
        beta[np.abs(beta - end) <= 2 * _TOLERANCE * end] = end
    shifted = _shifted(z, beta)
    # The largest of β z was taken off: so it is from the label's.
    own = shifted[:, np.arange(len(labels)), labels]
    nll: Floats = (np.log(np.exp(shifted).sum(axis=2)) - own).mean(axis=1)
    return nll


def _shifted(z: Floats, beta: Floats) -> Floats:
    """β z less its largest value in every row, `[b, v, classes]`."""
    scaled = beta[:, None, None] * z
    scaled -= scaled.max(axis=2, keepdims=True)
    return scaled

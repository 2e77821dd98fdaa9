"""Paired comparisons: the mean difference over seeds, and several of them at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Paired(NamedTuple):
    """A mean difference with what `n` pairs say of it."""

    value: float
    low: float
    high: float
    """Ends of its interval; missing where differences do not vary, or there is one alone."""
    p: float
    """Two-sided: how often so large a mean would come by chance if there were no difference."""
    n: int


def paired_t(differences: ArrayLike, level: float = 0.9) -> Paired:
    """Student's t interval and test of paired differences.

    `mean ± t((1 + level) / 2, n - 1) · s / √n` with the sample's standard deviation s. Differences
    that are all equal say nothing of how they vary: they have no interval, and no p.

    Args:
        differences: `[n]`, one a pair.
        level: probability inside the interval, in (0, 1).
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if n else np.nan
    if n < 2 or np.ptp(values) == 0.0:  # noqa: PLR2004  (one says nothing of how they vary)
        return Paired(mean, np.nan, np.nan, np.nan, n)
    from scipy import stats  # noqa: PLC0415  (a second to import, for those who confirmed)

    error = float(values.std(ddof=1)) / np.sqrt(n)
    half = float(stats.t.ppf((1.0 + level) / 2.0, n - 1)) * error
    p = 2.0 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Paired(mean, mean - half, mean + half, p, n)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust p values for their number: the chance of one false finding among all stays p.

    The smallest of k is multiplied by k, the next by k - 1, and so on, none below the one before;
    valid however the tests depend on each other. What is missing is no test and stays missing.

    Args:
        p: `[k]`.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full_like(values, np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return adjusted

"""Which family of schedules to use: what each loses at fractions that it was not shown."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.document import HeldOut
from analysis.estimators import TOLERANCE
from analysis.laws import LAWS, SIMPLEST

ERRORS = 1.0
"""Standard errors by which a family must be better to be preferred to the simplest; and it must be
better by more than what counts as equally good (`TOLERANCE`)."""


class Compared(NamedTuple):
    """A family's regret at held-out fractions, in the unit of the score; NaN without any."""

    family: str
    inside: float
    """Mean over fractions inside the range that was shown."""
    ends: float
    """Mean over the smallest and largest fractions: extrapolation."""
    difference: float
    """Of `inside` to the simplest family; below 0 it is better."""
    error: float
    """Standard error of that difference, the held-out fractions taken as independent."""
    n_inside: int
    n_ends: int


def compare(held_out: Sequence[HeldOut]) -> list[Compared]:
    """The regret of every family, over all methods and teachers."""
    inside = [each for each in held_out if each.inside]
    ends = [each for each in held_out if not each.inside]
    found = []
    for family in LAWS if held_out else ():
        lost = np.array([each.lost[family] for each in inside])
        paired = lost - np.array([each.lost[SIMPLEST] for each in inside])
        found.append(
            Compared(
                family,
                _mean(lost),
                _mean(np.array([each.lost[family] for each in ends])),
                _mean(paired),
                float(paired.std(ddof=1) / np.sqrt(len(paired))) if len(paired) > 1 else np.nan,
                len(inside),
                len(ends),
            )
        )
    return found


def choose(
    compared: Sequence[Compared], errors: float = ERRORS, least: float = TOLERANCE
) -> tuple[str, str]:
    """The simplest family, unless another is better beyond noise; and why, in words.

    Args:
        compared: from `compare`.
        errors: standard errors by which another family must be better inside the range.
        least: by how much at least, in the unit of the score.
    """
    if not compared:
        return SIMPLEST, f"{SIMPLEST}: nothing was compared, which takes trials at 3 fractions"
    n = compared[0].n_inside
    if n < 2:  # noqa: PLR2004  (no standard error from one difference)
        return SIMPLEST, f"{SIMPLEST}: one held-out fraction cannot tell families apart"
    better = [each for each in compared if each.difference < -max(errors * each.error, least)]
    where = f"at {n} held-out fractions inside the range"
    if not better:
        return SIMPLEST, f"{SIMPLEST}: no other family lost clearly less {where}"
    best = min(better, key=lambda each: each.inside)
    return best.family, f"{best.family}: it lost clearly less than {SIMPLEST} {where}"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan

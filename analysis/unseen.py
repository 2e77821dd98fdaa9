"""The surface asked at fractions that it was not shown: for schedules, and to judge them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.estimators import Estimate, Trials
from analysis.joint import TOGETHER, Codes, Pooled, options_of
from analysis.optimum import find_optimum
from analysis.settings import Observations
from analysis.surface import Hyperparameters, Surface, condition, fit, learn, unit_of


@dataclass(frozen=True, eq=False)
class PartSurface:
    """A surface that was shown the trials at some fractions only."""

    contexts: Sequence[Trials]
    """All of them, shown or not."""
    codes: Codes
    shown: Observations
    hyperparameters: Hyperparameters
    surface: Surface | None
    """None where the trials are too many for one: see `narrowed`."""

    def narrowed(self, law: Sequence[int]) -> "PartSurface":
        """The same, if need be conditioned on the trials of some contexts alone.

        Args:
            law: positions of contexts that differ in nothing but the fraction.
        """
        if self.surface is not None:
            return self
        part = self.shown.take(np.isin(self.shown.at.context, np.array(law)))
        fitted = condition(part, self.hyperparameters, unit_of(self.shown))
        return replace(self, surface=fitted)

    def answer(self, context: int, level: float) -> Estimate:
        """The best KD weight in a context whose trials were shown."""
        return self._optimum(context, self.contexts[context], level)

    def predict(self, like: int, fraction: float, level: float) -> Estimate:
        """The best KD weight at a fraction, in a context of which nothing was shown.

        Args:
            like: position of a context that differs in nothing but the fraction.
            fraction: in (0, 1].
            level: probability inside an interval, in (0, 1).
        """
        trials = self.contexts[like]
        there = replace(trials, fixed={**trials.fixed, "fraction": fraction})
        return self._optimum(len(self.contexts), there, level)

    def _optimum(self, index: int, trials: Trials, level: float) -> Estimate:
        if self.surface is None:
            raise ValueError("there are too many trials for one surface: narrow it to a law")
        values, _ = options_of(trials)
        settings = self.codes.settings(index, trials, values)
        return find_optimum(self.surface, settings, trials.kd_weight_range, level).kd_weight


def fit_without(contexts: Sequence[Trials], pooled: Pooled, fraction: float | None) -> PartSurface:
    """Fit one surface for all contexts, the trials at a fraction left out.

    Args:
        contexts: complete trials of all contexts.
        pooled: the same, from `pool`.
        fraction: what is left out; None shows all.
    """
    shown = pooled.learnt
    if fraction is not None:
        shown = shown.take(~np.isclose(shown.at.fraction, fraction))
    # Not from where another fit ended: that one was shown what is left out here.
    if len(shown) > TOGETHER:
        return PartSurface(contexts, pooled.codes, shown, learn(shown), None)
    surface = fit(shown)
    return PartSurface(contexts, pooled.codes, shown, surface.hyperparameters, surface)

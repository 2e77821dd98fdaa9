"""A Gaussian process over (KD weight, temperature, fraction, method, teacher), for all contexts.

Fitted by maximum a posteriori likelihood with analytic gradients; see `kernel` for the model.
Written in scipy because no library offers this covariance (a shape that vanishes at α = 0, seed
effects, scales per context) without writing the covariance itself, and because a
tensor library would be loaded whenever an answer is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from analysis.kernel import (
    NAMES,
    PRIORS,
    SPREADS,
    Hyperparameters,
    Pairs,
    covariance,
    gradient,
    noise_variance,
    pairs,
    pieces,
    prior,
    variance,
)
from analysis.settings import Floats, Ints, Observations, Settings

__all__ = [
    "Hyperparameters",
    "Observations",
    "Settings",
    "Surface",
    "condition",
    "fit",
    "learn",
    "unit_of",
]

GROUP = 400
"""Observations whose joint likelihood is taken at once: above it, the hyperparameters maximise
the product over groups of contexts (a composite likelihood), whose cost grows linearly."""
STEPS = 40
FIRST_GROUPS = 2
"""Groups that a fit without a start begins with, when there are more."""
LAST_STEPS = 5
BLOCK = 1000
"""Candidates for a trial that are looked at together: covariances with all else take memory."""
JITTER = 1e-9
"""Added to the diagonal, as a part of its mean; ten times more as often as needed."""
LEVEL_SPREAD = 3.0
"""Prior standard deviation of a level, in standard deviations of all values."""
REACH = 6.0
"""Hyperparameters stay within so many prior standard deviations."""


class Unit(NamedTuple):
    """Values are (value - center) / scale inside; `level` is the levels' prior variance there."""

    center: float
    scale: float
    level: float


@dataclass(frozen=True, eq=False)
class Surface:
    """What is known of the response after some trials; every result is in units of the values.

    Args:
        hyperparameters: of the covariance, in standardised units.
        unit: how values were standardised.
        at: where something was observed or is pending, n places.
        seed: `[n]`.
        factor: lower Cholesky factor of the covariance of what is observed, `[n, n]`.
        weights: inverse covariance times standardised values, `[k]` for the k observed, which
            come first.
    """

    hyperparameters: Hyperparameters
    unit: Unit
    at: Settings
    seed: Ints
    factor: Floats
    weights: Floats

    def mean(self, at: Settings) -> Floats:
        """Posterior mean of the score, `[m]`: of the mean over all seeds."""
        observed = self.at.take(slice(0, len(self.weights)))
        across = covariance(at, observed, self.hyperparameters, self.unit.level)
        return self.unit.center + self.unit.scale * (across @ self.weights)

    def posterior(self, at: Settings) -> tuple[Floats, Floats]:
        """Mean `[m]` and covariance `[m, m]` of the mean over all seeds, without noise."""
        known = self._whitened(at, None)
        prior_covariance = covariance(at, at, self.hyperparameters, self.unit.level)
        return self.mean(at), self.unit.scale**2 * (prior_covariance - known.T @ known)

    def with_pending(self, at: Settings, seed: Ints) -> "Surface":
        """Count trials as if each had returned what is expected: the mean stays, variance falls.

        Args:
            at: k places.
            seed: `[k]`, of the pending trials.
        """
        theta, level = self.hyperparameters, self.unit.level
        corner = covariance(at, at, theta, level, (seed, seed))
        corner += np.diag(noise_variance(at, theta))
        across = self._whitened(at, seed)
        below = _factor(corner - across.T @ across)
        n, k = across.shape
        factor = np.zeros((n + k, n + k))
        factor[:n, :n], factor[n:, :n], factor[n:, n:] = self.factor, across.T, below
        return Surface(
            theta,
            self.unit,
            Settings.concatenate([self.at, at]),
            np.concatenate([self.seed, seed]),
            factor,
            self.weights,
        )

    def lookahead(self, candidates: Settings, seeds: Ints, targets: Settings) -> Floats:
        """How far a trial is expected to move the posterior mean elsewhere.

            cov(target, returned | known) / sd(returned | known)

        Args:
            candidates: k places where a trial could run.
            seeds: `[k]`, of these trials: one that ran in the context shares its effect.
            targets: m places.

        Returns:
            Change of the targets' mean per standard deviation of what a candidate returns,
            `[k, m]`.
        """
        toward = self._whitened(targets, None)
        change = np.empty((len(candidates), len(targets)))
        for first in range(0, len(candidates), BLOCK):
            block = slice(first, first + BLOCK)
            change[block] = self._change(candidates.take(block), seeds[block], targets, toward)
        return change

    def _change(
        self, candidates: Settings, seeds: Ints, targets: Settings, toward: Floats
    ) -> Floats:
        """The change, `[k, m]`, by targets that are whitened already: `toward`, `[n, m]`."""
        places, which = candidates.distinct()
        both = covariance(places, targets, self.hyperparameters, self.unit.level)[which]
        returned = self._whitened(candidates, seeds)
        both -= returned.T @ toward
        both *= (self.unit.scale / np.sqrt(self._variance(candidates, returned)))[:, None]
        return both

    def predicted_variance(self, at: Settings, seeds: Ints) -> Floats:
        """Variance of what each trial alone would return, seed effect and noise in it: `[k]`."""
        return self.unit.scale**2 * self._variance(at, self._whitened(at, seeds))

    def _variance(self, at: Settings, whitened: Floats) -> Floats:
        theta, level = self.hyperparameters, self.unit.level
        before = variance(at, theta, level, returned=True)
        known = np.einsum("ij,ij->j", whitened, whitened)
        # What is left is never less than the noise of the trial itself.
        left: Floats = np.maximum(before - known, noise_variance(at, theta))
        return left

    def _whitened(self, at: Settings, seed: Ints | None) -> Floats:
        """Factor⁻¹ times the covariance of what is observed with other places, `[n, m]`."""
        seeds = None if seed is None else (self.seed, seed)
        across = covariance(self.at, at, self.hyperparameters, self.unit.level, seeds)
        solved: Floats = solve_triangular(
            self.factor, across, lower=True, overwrite_b=True, check_finite=False
        )
        return solved


def fit(
    observations: Observations, start: Hyperparameters | None = None, steps: int = STEPS
) -> Surface:
    """Learn the hyperparameters, then condition on all observations.

    The order of the observations does not matter. Both take a time that grows with the cube of
    their number; for many thousands, `learn` and then `condition` on parts.

    Args:
        observations: at least one.
        start: hyperparameters of an earlier fit, to start from; few `steps` are then enough.
        steps: iterations of L-BFGS at most; 0 takes `start` as it is.

    Raises:
        ValueError: nothing observed (bad values are refused by `Observations`).
    """
    if not len(observations):
        raise ValueError("a surface needs at least one observation")
    arranged, _ = _arranged(observations)
    return condition(arranged, learn(arranged, start, steps), unit_of(arranged))


def learn(
    observations: Observations, start: Hyperparameters | None = None, steps: int = STEPS
) -> Hyperparameters:
    """The hyperparameters of highest posterior density, in a time linear in the observations.

    Args:
        observations: at least one.
        start: where to start.
        steps: iterations of L-BFGS at most. Without a `start`, many observations are approached
            through a part of them, and then get `LAST_STEPS`.

    Raises:
        ValueError: nothing observed.
    """
    if not len(observations):
        raise ValueError("a surface needs at least one observation")
    arranged, groups = _arranged(observations)
    unit = unit_of(arranged)
    theta = start or prior()
    if start is None and len(groups) > FIRST_GROUPS and steps > 0:
        theta = _Problem(arranged, groups[:FIRST_GROUPS], unit).solve(theta, steps)
        steps = min(steps, LAST_STEPS)
    return _Problem(arranged, groups, unit).solve(theta, steps)


def condition(observations: Observations, theta: Hyperparameters, unit: Unit) -> Surface:
    """The surface given observations, at fixed hyperparameters.

    Args:
        observations: at least one.
        theta: from `learn`.
        unit: in which they were learnt: `unit_of` the observations they were learnt from.
    """
    known, _ = _arranged(observations)
    value, extra = _standardised(known, unit)
    total = covariance(known.at, known.at, theta, unit.level, (known.seed, known.seed))
    np.fill_diagonal(total, total.diagonal() + noise_variance(known.at, theta) + extra)
    factor = _factor(total)
    return Surface(theta, unit, known.at, known.seed, factor, _solve(factor, value))


def _standardised(observed: Observations, unit: Unit) -> tuple[Floats, Floats]:
    value = (observed.value - unit.center) / unit.scale
    if observed.extra_noise is None:
        return value, np.zeros(len(value))
    return value, observed.extra_noise / unit.scale**2


class _Problem:
    """The negative log posterior of the hyperparameters, and its gradient."""

    def __init__(
        self,
        observed: Observations,
        groups: list[Ints],
        unit: Unit,
    ) -> None:
        value, extra = _standardised(observed, unit)
        self.contexts, index = np.unique(observed.at.context, return_inverse=True)
        self.level = unit.level
        self.groups: list[tuple[Settings, Pairs, Floats, Floats, Ints]] = []
        for rows in groups:
            at, seed = observed.at.take(rows), observed.seed[rows]
            common = pairs(at, at, (seed, seed))
            self.groups.append((at, common, value[rows], extra[rows], index[rows]))
        c = len(self.contexts)
        self.centers = np.array([*(PRIORS[name][0] for name in NAMES), *np.zeros(3 * c)])
        spreads = [PRIORS[name][1] for name in NAMES]
        self.spreads = np.array([*spreads, *np.repeat(SPREADS, c)])

    def solve(self, start: Hyperparameters, steps: int) -> Hyperparameters:
        """Minimise from a start."""
        first = np.concatenate(
            [[start.values[name] for name in NAMES], start.factors_of(self.contexts).ravel()]
        )
        if steps <= 0:
            return self.unpacked(first)
        # In units of the prior's spreads all directions are about equally long.
        z = np.clip((first - self.centers) / self.spreads, -REACH, REACH)
        found = minimize(
            self._objective,
            z,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-REACH, REACH)] * len(z),
            options={"maxiter": steps, "ftol": 1e-6, "gtol": 1e-3},
        )
        return self.unpacked(self.centers + self.spreads * found.x)

    def unpacked(self, vector: Floats) -> Hyperparameters:
        """From one vector: values, then factors."""
        values = dict(zip(NAMES, vector.tolist(), strict=False))
        return Hyperparameters(values, self.contexts, vector[len(NAMES) :].reshape(3, -1))

    def _objective(self, z: Floats) -> tuple[float, Floats]:
        loss, slope = self.likelihood(self.unpacked(self.centers + self.spreads * z))
        return loss + 0.5 * float(z @ z), slope * self.spreads + z

    def likelihood(self, theta: Hyperparameters) -> tuple[float, Floats]:
        """Negative log likelihood, less its constant, and its gradient by packed vector."""
        p, c = len(NAMES), len(self.contexts)
        loss, slope = 0.0, np.zeros(p + 3 * c)
        for at, common, value, extra, index in self.groups:
            parts = pieces(at, at, common, theta, self.level)
            total = parts.total
            np.fill_diagonal(total, total.diagonal() + noise_variance(at, theta) + extra)
            factor = _factor(total)
            weights = _solve(factor, value)
            loss += 0.5 * float(value @ weights) + float(np.log(factor.diagonal()).sum())
            inverse, _ = dpotri(factor, lower=1)
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            inverse -= np.outer(weights, weights)
            named, by_place = gradient(at, common, theta, parts, inverse)
            slope[:p] += [named[name] for name in NAMES]
            slope[p:] += np.concatenate([np.bincount(index, row, c) for row in by_place])
        return loss, slope


def _arranged(observations: Observations) -> tuple[Observations, list[Ints]]:
    """The observations in an order of their own, and groups whose likelihoods are multiplied.

    Contexts are dealt to the groups like cards, so that each holds all fractions and methods.
    """
    at = observations.at
    extra = observations.extra_noise
    keys = (
        observations.value if extra is None else extra,
        observations.value,
        at.temperature,
        at.kd_weight,
        observations.seed,
        at.context,
        at.teacher_fraction,
        at.fraction,
        at.teacher,
        at.method,
    )
    # A context whose teacher or method was tuned stays together: contexts come first.
    order = np.lexsort((*keys, at.context))
    taken = observations.take(order)
    n = len(order)
    count = -(-n // GROUP)
    if count == 1:
        return taken, [np.arange(n)]
    contexts, first = np.unique(taken.at.context, return_index=True)
    rank = np.lexsort((taken.at.fraction[first], taken.at.teacher[first], taken.at.method[first]))
    dealt = np.empty(len(contexts), np.int64)
    dealt[rank] = np.arange(len(contexts)) % count
    group = dealt[np.searchsorted(contexts, taken.at.context)]
    rows = [np.flatnonzero(group == g) for g in range(count)]
    return taken, [part for whole in rows for part in _split(whole)]


def _split(rows: Ints) -> Iterator[Ints]:
    """Parts of at most `GROUP` and a half, for a context larger than that."""
    if len(rows):
        yield from np.array_split(rows, -(-len(rows) * 2 // (3 * GROUP)))


def unit_of(observed: Observations) -> Unit:
    """How these values are standardised: by the spread inside a usual context, or overall."""
    value = observed.value
    _, index, count = np.unique(observed.at.context, return_inverse=True, return_counts=True)
    means = np.bincount(index, value) / count
    spreads = np.sqrt(np.bincount(index, (value - means[index]) ** 2) / count)
    overall = float(value.std())
    tiny = 1e-12 * max(1.0, float(np.abs(value).max()))
    inside = spreads[spreads > tiny]
    scale = float(np.median(inside)) if len(inside) else overall
    if scale <= tiny:
        scale = 1.0
    return Unit(float(value.mean()), scale, (LEVEL_SPREAD * max(overall / scale, 1.0)) ** 2)


def _factor(total: Floats) -> Floats:
    """Lower Cholesky factor, with as little on the diagonal as it takes."""
    mean = float(total.diagonal().mean())
    jitter = JITTER * mean
    while True:
        try:
            lifted = total.copy()
            np.fill_diagonal(lifted, lifted.diagonal() + jitter)
            factor: Floats = cholesky(lifted, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            jitter *= 10
            if jitter > mean:
                raise
        else:
            return factor


def _solve(factor: Floats, value: Floats) -> Floats:
    half = solve_triangular(factor, value, lower=True, check_finite=False)
    whole: Floats = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)
    return whole

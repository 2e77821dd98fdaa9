"""Linear self-distillation in closed form: a trial in a millisecond, its best KD weight known.

Labels are `y = X w + ε`. A teacher is the ridge fit on its subset T of the samples; the student
is a ridge fit, with the teacher's λ unless that has its own, on the kept subset S with labels
`(1 - α) y_S + α X_S ŵ_T`. The student's coefficients are linear in α, so its error is exactly
quadratic and its minimiser can be written down: a search can be checked against the truth.

The design X and the coefficients w belong to the data set; a trial's seed draws its own ε
and its own subsets, which are the same for every α (common random numbers).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables import record
from trainables.config import RIDGE_MODEL, RidgeDataset, TrialConfig
from trainables.seeds import derive
from trainables.sizes import count_kept, total_epochs

Array = NDArray[np.float64]

_FLOW_TIME = 5.0
"""Time constants of the slowest direction that the gradient flow covers in a full budget."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What all trials share."""

    features: Array
    """X, `[n, d]`."""
    coefficients: Array
    """w, `[d]`, of signal variance `w'Σw = 1`."""
    spectrum: Array
    """Diagonal of Σ, the population covariance of the features, `[d]`."""


class Error(NamedTuple):
    """A student's expected excess risk as a part of the signal's variance, each `[alphas]`."""

    bias: Array
    """Squared bias."""
    variance: Array

    @property
    def total(self) -> Array:
        """Squared bias and variance."""
        return self.bias + self.variance


@lru_cache(maxsize=8)
def load(config: RidgeDataset) -> Problem:
    """Draw the design: Gaussian features of variance `j ** -decay` for j = 1..d."""
    draw = np.random.default_rng(derive("ridge", config.seed))
    spectrum = np.arange(1, config.dimension + 1, dtype=np.float64) ** -config.decay
    features = draw.standard_normal((config.samples, config.dimension)) * np.sqrt(spectrum)
    coefficients = draw.standard_normal(config.dimension)
    coefficients /= np.sqrt(coefficients @ (spectrum * coefficients))
    return Problem(features, coefficients, spectrum)


def _subset(samples: int, fraction: float, *stream: object) -> NDArray[np.int64]:
    """A random subset; with the same stream, smaller fractions lie within larger ones."""
    order = np.random.default_rng(derive(*stream)).permutation(samples)
    return np.sort(order[: count_kept(samples, fraction)])


def _label_noise(config: RidgeDataset, seed: int) -> Array:
    """ε, `[n]`, one draw for teacher and student: they see the same labels."""
    draw = np.random.default_rng(derive("ridge noise", seed))
    return config.noise * draw.standard_normal(config.samples)


def _ridge_fit(features: Array, labels: Array, ridge: float) -> Array:
    """`(X'X/m + λI)⁻¹ X'y/m` for every column of the labels: `[m, c]` to `[d, c]`."""
    samples, dimension = features.shape
    gram = features.T @ features / samples + ridge * np.eye(dimension)
    return np.linalg.solve(gram, features.T @ labels / samples)


def _teacher_ridge(config: RidgeDataset) -> float:
    return config.ridge if config.teacher_ridge is None else config.teacher_ridge


class _Ends(NamedTuple):
    """A seed's students at both ends of the KD weight; all others lie on the line between."""

    plain: Array
    """α = 0: fitted to the labels, `[d]`."""
    distilled: Array
    """α = 1: fitted to the teacher, `[d]`."""
    kept: Array
    """Features of the kept samples, `[k, d]`."""

    def at(self, kd_weight: float) -> Array:
        """The student's coefficients, `[d]`."""
        return (1.0 - kd_weight) * self.plain + kd_weight * self.distilled


def _solve(config: RidgeDataset, fraction: float, teacher_fraction: float, seed: int) -> _Ends:
    problem = load(config)
    labels = problem.features @ problem.coefficients + _label_noise(config, seed)
    student_set = _subset(config.samples, fraction, "subset", seed)
    teacher_set = _subset(config.samples, teacher_fraction, "teacher subset", seed)
    kept = problem.features[student_set]
    taught = problem.features[teacher_set]
    teacher = _ridge_fit(taught, labels[teacher_set, None], _teacher_ridge(config))
    both = np.column_stack([labels[student_set], kept @ teacher])
    plain, distilled = _ridge_fit(kept, both, config.ridge).T
    return _Ends(plain, distilled, kept)


class _Path(NamedTuple):
    """What the students of a seed have in common on their way, whatever their KD weight."""

    ends: _Ends
    rates: Array
    """Eigenvalues of the Hessian, ascending, `[d]`."""
    basis: Array
    """Its eigenvectors as columns, `[d, d]`."""


@lru_cache(maxsize=256)
def _path(config: RidgeDataset, fraction: float, teacher_fraction: float, seed: int) -> _Path:
    """Kept for the next KD weight: a search asks for every seed of a context several times."""
    ends = _solve(config, fraction, teacher_fraction, seed)
    eigenvalues, basis = np.linalg.eigh(ends.kept.T @ ends.kept / len(ends.kept))
    return _Path(ends, np.maximum(eigenvalues, 0.0) + config.ridge, basis)


def _quadratic(config: RidgeDataset, fraction: float, teacher_fraction: float, seed: int) -> Array:
    """Coefficients c of the realised error `c[0] + c[1] α + c[2] α²`."""
    problem = load(config)
    ends = _solve(config, fraction, teacher_fraction, seed)
    error = ends.plain - problem.coefficients
    slope = ends.distilled - ends.plain
    return np.array(
        [
            error @ (problem.spectrum * error),
            2.0 * error @ (problem.spectrum * slope),
            slope @ (problem.spectrum * slope),
        ]
    )


def realised_error(
    config: RidgeDataset,
    fraction: float,
    teacher_fraction: float,
    kd_weights: ArrayLike,
    seed: int,
) -> Array:
    """Excess risk of a trial's student as a part of the signal's variance: 1 - `val_r2`.

    `(ŵ - w)' Σ (ŵ - w) / w'Σw` with the population covariance Σ: no validation sample, no
    sampling noise.

    Args:
        config: of the data set.
        fraction: f, of the samples the student keeps.
        teacher_fraction: f_t, of the samples the teacher is fitted on.
        kd_weights: α, any shape.
        seed: the trial's.

    Returns:
        Errors in the shape of `kd_weights`.
    """
    alphas = np.asarray(kd_weights, dtype=np.float64)
    c = _quadratic(config, fraction, teacher_fraction, seed)
    return np.asarray(c[0] + c[1] * alphas + c[2] * alphas**2)


def expected_error(
    config: RidgeDataset,
    fraction: float,
    teacher_fraction: float,
    kd_weights: ArrayLike,
    seed: int,
) -> Error:
    """The realised error's expectation over the label noise, given the seed's subsets.

    With `B(α) = (1 - α) A_S + α A_S X A_T` (`[d, n]`, labels to the student's coefficients)
    the bias is `(B X - I) w` and the variance `σ² tr(B' Σ B)`.

    Args:
        config: of the data set.
        fraction: f, of the samples the student keeps.
        teacher_fraction: f_t, of the samples the teacher is fitted on.
        kd_weights: α, `[alphas]`.
        seed: draws the subsets.
    """
    problem = load(config)
    x, w, spectrum = problem.features, problem.coefficients, problem.spectrum
    student_set = _subset(config.samples, fraction, "subset", seed)
    teacher_set = _subset(config.samples, teacher_fraction, "teacher subset", seed)
    plain = np.zeros((config.dimension, config.samples))
    plain[:, student_set] = _ridge_fit(x[student_set], np.eye(len(student_set)), config.ridge)
    teacher = np.zeros_like(plain)
    teacher[:, teacher_set] = _ridge_fit(
        x[teacher_set], np.eye(len(teacher_set)), _teacher_ridge(config)
    )
    distilled = plain @ (x @ teacher)
    bias, variance = [], []
    for alpha in np.asarray(kd_weights, dtype=np.float64).ravel():
        fit = (1.0 - alpha) * plain + alpha * distilled
        offset = fit @ (x @ w) - w
        bias.append(offset @ (spectrum * offset))
        variance.append(config.noise**2 * np.sum(spectrum[:, None] * fit**2))
    return Error(np.array(bias), np.array(variance))


def exact_kd_weight(
    config: RidgeDataset, fraction: float, teacher_fraction: float, seeds: Sequence[int]
) -> float:
    """The α in [0, 1] that minimises the mean realised error over these seeds."""
    per_seed = [_quadratic(config, fraction, teacher_fraction, seed) for seed in seeds]
    _, slope, curvature = np.mean(per_seed, axis=0)
    # A flat parabola (teacher equal to labels) has no best weight; plain training is one.
    return float(np.clip(-slope / (2.0 * curvature), 0.0, 1.0)) if curvature > 0 else 0.0


def mean_error(
    config: RidgeDataset,
    fraction: float,
    teacher_fraction: float,
    kd_weights: ArrayLike,
    seeds: Sequence[int],
) -> Array:
    """Expected error over the label noise, averaged over these seeds' subsets.

    Exactly quadratic in α, so three KD weights determine it.

    Returns:
        Errors in the shape of `kd_weights`.
    """
    low, middle, high = _mean_error(config, fraction, teacher_fraction, tuple(seeds))
    alphas = np.asarray(kd_weights, dtype=np.float64)
    slope, curvature = 4.0 * middle - 3.0 * low - high, 2.0 * (low + high) - 4.0 * middle
    return np.asarray(low + slope * alphas + curvature * alphas**2)


@lru_cache(maxsize=256)
def _mean_error(
    config: RidgeDataset, fraction: float, teacher_fraction: float, seeds: tuple[int, ...]
) -> Array:
    """The mean error at KD weights 0, ½ and 1, `[3]`."""
    ends = (0.0, 0.5, 1.0)
    totals = [expected_error(config, fraction, teacher_fraction, ends, s).total for s in seeds]
    return np.asarray(np.mean(totals, axis=0))


class RidgeTraining:
    """A student on its way to the closed form, by gradient flow from zero.

    `w(t) = (I - exp(-t s H)) ŵ` with `H = X_S'X_S/k + λI`, the exact path of gradient
    descent with infinitely small steps; s spreads the path over the budget, and the last
    epoch is the closed form itself.

    Args:
        config: of a trial with a ridge data set.

    Raises:
        ValueError: a model or method that this problem does not know.
    """

    objective = record.VAL_R2

    def __init__(self, config: TrialConfig) -> None:
        if not isinstance(config.dataset, RidgeDataset):
            raise TypeError(f"not a ridge problem: {config.dataset.name}")
        for key, known in {
            "student": RIDGE_MODEL,
            "teacher": RIDGE_MODEL,
            "method": "random",
        }.items():
            if (value := getattr(config, key)) != known:
                raise ValueError(f"{key}: {value!r} is unknown to the ridge problem; use {known!r}")
        self.problem = load(config.dataset)
        ends, self._rates, self._basis = _path(
            config.dataset, config.fraction, config.teacher_fraction, config.seed
        )
        self.solution = ends.at(config.kd_weight)
        self._in_basis = self._basis.T @ self.solution
        self.epoch = 0
        self.epochs = total_epochs(config)
        self.seconds = 0.0

    def coefficients(self) -> Array:
        """The student after the epochs done so far, `[d]`."""
        if self.epoch == self.epochs:
            return self.solution
        elapsed = _FLOW_TIME * self.epoch / self.epochs / self._rates[0]
        return np.asarray(self._basis @ (-np.expm1(-elapsed * self._rates) * self._in_basis))

    def step(self) -> dict[str, float]:
        """Advance one epoch.

        Raises:
            RuntimeError: the budget is used up.
        """
        if self.epoch >= self.epochs:
            raise RuntimeError(f"all {self.epochs} epochs are done")
        start = time.perf_counter()
        self.epoch += 1
        offset = self.coefficients() - self.problem.coefficients
        error = float(offset @ (self.problem.spectrum * offset))
        self.seconds += time.perf_counter() - start
        return {
            record.VAL_R2: 1.0 - error,
            record.SECONDS: self.seconds,
            record.EPOCH: self.epoch,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position; everything else follows from the configuration."""
        return {"epoch": self.epoch, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self.epoch = state["epoch"]
        self.seconds = state["seconds"]

"""The covariance of the response surface, and its derivatives.

    score = level(method, f) + A_c g(α, f, τ, teacher, f_t, method) + S_c seed effect + N_c noise

- `level` is the score at α = 0, one per method and fraction, with a wide prior: it is learnt from
  the data alone.
- `g` vanishes at α = 0, so that teacher and temperature, which act through the teacher, have no
  effect there. Over α it is a straight line, a bump 4α(1-α) and a smooth process h(α) - h(0),
  the last two with their own weights; it varies smoothly with log f, log τ and log f_t, and has one
  correlation between any two methods and one between any two teachers. A part of its variance
  belongs to the context alone, so that a context may disagree with its siblings.
- A_c, S_c and N_c, the scales of a context, are powers of f times a factor of its own near 1: small
  fractions vary by tens of points, large ones by tenths.
- The effect of a seed is e0 (1-α) + e1 α + e2 4α(1-α), per context, with a part common to
  contexts at nearby fractions (their subsets are nested and their initial weights equal).

Everything is in standardised units; α, f, τ and f_t as they are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.settings import Floats, Ints, Settings

PRIORS: dict[str, tuple[float, float]] = {
    "amplitude": (0.0, 0.8),
    "amplitude_power": (0.5, 0.5),
    "bump": (0.0, 0.7),
    "bend": (-0.5, 0.7),
    "kd_weight_length": (float(np.log(0.35)), 0.35),
    "fraction_length": (0.3, 0.5),
    "temperature_length": (0.0, 0.5),
    "teacher_fraction_length": (0.0, 0.5),
    "method_correlation": (0.0, 1.5),
    "teacher_correlation": (1.5, 1.5),
    "own": (-1.5, 1.0),
    "noise": (float(np.log(0.15)), 1.0),
    "noise_power": (0.5, 0.4),
    "seed_power": (0.5, 0.4),
    "seed_at_0": (float(np.log(0.2)), 1.0),
    "seed_at_1": (float(np.log(0.2)), 1.0),
    "seed_correlation": (0.3, 0.5),
    "seed_bump": (float(np.log(0.05)), 1.0),
    "seed_common": (-2.0, 1.0),
}
"""Mean and standard deviation of each hyperparameter's normal prior: logarithms of scales and
lengths, logits of shares and correlations, arctanh of `seed_correlation`, powers of 1/f."""
NAMES = tuple(PRIORS)
AMPLITUDE_SPREAD = 1.0
"""Standard deviation of log A_c around its power law in f."""
NOISE_SPREAD = 0.5
"""The same of log N_c."""
SEED_SPREAD = 0.5
"""The same of log S_c."""
LINEAR = 6.0
"""Prior standard deviation of g's slope, for A_c = 1. Wide: shrinking the slope, which seeds share
with the mean, would move the best KD weight towards the middle."""
NUGGET = 0.02
"""Standard deviation of noise that is always there: without it, values that lie exactly on few
features (a deterministic metric) would be worth any distortion of the rest."""
SPREADS = (AMPLITUDE_SPREAD, NOISE_SPREAD, SEED_SPREAD)


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """Where a fit ended, and where the next may start.

    Args:
        values: by name, see `PRIORS`.
        contexts: indices of the contexts that have factors of their own, `[c]`, ascending.
        factors: logarithms of A_c, N_c and S_c beyond their power laws, `[3, c]`.
    """

    values: dict[str, float]
    contexts: Ints
    factors: Floats

    def factors_of(self, contexts: Ints) -> Floats:
        """Log factors of these contexts, `[3, n]`; 0 for one never seen."""
        if not len(self.contexts):
            return np.zeros((3, len(contexts)))
        at = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)
        factors: Floats = np.where(self.contexts[at] == contexts, self.factors[:, at], 0.0)
        return factors


def prior() -> Hyperparameters:
    """What is believed before any trial."""
    values = {name: mean for name, (mean, _) in PRIORS.items()}
    return Hyperparameters(values, np.empty(0, np.int64), np.empty((3, 0)))


class Pairs(NamedTuple):
    """What pairs of places have in common; fixed while hyperparameters move, `[m, n]` each.

    A factor that is 1 everywhere is None.
    """

    kd_weight: Floats
    """Distance in α."""
    fraction: Floats | None
    """Squared distance in log f, as the next two."""
    temperature: Floats | None
    teacher_fraction: Floats | None
    method: Floats | None
    """1 where they differ, as the next."""
    teacher: Floats | None
    context: Floats
    """1 where equal, as the next two."""
    seed: Floats | None
    level: Floats


def pairs(a: Settings, b: Settings, seeds: tuple[Ints, Ints] | None) -> Pairs:
    """Compare every place of `a` with every one of `b`; without seeds, no seed effects."""

    def squared(name: str) -> Floats | None:
        return _nonzero(np.subtract.outer(np.log(getattr(a, name)), np.log(getattr(b, name))) ** 2)

    method = np.not_equal.outer(a.method, b.method).astype(np.float64)
    fraction = squared("fraction")
    level = 1.0 - method
    if fraction is not None:
        level *= fraction < 1e-18  # noqa: PLR2004  (fractions went through text and back)
    return Pairs(
        np.abs(np.subtract.outer(a.kd_weight, b.kd_weight)),
        fraction,
        squared("temperature"),
        squared("teacher_fraction"),
        _nonzero(method),
        _nonzero(np.not_equal.outer(a.teacher, b.teacher).astype(np.float64)),
        np.equal.outer(a.context, b.context).astype(np.float64),
        None if seeds is None else np.equal.outer(*seeds).astype(np.float64),
        level,
    )


def _nonzero(distance: Floats) -> Floats | None:
    return distance if distance.any() else None


class Scales(NamedTuple):
    """A_c, N_c and S_c at every place, `[n]` each."""

    amplitude: Floats
    noise: Floats
    seed: Floats


def scales(at: Settings, theta: Hyperparameters) -> Scales:
    """The scales of the places' contexts; that of seeds leaves out their size at α = 0 and 1."""
    v, rarity = theta.values, -np.log(at.fraction)
    amplitude, noise, seed = theta.factors_of(at.context)
    return Scales(
        np.exp(v["amplitude"] + v["amplitude_power"] * rarity + amplitude),
        np.exp(v["noise"] + v["noise_power"] * rarity + noise),
        np.exp(v["seed_power"] * rarity + seed),
    )


def noise_variance(at: Settings, theta: Hyperparameters) -> Floats:
    """Of a single trial, its seed's effect aside, `[n]`."""
    noise = scales(at, theta).noise
    total: Floats = noise * noise + NUGGET**2
    return total


def covariance(
    a: Settings,
    b: Settings,
    theta: Hyperparameters,
    level: float,
    seeds: tuple[Ints, Ints] | None = None,
) -> Floats:
    """Covariance between what is true, or with seeds what is observed, at places, `[m, n]`.

    The noise of a single trial is not in it.

    Args:
        a: m places.
        b: n places.
        theta: hyperparameters.
        level: prior variance of a level.
        seeds: of both, to count their effects.
    """
    return pieces(a, b, pairs(a, b, seeds), theta, level).total


def variance(at: Settings, theta: Hyperparameters, level: float, *, returned: bool) -> Floats:
    """Prior variance at each place, `[n]`: of the mean over seeds, or of what a trial returns."""
    v, alpha = theta.values, at.kd_weight
    amplitude, _, spread = scales(at, theta)
    length = np.exp(v["kd_weight_length"])
    smooth = 2 * np.exp(2 * v["bend"]) * -np.expm1(-0.5 * (alpha / length) ** 2)
    over = (LINEAR * alpha) ** 2 + (np.exp(v["bump"]) * _bump(alpha)) ** 2 + smooth
    total: Floats = level + amplitude**2 * over
    if returned:
        features = _seed_features(alpha)
        seed = ((features @ _seed_covariance(v)) * features).sum(axis=1)
        total = total + noise_variance(at, theta) + spread**2 * seed
    return total


class SeedPieces(NamedTuple):
    """Covariance of the seeds' effects and its factors, `[m, n]` each."""

    total: Floats
    belonging: Floats
    """1 within a seed and context, less between contexts, 0 between seeds."""
    shape: Floats
    """Over α."""
    scale: Floats
    """S_c of both places."""


class Pieces(NamedTuple):
    """A covariance, and what its derivatives are made of, `[m, n]` each."""

    total: Floats
    over_kd_weight: Floats
    """Covariance of g over α."""
    smooth: Floats
    """Its part h(α) - h(0)."""
    near: Floats | float
    """Correlation over f."""
    belonging: Floats
    """Correlation over f, with the context's own part."""
    scale: Floats
    """All other factors of g."""
    seed: "SeedPieces | None"


def pieces(a: Settings, b: Settings, common: Pairs, theta: Hyperparameters, level: float) -> Pieces:
    """The covariance in pieces; see `covariance`."""
    v = theta.values
    size_a, size_b = scales(a, theta), scales(b, theta)
    height = np.exp(v["bump"])
    smooth = np.exp(2 * v["bend"]) * _from_zero(
        a.kd_weight, b.kd_weight, common.kd_weight, np.exp(v["kd_weight_length"])
    )
    over = smooth + LINEAR**2 * np.outer(a.kd_weight, b.kd_weight)
    over += np.outer(height * _bump(a.kd_weight), height * _bump(b.kd_weight))
    near = 1.0 if common.fraction is None else _near(common.fraction, v["fraction_length"])
    own = _share(v["own"])
    belonging = own * common.context + (1 - own) * near
    scale = np.outer(size_a.amplitude, size_b.amplitude)
    for distance, name in (
        (common.temperature, "temperature_length"),
        (common.teacher_fraction, "teacher_fraction_length"),
    ):
        if distance is not None:
            scale *= _near(distance, v[name])
    for differs, name in (
        (common.method, "method_correlation"),
        (common.teacher, "teacher_correlation"),
    ):
        if differs is not None:
            scale *= 1.0 - (1.0 - _share(v[name])) * differs
    total = level * common.level
    total += over * belonging * scale
    seed = _seed_pieces(a, b, common, v, near, np.outer(size_a.seed, size_b.seed))
    if seed is not None:
        total += seed.total
    return Pieces(total, over, smooth, near, belonging, scale, seed)


def _seed_pieces(
    a: Settings,
    b: Settings,
    common: Pairs,
    v: dict[str, float],
    near: Floats | float,
    scale: Floats,
) -> SeedPieces | None:
    shared = _share(v["seed_common"])
    if common.seed is None:
        return None
    belonging = common.seed * (shared * near + (1 - shared) * common.context)
    shape = _seed_features(a.kd_weight) @ _seed_covariance(v) @ _seed_features(b.kd_weight).T
    return SeedPieces(belonging * shape * scale, belonging, shape, scale)


def gradient(
    at: Settings, common: Pairs, theta: Hyperparameters, parts: Pieces, weight: Floats
) -> tuple[dict[str, float], Floats]:
    """Derivatives of ½ tr(weight K), K the covariance with noise, the weight held fixed.

    Args:
        at: n places.
        common: `pairs` of them with themselves, seeds included.
        theta: hyperparameters.
        parts: `pieces` at these.
        weight: symmetric, `[n, n]`.

    Returns:
        By name of hyperparameter; and with respect to the logs of A_c, N_c and S_c at every place,
        `[3, n]`, to be added up per context.

    Raises:
        ValueError: no seeds.
    """
    if parts.seed is None or common.seed is None:
        raise ValueError("a likelihood needs the seeds")
    v, rarity = theta.values, -np.log(at.fraction)
    alpha = at.kd_weight
    out: dict[str, float] = {}
    weighted = weight * parts.scale
    apart = weighted * parts.over_kd_weight
    weighted *= parts.belonging
    shape = apart * parts.belonging
    amplitude = shape.sum(axis=1)
    out["amplitude"] = amplitude.sum()
    out["amplitude_power"] = amplitude @ rarity
    bump = _bump(alpha)
    out["bump"] = np.exp(2 * v["bump"]) * (bump @ weighted @ bump)
    out["bend"] = _dot(weighted, parts.smooth)
    length = np.exp(v["kd_weight_length"])
    # The distance from 0 belongs to one place: a row sum holds it.
    moved = _moved(common.kd_weight, length)
    bent = 0.5 * _dot(weighted, moved) - weighted.sum(axis=1) @ _moved(alpha, length)
    out["kd_weight_length"] = np.exp(2 * v["bend"]) * bent
    own, shared = _share(v["own"]), _share(v["seed_common"])
    between = common.context - parts.near
    out["own"] = 0.5 * own * (1 - own) * _dot(apart, between)
    for distance, name in (
        (common.temperature, "temperature_length"),
        (common.teacher_fraction, "teacher_fraction_length"),
    ):
        out[name] = 0.0 if distance is None else 0.5 * _dot(shape, distance) * np.exp(-2 * v[name])
    for differs, name in (
        (common.method, "method_correlation"),
        (common.teacher, "teacher_correlation"),
    ):
        out[name] = 0.0 if differs is None else 0.5 * _dot(shape, differs) * (1 - _share(v[name]))
    effects = (weight * parts.seed.total).sum(axis=1)
    noise = weight.diagonal() * np.square(scales(at, theta).noise)
    out["noise"] = float(noise.sum())
    out["noise_power"] = float(noise @ rarity)
    out["seed_power"] = float(effects @ rarity)
    scaled = weight * parts.seed.scale
    features = _seed_features(alpha)
    inner = features.T @ (scaled * parts.seed.belonging) @ features
    at_0, at_1 = np.exp(v["seed_at_0"]), np.exp(v["seed_at_1"])
    correlation = np.tanh(v["seed_correlation"])
    both = correlation * at_0 * at_1 * inner[0, 1]
    out["seed_at_0"] = at_0**2 * inner[0, 0] + both
    out["seed_at_1"] = at_1**2 * inner[1, 1] + both
    out["seed_correlation"] = (1 - correlation**2) * at_0 * at_1 * inner[0, 1]
    out["seed_bump"] = np.exp(2 * v["seed_bump"]) * inner[2, 2]
    scaled *= parts.seed.shape
    scaled *= common.seed
    out["seed_common"] = -0.5 * shared * (1 - shared) * _dot(scaled, between)
    out["fraction_length"] = 0.0
    if common.fraction is not None:
        spread = common.fraction * parts.near
        both_parts = (1 - own) * _dot(apart, spread) + shared * _dot(scaled, spread)
        out["fraction_length"] = 0.5 * both_parts * np.exp(-2 * v["fraction_length"])
    return out, np.stack([amplitude, noise, effects])


def _share(logit: float) -> float:
    return float(1.0 / (1.0 + np.exp(-logit)))


def _near(squared: Floats, log_length: float) -> Floats:
    near: Floats = np.exp(-0.5 * np.exp(-2 * log_length) * squared)
    return near


def _bump(alpha: Floats) -> Floats:
    return 4 * alpha * (1 - alpha)


def _from_zero(a: Floats, b: Floats, distance: Floats, length: float) -> Floats:
    """Covariance of h(α) - h(0), h a squared-exponential process of variance 1."""
    near_a, near_b = (np.exp(-0.5 * (each / length) ** 2) for each in (a, b))
    out: Floats = np.exp(-0.5 * (distance / length) ** 2)
    out -= near_a[:, None]
    out -= near_b
    out += 1.0
    return out


def _moved(distance: Floats, length: float) -> Floats:
    """Derivative of a squared exponential with respect to its log length."""
    ratio = (distance / length) ** 2
    moved: Floats = ratio * np.exp(-0.5 * ratio)
    return moved


def _seed_features(alpha: Floats) -> Floats:
    return np.column_stack([1 - alpha, alpha, _bump(alpha)])


def _seed_covariance(v: dict[str, float]) -> Floats:
    """Of a seed's effects at α = 0, at 1 and between, `[3, 3]`."""
    at_0, at_1 = np.exp(v["seed_at_0"]), np.exp(v["seed_at_1"])
    both = np.tanh(v["seed_correlation"]) * at_0 * at_1
    between = np.exp(2 * v["seed_bump"])
    return np.array([[at_0**2, both, 0.0], [both, at_1**2, 0.0], [0.0, 0.0, between]])


def _dot(a: Floats, b: Floats) -> float:
    return float(np.vdot(a, b))

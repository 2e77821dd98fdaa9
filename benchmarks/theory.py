"""What does the theory of self-distillation on pruned data promise, and what does it not?

    python benchmarks/theory.py [--quick] [--out FOLDER]

The linear problem of `trainables/ridge.py`: labels y = Xw + ε, a teacher fitted by ridge regression
to a fraction f_t of the samples, a student to a fraction f with labels mixed by the KD weight α.
Squared bias, variance and error of the student are closed forms (expectation over ε; mean over
random subsets), each a parabola over α. Problems are drawn at random: noise, ridge, decay of the
spectrum, dimension (below and above the number of kept samples), f and f_t ≥ f. Three assumptions
about the teacher's ridge λ_t per sample: the student's λ; the same total λ_t f_t = λ f; a free one.
For each: in which share of the problems does what hold? And along f, or f_t, alone, the rest of a
problem held fixed: how often does the best KD weight fall with f, the least error with f_t?

Draws theory.svg and theory.png of one problem into ``--out``, if given. Prints tables, and as its
last line one JSON object.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from trainables.config import RidgeDataset
from trainables.ridge import expected_error

Floats = NDArray[np.float64]

SUBSETS = 4
"""Random subsets that a curve is a mean over, the same for all curves of a problem."""
FRACTIONS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
TEACHER_FRACTIONS = (0.3, 0.5, 0.7, 1.0)
SLACK = 1e-9
"""A part of the error: rounding is no change."""
STEP = 0.01
"""Change of the best KD weight that does not count, since it is a mean over few subsets."""
REGIMES = ("at least as many kept samples as features", "fewer kept samples than features")
RIDGES = ("the student's λ", "the same total, λ_t f_t = λ f", "drawn on its own")


class Curves(NamedTuple):
    """Coefficients c of c[0] + c[1] α + c[2] α², each `[3]`."""

    bias: Floats
    variance: Floats

    @property
    def error(self) -> Floats:
        """Of squared bias and variance together."""
        return self.bias + self.variance

    def best(self) -> float:
        """The KD weight in [0, 1] with the least error."""
        _, slope, curvature = self.error
        if curvature <= 0:
            return float(slope + curvature < 0)
        return float(np.clip(-slope / (2 * curvature), 0.0, 1.0))

    def least(self) -> float:
        """The error there."""
        return float(parabola(self.error, np.array(self.best())))


def parabola(c: Floats, alpha: Floats) -> Floats:
    """A parabola's values."""
    values: Floats = c[0] + c[1] * alpha + c[2] * alpha**2
    return values


def curves(problem: RidgeDataset, fraction: float, teacher_fraction: float) -> Curves:
    """Squared bias and variance over the KD weight, exactly: three points make a parabola."""
    alphas = np.array([0.0, 0.5, 1.0])
    found = [
        expected_error(problem, fraction, teacher_fraction, alphas, seed) for seed in range(SUBSETS)
    ]

    def through(values: list[Floats]) -> Floats:
        low, middle, high = np.mean(values, axis=0)
        return np.array([low, 4 * middle - 3 * low - high, 2 * (low + high) - 4 * middle])

    return Curves(through([f.bias for f in found]), through([f.variance for f in found]))


def drawn(draw: np.random.Generator) -> RidgeDataset:
    """A random problem."""
    return RidgeDataset(
        name="ridge",
        samples=120,
        dimension=int(draw.choice([10, 30, 60, 150])),
        noise=float(draw.choice([0.3, 1.0, 2.0])),
        ridge=float(10 ** draw.uniform(-3, 0)),
        decay=float(draw.uniform(0, 1.5)),
        seed=int(draw.integers(2**31)),
    )


def with_teacher_ridge(
    problem: RidgeDataset, kind: str, fraction: float, teacher_fraction: float, own: float
) -> RidgeDataset:
    """The problem under one of the three assumptions."""
    ridge = {
        RIDGES[0]: None,
        RIDGES[1]: problem.ridge * fraction / teacher_fraction,
        RIDGES[2]: own,
    }[kind]
    return problem.model_copy(update={"teacher_ridge": ridge})


def claims(found: Curves) -> dict[str, bool]:
    """What holds for the curves of one fraction."""
    alphas = np.linspace(0, 1, 101)
    slack = SLACK * found.error[0]

    def gains(c: Floats) -> bool:
        return bool(parabola(c, alphas).min() < c[0] - slack)

    rising = (np.diff(parabola(found.bias, alphas)) >= -slack).all()
    return {
        "squared bias never falls with α": bool(rising),
        "squared bias is lower at some α > 0 than at 0": gains(found.bias),
        "variance is lower at some α > 0 than at 0": gains(found.variance),
        "error is lower at some α > 0 than at 0": gains(found.error),
        "the best KD weight is 1": found.best() == 1.0,
    }


def trends(problem: RidgeDataset, kind: str, fraction: float, own: float) -> dict[str, bool]:
    """What holds along the fractions, all else fixed."""

    def at(f: float, f_t: float) -> Curves:
        return curves(with_teacher_ridge(problem, kind, f, f_t, own), f, f_t)

    best = np.array([at(f, 1.0).best() for f in FRACTIONS])
    least = np.array([at(fraction, f_t).least() for f_t in TEACHER_FRACTIONS])
    return {
        "the best KD weight never rises with f": bool((np.diff(best) <= STEP).all()),
        "the best KD weight at the largest f is below that at the smallest": best[-1] < best[0],
        "the least error never rises with f_t": bool((np.diff(least) <= SLACK * least[:-1]).all()),
        "the least error at f_t = 1 is below that at the smallest f_t": least[-1] < least[0],
    }


def measure(count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Share of the random problems in which each claim holds, by regime, claim and assumption."""
    draw = np.random.default_rng(0)
    held: dict[str, dict[str, dict[str, list[bool]]]] = {regime: {} for regime in REGIMES}
    for _ in range(count):
        problem = drawn(draw)
        fraction = float(draw.choice(FRACTIONS[:4]))
        teacher_fraction = float(draw.choice([f for f in TEACHER_FRACTIONS if f >= fraction]))
        own = float(10 ** draw.uniform(-3, 0))
        regime = REGIMES[fraction * problem.samples < problem.dimension]
        for kind in RIDGES:
            taught = with_teacher_ridge(problem, kind, fraction, teacher_fraction, own)
            found = claims(curves(taught, fraction, teacher_fraction))
            for claim, holds in {**found, **trends(problem, kind, fraction, own)}.items():
                kinds = held[regime].setdefault(claim, {kind: [] for kind in RIDGES})
                kinds[kind].append(bool(holds))
    return {
        regime: {
            claim: {
                "n": len(kinds[RIDGES[0]]),
                **{kind: round(float(np.mean(each)), 3) for kind, each in kinds.items()},
            }
            for claim, kinds in found.items()
        }
        for regime, found in held.items()
    }


def draw_figure(folder: Path) -> None:
    """Squared bias, variance and error over α, and the best KD weight over f, of one problem."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (only when it is asked for)

    problem = RidgeDataset(name="ridge")
    alphas = np.linspace(0, 1, 51)
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for fraction, style in ((0.1, "-"), (0.5, "--")):
        found = curves(problem, fraction, 1.0)
        for name, c, color in (
            ("squared bias", found.bias, "#0072B2"),
            ("variance", found.variance, "#E69F00"),
            ("error", found.error, "black"),
        ):
            label = f"{name}, f = {fraction:g}"
            left.plot(alphas, parabola(c, alphas), style, color=color, label=label)
    left.set(xlabel="KD weight α", ylabel="part of the signal's variance", yscale="log")
    left.legend(fontsize=6)
    fractions = np.linspace(0.05, 1, 20)
    for noise, style in ((0.5, ":"), (1.5, "-"), (3.0, "--")):
        noisy = problem.model_copy(update={"noise": noise})
        best = [curves(noisy, float(f), 1.0).best() for f in fractions]
        middle.plot(fractions, best, style, color="black", label=f"noise {noise:g}")
    middle.set(xlabel="data kept, f", ylabel="best KD weight α*", ylim=(-0.02, 1.02))
    middle.legend(fontsize=7)
    taught = np.linspace(0.1, 1, 19)
    for fraction, style in ((0.1, "-"), (0.3, "--")):
        least = [curves(problem, fraction, float(f)).least() for f in taught if f >= fraction]
        shown = taught[taught >= fraction]
        right.plot(shown, least, style, color="black", label=f"f = {fraction:g}")
    right.set(xlabel="data of the teacher, f_t", ylabel="error at the best KD weight")
    right.legend(fontsize=7)
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("svg", "png"):
        figure.savefig(folder / f"theory.{ending}", dpi=150)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="60 problems instead of 400")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="draw the figure into it")
    options = parser.parse_args()
    count = 60 if options.quick else 400
    shares = measure(count)
    console = Console(width=140)
    for regime, found in shares.items():
        n = next(iter(found.values()))["n"]
        table = Table(f"{regime} ({n} problems); the teacher's ridge is", *RIDGES, box=None)
        for claim, by_kind in found.items():
            table.add_row(claim, *(f"{by_kind[kind]:.1%}" for kind in RIDGES))
        console.print(table, "")
    if options.out:
        draw_figure(options.out)
    figures: dict[str, Any] = {"n": count, "shares": shares}
    print(json.dumps({**figures, "versions": {n: version(n) for n in ("kdcurve", "numpy")}}))


if __name__ == "__main__":
    main()

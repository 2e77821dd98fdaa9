"""How often do the intervals of an answer hold the truth? Searches replayed where it is known.

    python benchmarks/coverage.py [--table digits.parquet] [--scales 1.0 1.5]

Each replication is a search over the fractions of one family of contexts, with the trials of a
search: 0, ½ and 1 for two seeds, then four KD weights near the optimum, on three seeds. The truth
is that of the mean over all seeds.

- `parabola`: the mean is quadratic in the KD weight, with seed effects and noise;
- `ridge`: `trainables.ridge`, the mean over 400 other seeds;
- `digits`: runs drawn from a table (`label_noise`, `method`, `fraction`, `kd_weight`, `seed`, and
  `correct` per epoch), the mean over all its seeds; its grid of KD weights counts as exact to
  half a step. Left out where there is no table.

Prints a table, with the two halves of the replications apart (a scale of the surface's intervals
can be chosen on one and checked on the other), and as its last line one JSON object.
"""

import argparse
import json
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

from analysis import optimum
from analysis.estimators import ESTIMATORS, Answer, Trials
from trainables.config import RidgeDataset
from trainables.ridge import realised_error

LEVEL = 0.9
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
SEEDS = 3
START = np.array([0.0, 0.5, 1.0])
ADAPTIVE = 4
FINE = np.linspace(0, 1, 201)
VALIDATION = 797
"""Images behind `correct`."""


class Truth(NamedTuple):
    """The mean over seeds at `weights`; the best one is known to within `slack`."""

    weights: np.ndarray
    mean: np.ndarray
    slack: float = 0.0

    @property
    def best(self) -> float:
        """The best KD weight."""
        return float(self.weights[self.mean.argmax()])

    def at(self, weight: float) -> float:
        """The mean at a KD weight, interpolated."""
        return float(np.interp(weight, self.weights, self.mean))


def plan(rng: np.random.Generator, best: float, steps: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """KD weights and seeds, by position, of one context's trials."""
    near = np.clip(rng.normal(best, 0.2, ADAPTIVE), 0, 1)
    weights = np.concatenate([np.tile(START, 2), near])
    if steps is not None:
        weights = steps[np.abs(weights[:, None] - steps).argmin(axis=1)]
    return weights, np.concatenate([[0, 0, 0, 1, 1, 1], np.arange(ADAPTIVE) % SEEDS])


def trials(weights: np.ndarray, score: np.ndarray, seed: np.ndarray, fraction: float) -> Trials:
    """One context, as the estimators take it."""
    return Trials(weights, score, seed.astype(np.int64), fixed={"fraction": fraction})


Search = list[tuple[Trials, Truth]]


def parabolas(rng: np.random.Generator, _: int) -> Search:
    """The best KD weight falls with the fraction; the noise of small fractions is larger."""
    found = []
    shift, tilt = rng.uniform(0.0, 0.3), rng.uniform(0.1, 0.3)
    for fraction in FRACTIONS:
        best = float(np.clip(shift - tilt * np.log(fraction), 0, 1))
        noise = 0.002 * fraction**-0.5
        truth = Truth(FINE, 0.9 - 0.1 * (FINE - best) ** 2)
        weights, seed = plan(rng, best, None)
        effects = rng.normal(0, noise, SEEDS)
        score = 0.9 - 0.1 * (weights - best) ** 2
        score = score + effects[seed] + rng.normal(0, noise, len(seed))
        found.append((trials(weights, score, seed, fraction), truth))
    return found


@lru_cache
def ridge_truth(fraction: float) -> Truth:
    """Of the mean over seeds that no replication uses."""
    config = RidgeDataset(name="ridge")
    errors = [realised_error(config, fraction, 1.0, FINE, seed) for seed in range(400)]
    return Truth(FINE, 1.0 - np.mean(errors, axis=0))


def ridge(rng: np.random.Generator, _: int) -> Search:
    """The same seeds in every context, as in a search."""
    config = RidgeDataset(name="ridge")
    drawn = rng.integers(1000, 1_000_000, SEEDS)
    found = []
    for fraction in FRACTIONS:
        truth = ridge_truth(fraction)
        weights, seed = plan(rng, truth.best, None)
        score = [
            1.0 - float(realised_error(config, fraction, 1.0, weight, int(drawn[s])))
            for weight, s in zip(weights, seed, strict=True)
        ]
        found.append((trials(weights, np.array(score), drawn[seed], fraction), truth))
    return found


@lru_cache
def families(path: str) -> list[tuple[dict[float, np.ndarray], np.ndarray]]:
    """Scores `[seeds, KD weights]` by fraction, for each label noise and method; the KD weights."""
    table = pd.read_parquet(path)
    table["score"] = [counts[-1] / VALIDATION for counts in table.pop("correct")]
    found = []
    for _, family in table.groupby(["label_noise", "method"], observed=True):
        by_fraction = {
            float(fraction): part.pivot_table(index="seed", columns="kd_weight", values="score")
            for fraction, part in family.groupby("fraction")
        }
        steps = next(iter(by_fraction.values())).columns.to_numpy(dtype=float)
        found.append(({f: part.to_numpy() for f, part in by_fraction.items()}, steps))
    return found


def digits(path: str, rng: np.random.Generator, replication: int) -> Search:
    """A family per replication in turn, the same seeds in every context."""
    choices = families(path)
    scores, steps = choices[replication % len(choices)]
    found = []
    drawn = rng.choice(len(next(iter(scores.values()))), SEEDS, replace=False)
    for fraction, values in scores.items():
        truth = Truth(steps, values.mean(axis=0), slack=0.5 * float(steps[1] - steps[0]))
        weights, seed = plan(rng, truth.best, steps)
        score = values[drawn[seed], np.searchsorted(steps, weights - 1e-9)]
        found.append((trials(weights, score, drawn[seed], fraction), truth))
    return found


class Row(NamedTuple):
    """One answer against the truth."""

    kd_weight: bool
    gain: bool
    width: float
    gain_width: float
    expected_loss: float
    loss: float


def compare(answer: Answer, truth: Truth) -> Row:
    """Whether the intervals hold the truth: the gain is that of the KD weight recommended."""
    weight, gain = answer.kd_weight, answer.gain
    true_gain = truth.at(weight.value) - truth.at(0.0)
    return Row(
        weight.low - truth.slack <= truth.best <= weight.high + truth.slack,
        gain.low - 1e-12 <= true_gain <= gain.high + 1e-12,
        weight.high - weight.low,
        gain.high - gain.low,
        answer.expected_loss,
        truth.mean.max() - truth.at(weight.value),
    )


def replay(search: Search, scales: list[float]) -> Iterator[tuple[str, list[Row]]]:
    """Every estimator's answers, the surface's also for other scales of its intervals."""
    contexts = [each for each, _ in search]
    usual = optimum.KD_WEIGHT_SCALE, optimum.SCORE_SCALE
    for name, scale in [("surface", None), *(("surface", s) for s in scales), ("quadratic", None)]:
        optimum.KD_WEIGHT_SCALE, optimum.SCORE_SCALE = (scale, scale) if scale else usual
        answers = ESTIMATORS[name](contexts, LEVEL)
        yield (
            f"{name} × {scale:g}" if scale else name,
            [
                compare(answer, truth)
                for answer, (_, truth) in zip(answers, search, strict=True)
                if answer.reason is None
            ],
        )
    optimum.KD_WEIGHT_SCALE, optimum.SCORE_SCALE = usual


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=Path("../shared/data/tables/digits.parquet"))
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--scales", type=float, nargs="+", default=[])
    # Seed 7 served to choose the model's priors and the scales: it is spent.
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--problems", nargs="+", default=["parabola", "ridge", "digits"])
    options = parser.parse_args()
    problems = {"parabola": parabolas, "ridge": ridge}
    if options.table.exists():
        problems["digits"] = lambda rng, i: digits(str(options.table), rng, i)
    problems = {name: problems[name] for name in options.problems if name in problems}
    table = Table("problem", "estimator", "holds KD weight", "(halves)", "holds gain", "(halves)",
                  "width", "gain width", "expected loss", "true loss", box=None)  # fmt: skip
    cases = []
    begin = perf_counter()
    for problem, simulate in problems.items():
        rows: dict[str, list[list[Row]]] = {}
        for replication in track(range(options.replications), problem, transient=True):
            search = simulate(np.random.default_rng([options.seed, replication]), replication)
            for label, answers in replay(search, options.scales):
                rows.setdefault(label, []).append(answers)
        for label, answered in rows.items():
            figures = summary(answered)
            cases.append({"problem": problem, "estimator": label, **figures})
            halves = [" ".join(f"{x:.1%}" for x in figures[f"{key}_halves"])
                      for key in ("kd_weight", "gain")]  # fmt: skip
            table.add_row(
                problem, label, f"{figures['kd_weight']:.1%}", halves[0], f"{figures['gain']:.1%}",
                halves[1], f"{figures['width']:.3f}", f"{figures['gain_width']:.4f}",
                f"{figures['expected_loss']:.5f}", f"{figures['loss']:.5f}",
            )  # fmt: skip
    Console(width=140).print(table)
    versions = {name: version(name) for name in ("kdcurve", "numpy", "scipy")}
    print(json.dumps({"n": options.replications, "contexts": len(FRACTIONS), "level": LEVEL,
                      "seconds": round(perf_counter() - begin, 1), "cases": cases,
                      "versions": versions}))  # fmt: skip


def summary(answered: list[list[Row]]) -> dict[str, object]:
    """Coverage over all answers and over halves of the replications; median widths; mean losses.

    Replications are dealt to the halves in blocks of four, so that both see every family.
    """
    halves = [
        [r for i, part in enumerate(answered) if i // 4 % 2 == h for r in part] for h in (0, 1)
    ]
    rows = [row for half in halves for row in half]
    return {
        **{
            f"{key}{end}": value
            for key in ("kd_weight", "gain")
            for end, value in (
                ("", float(np.mean([getattr(r, key) for r in rows]))),
                ("_halves", [float(np.mean([getattr(r, key) for r in half])) for half in halves]),
            )
        },
        "width": float(np.median([r.width for r in rows])),
        "gain_width": float(np.median([r.gain_width for r in rows])),
        "expected_loss": float(np.mean([r.expected_loss for r in rows])),
        "loss": float(np.mean([r.loss for r in rows])),
        "answers": len(rows),
    }


if __name__ == "__main__":
    main()

"""How often do the intervals of an answer hold the truth? Simulated contexts, known curves.

    python benchmarks/coverage.py

Each context has a quadratic mean over the KD weight, seed effects and noise, and the trials
of a search: 0, ½ and 1 for every seed, then KD weights near the optimum. Prints a table, and
as its last line one JSON object.
"""

import json
from importlib.metadata import version

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.estimators import Trials, quadratic

REPLICATIONS = 500
LEVEL = 0.9
SEEDS = 3
SAMPLED = 5
CURVATURE = 0.1
CASES = [(noise, best) for noise in (0.002, 0.005, 0.01) for best in (0.3, 0.7, 1.0)]


def simulate(rng: np.random.Generator, noise: float, best: float) -> tuple[Trials, float]:
    """One context's trials, and the true gain of the KD weight the estimator will choose."""
    weights = np.concatenate(
        [np.tile([0.0, 0.5, 1.0], SEEDS), np.clip(rng.normal(best, 0.2, SAMPLED), 0, 1)]
    )
    seeds = np.concatenate([np.repeat(np.arange(SEEDS), 3), np.arange(SAMPLED) % SEEDS])
    effects = rng.normal(0, noise, SEEDS)
    score = mean(weights, best) + effects[seeds] + rng.normal(0, noise, len(weights))
    return Trials(weights, score, seeds.astype(np.int64)), mean(best, best) - mean(0.0, best)


def mean(kd_weight: float | np.ndarray, best: float) -> float | np.ndarray:
    """True score at a KD weight."""
    return 0.9 - CURVATURE * (kd_weight - best) ** 2


def main() -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    table = Table("noise", "best KD weight", "covers KD weight", "covers gain", "width", box=None)
    figures = []
    for noise, best in CASES:
        answers = [(quadratic(t, LEVEL), gain) for t, gain in (
            simulate(rng, noise, best) for _ in range(REPLICATIONS)
        )]  # fmt: skip
        weight = float(np.mean([a.kd_weight.low <= best <= a.kd_weight.high for a, _ in answers]))
        gained = float(np.mean([a.gain.low <= gain <= a.gain.high for a, gain in answers]))
        width = float(np.median([a.kd_weight.high - a.kd_weight.low for a, _ in answers]))
        figures.append(
            {"noise": noise, "best": best, "kd_weight": weight, "gain": gained, "width": width}
        )
        table.add_row(f"{noise}", f"{best}", f"{weight:.1%}", f"{gained:.1%}", f"{width:.2f}")
    Console().print(table)
    versions = {name: version(name) for name in ("kdcurve", "numpy")}
    print(json.dumps({"n": REPLICATIONS, "level": LEVEL, "cases": figures, "versions": versions}))


if __name__ == "__main__":
    main()

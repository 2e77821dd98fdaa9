"""Where the first rung should stand: rank agreement by epoch, what stopping saves and costs.

Replays early stopping on a table of learning curves: every context starts with KD weights 0, ½ and
1 for each of its seeds, then KD weights are drawn at random; `search.scheduler.asha` stops
trials; the answer is the maximum of `analysis.estimators.quadratic` over those that were
complete. The same draws serve all forms of early stopping. Regret is measured against the mean
over all seeds of the table.

The table holds `label_noise`, `method`, `fraction`, `kd_weight`, `seed` and `correct`, the number
of validation samples classified correctly after each epoch.

Usage: python benchmarks/grace.py --table digits.parquet [--replications 20] [--validation 797]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.early import (
    FEWEST_GROUPS,
    Agreement,
    missed_best,
    rank_agreement,
    settled_share,
)
from analysis.estimators import Floats, Trials, quadratic
from search.scheduler import asha
from search.sections import DEFAULT_GRACE

CONTEXT = ["label_noise", "method", "fraction"]
FACTOR = 3.0
SEEDS = 3
SAMPLED = 15
"""Trials of a context after its starting design."""


def read(path: Path, validation: int) -> tuple[Floats, Floats, Floats]:
    """Scores `[contexts, weights, seeds, epochs]`, fractions `[contexts]`, KD weights."""
    table = pd.read_parquet(path).sort_values([*CONTEXT, "kd_weight", "seed"])
    weights = np.sort(table["kd_weight"].unique())
    contexts = table[CONTEXT].drop_duplicates()
    shape = (len(contexts), len(weights), table["seed"].nunique(), -1)
    scores = np.stack(table["correct"].to_numpy()).reshape(shape) / validation
    return scores, contexts["fraction"].to_numpy(), weights


def replay(
    curves: Floats, weights: Floats, draw: "np.random.Generator", first: int | None, sampled: int
) -> tuple[float, int, int]:
    """Search one context; its KD weight, the epochs trained, and the trials stopped early.

    Args:
        curves: `[weights, seeds, epochs]`.
        weights: the KD weights.
        draw: of the sampled trials.
        first: epoch of the first rung, None for no early stopping.
        sampled: trials after the starting design.
    """
    total = curves.shape[-1]
    start = [0, len(weights) // 2, len(weights) - 1]
    plan = [(w, s, True) for s in range(SEEDS) for w in start]
    plan += [(int(draw.integers(len(weights))), i % SEEDS, False) for i in range(sampled)]
    stopping = first is not None and first < total
    rules = [asha(first or 1, total, FACTOR) for _ in range(SEEDS)] if stopping else []
    whole, epochs, stopped = [], 0, 0
    for number, (w, s, starts) in enumerate(plan):
        end = float(first) if stopping and first is not None else float(total)
        while end < total:
            epoch = int(np.ceil(end))
            if rules[s](number, epoch, curves[w, s, epoch - 1]) and not starts:
                epochs, stopped = epochs + epoch, stopped + 1
                break
            end *= FACTOR
        else:
            epochs += total
            whole.append((w, s))
    index, seeds = np.array(whole).T
    answer = quadratic(Trials(weights[index], curves[index, seeds, -1], seeds), 0.9)
    return answer.kd_weight.value, epochs, stopped


def measured(start: list[Floats]) -> float:
    """What `grace_epochs: auto` takes, as a share of the budget."""
    agreement = rank_agreement(start)
    return settled_share(agreement) if agreement.groups >= FEWEST_GROUPS else DEFAULT_GRACE


def main() -> None:
    """Measure, print tables, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--validation", type=int, default=797)
    parser.add_argument("--replications", type=int, default=20)
    arguments = parser.parse_args()
    scores, fractions, weights = read(arguments.table, arguments.validation)
    contexts, _, seeds, total = scores.shape
    truth = scores[..., -1].mean(axis=2)
    start = [0, len(weights) // 2, len(weights) - 1]

    dense = rank_agreement([scores[c, :, s] for c in range(contexts) for s in range(0, seeds, 4)])
    three = rank_agreement([scores[c, start, s] for c in range(contexts) for s in range(seeds)])
    groups = [scores[c, start, s] for c in range(contexts) for s in range(seeds)]
    costs = {
        epoch: missed_best(groups, [epoch] * len(groups), 1 - 1 / FACTOR)
        for epoch in range(1, total + 1)
    }
    print(f"epoch   agreement: {len(weights)} weights   3 weights   best would be lost   points")
    for epoch in range(1, total + 1):
        cost = costs[epoch]
        share = cost.missed / cost.groups
        print(
            f"{epoch:5}   {_at(dense, epoch):21.2f}   {_at(three, epoch):9.2f}   {share:18.0%}"
            f"   {cost.points:6.2f}"
        )

    result: dict[str, object] = {"replications": arguments.replications}
    for used in (contexts, 4):
        found = _compare(scores, fractions, weights, truth, used, arguments.replications)
        result[f"{used}_contexts"] = found
    print(json.dumps(result))


def _at(agreement: Agreement, epoch: int) -> float:
    return float(agreement.correlation[epoch - 1])


def _compare(
    scores: Floats, fractions: Floats, weights: Floats, truth: Floats, used: int, count: int
) -> dict[str, object]:
    """All forms on the same draws, with `used` contexts of the table in a search."""
    contexts, _, seeds, total = scores.shape
    start = [0, len(weights) // 2, len(weights) - 1]
    forms: dict[str, tuple[Callable[[list[Floats]], int | None], int]] = {
        "a third": (lambda _: round(total / 3), SAMPLED),
        "a ninth": (lambda _: round(total / 9), SAMPLED),
        "auto": (lambda curves: round(total * measured(curves)), SAMPLED),
        "none": (lambda _: None, SAMPLED),
        # Fewer trials, for about as much training as with a rung at a third.
        "auto, 13": (lambda curves: round(total * measured(curves)), 13),
        "none, 9": (lambda _: None, 9),
        "none, 10": (lambda _: None, 10),
    }
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in forms}
    rungs = []
    for replication in range(count):
        draw = np.random.default_rng(replication)
        chosen = draw.choice(contexts, used, replace=False)
        picked = draw.choice(seeds, SEEDS, replace=False)
        curves = scores[chosen][:, :, picked]
        begun = [group[start, s] for group in curves for s in range(SEEDS)]
        for name, (form, sampled) in forms.items():
            first = form(begun)
            if name == "auto":
                rungs.append(first)
            cost, regret, stopped = 0.0, [], 0
            for c, group in zip(chosen, curves, strict=True):
                draws = np.random.default_rng((replication, c))
                weight, epochs, ended = replay(group, weights, draws, first, sampled)
                regret.append(100 * (truth[c].max() - np.interp(weight, weights, truth[c])))
                cost, stopped = cost + epochs * fractions[c], stopped + ended
            rows[name].append((float(np.mean(regret)), cost, stopped / used))
    whole = np.array([cost for _, cost, _ in rows["none"]])
    print(f"\n{used} contexts: first rung of auto at epoch {np.quantile(rungs, [0, 0.5, 1])}")
    print("form      regret (points)   less that of a third   training   stopped per context")
    result: dict[str, object] = {"auto_rungs": np.quantile(rungs, [0, 0.1, 0.5, 0.9, 1]).tolist()}
    third = np.array([regret for regret, *_ in rows["a third"]])
    for name, values in rows.items():
        regrets, spent, ended = np.array(values).T
        more = regrets - third
        error = float(more.std(ddof=1) / np.sqrt(count))
        share = float((spent / whole).mean())
        print(
            f"{name:8}  {regrets.mean():15.3f}   {more.mean():+12.3f} ± {error:.3f}   "
            f"{share:8.0%}   {ended.mean():19.1f}"
        )
        result[name] = {
            "regret": regrets.mean(),
            "more_than_a_third": more.mean(),
            "error": error,
            "training": share,
        }
    return result


if __name__ == "__main__":
    main()

"""A cheap look at every KD weight, and the full budget for those that begin best."""

import math
from collections.abc import Sequence

from search.designer import Known, Later, Proposal
from search.faults import BLOCKS
from search.ledger import TrialState
from search.samplers.planned import fixed_trials, other_values, spread
from search.space import SearchSpec

KEPT = 3
"""KD weights of a block that are run in full."""
POINTS = BLOCKS["one-epoch-top-k"] - KEPT
"""KD weights of a block that are looked at."""
LOOK_EPOCHS = 1
_SMALLEST = 5
"""Trials that are worth a block of their own."""


def blocks(budget: int) -> list[tuple[int, int]]:
    """How a context's budget is divided: KD weights looked at and run in full, block by block."""
    made: list[tuple[int, int]] = []
    while budget >= _SMALLEST:
        kept = min(KEPT, budget // 4)
        points = min(POINTS, budget - kept)
        made.append((points, kept))
        budget -= points + kept
    points, kept = made[-1]
    return [*made[:-1], (points, kept + budget)]


def one_epoch_top_k(spec: SearchSpec, known: Known) -> Proposal | Later | None:
    """Every KD weight of a grid for one epoch, then the best of them in full, under one seed.

    The next block does the same under the next seed. What is looked at ends as stopped early, what
    is run in full is never stopped. A context whose looks are under way lets others go first.
    """
    waiting = False
    for context in sorted(spec.context_list, key=lambda c: len(known.get(c.key, ()))):
        trials = known.get(context.key, ())
        begin = 0
        for block, (points, kept) in enumerate(blocks(fixed_trials(spec))):
            position = len(trials) - begin
            if position >= points + kept:
                begin += points + kept
                continue
            values, seed = other_values(spec, block)
            seed %= spec.seeds.trials
            weights = spread(spec, points)
            if position < points:
                values["kd_weight"] = weights[position]
                return Proposal(context, values, seed, until_epoch=LOOK_EPOCHS)
            looks = trials[begin : begin + points]
            if all(look.outcome is not None for look in looks):
                values["kd_weight"] = _best_first(looks)[position - points]
                return Proposal(context, values, seed, until_epoch=spec.total_epochs(context))
            waiting = True
            break
    return Later() if waiting else None


def _best_first(looks: Sequence[TrialState]) -> list[float]:
    """KD weights by their score after the look; those that failed come last."""

    def score(look: TrialState) -> float:
        found = look.scores.get(LOOK_EPOCHS, -math.inf)
        return found if math.isfinite(found) else -math.inf

    return [look.values["kd_weight"] for look in sorted(looks, key=score, reverse=True)]

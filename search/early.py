"""Early stopping measured on a search's own trials: where its first rung stands, what it did."""

from typing import Any

import numpy as np

from analysis.early import (
    FEWEST_GROUPS,
    missed_best,
    rank_agreement,
    settled_share,
    spared,
)
from analysis.estimators import Floats
from search.designer import Known
from search.ledger import Ledger, TrialState
from search.sections import AUTO, DEFAULT_GRACE
from search.space import SearchSpec
from trainables.record import Outcome

FEWEST_TRIALS = 3
"""KD weights of a group that are ranked against each other."""


def start_curves(spec: SearchSpec, known: Known) -> dict[tuple[str, int], Floats]:
    """Learning curves of the complete trials of the starting design.

    Returns:
        `[k, T]` for every context (its key) and seed that has three or more.
    """
    groups: dict[tuple[str, int], list[TrialState]] = {}
    for context in spec.context_list:
        total = spec.total_epochs(context)
        for trial in known.get(context.key, ()):
            whole = trial.outcome is Outcome.COMPLETE and len(trial.scores) == total
            if trial.start_design and whole and np.isfinite(list(trial.scores.values())).all():
                groups.setdefault((context.key, trial.seed), []).append(trial)
    return {
        key: np.array([[t.scores[epoch] for epoch in sorted(t.scores)] for t in group])
        for key, group in groups.items()
        if len(group) >= FEWEST_TRIALS
    }


def measured_grace(spec: SearchSpec, known: Known) -> dict[str, Any] | None:
    """Where ranks have settled, once the starting design has ended in every context.

    Returns:
        The data of the event that records it: `share` of the budget at which the first rung stands
        (1: nowhere), the rank `correlation` measured there (None if too few trials say it,
        and the usual share is taken) and the number of `groups` behind it. None: not yet.
    """
    for context in spec.context_list:
        start = [trial for trial in known.get(context.key, ()) if trial.start_design]
        if not start or any(trial.outcome is None for trial in start):
            return None
    agreement = rank_agreement(list(start_curves(spec, known).values()))
    if agreement.groups < FEWEST_GROUPS:
        return {"share": DEFAULT_GRACE, "correlation": None, "groups": agreement.groups}
    share = settled_share(agreement)
    at = float(agreement.correlation[np.searchsorted(agreement.share, share)])
    return {"share": share, "correlation": round(at, 4), "groups": agreement.groups}


def effect(spec: SearchSpec, ledger: Ledger) -> str | None:
    """What early stopping did in a search, in words; None where there was none."""
    stopping = spec.early_stopping
    if stopping.name == "none":
        return None
    contexts = {context.key: context for context in spec.context_list}
    trials = [trial for trial in ledger.trials.values() if trial.outcome is not None]
    if not trials:
        return None
    kept = np.array([spec.kept_samples(contexts[t.context]) for t in trials], np.float64)
    epochs = np.array([t.epoch for t in trials]) * kept
    whole = np.array([spec.total_epochs(contexts[t.context]) for t in trials]) * kept
    stopped = np.array([t.outcome is Outcome.STOPPED_EARLY for t in trials])
    said = [
        f"{int(stopped.sum())} of {len(trials)} trials stopped early, which spared "
        f"{spared(epochs, whole, stopped):.0%} of their training"
    ]
    if stopping.grace_epochs == AUTO:
        said.append(_grace_text(ledger.grace))
    rungs = {key: spec.rungs(context, ledger.grace_share) for key, context in contexts.items()}
    compared = {
        key: curves
        for key, curves in start_curves(spec, ledger.by_context).items()
        if rungs[key[0]]
    }
    if compared:
        first = [rungs[context][0] for context, _ in compared]
        cost = missed_best(list(compared.values()), first, stopping.bar)
        said.append(
            f"of {cost.groups} starting designs run to their end, {cost.missed} would have lost "
            f"their best trial at the first rung ({cost.points:.2g} points as a mean over all)"
        )
    return "; ".join(said)


def _grace_text(grace: dict[str, Any] | None) -> str:
    if grace is None:
        return "no first rung was set, since the starting design did not end"
    share, groups = grace["share"], grace["groups"]
    if grace["correlation"] is None:
        return (
            f"the first rung stood at the usual {share:.0%} of the budget, since only {groups} "
            "contexts and seeds had three trials to rank"
        )
    if share >= 1.0:
        return "ranks agreed with the end nowhere before it, so that no trial was compared"
    return (
        f"the first rung stood at {share:.0%} of the budget, from where on ranks agree with the "
        f"end (rank correlation {grace['correlation']:.2f} over {groups} contexts and seeds)"
    )

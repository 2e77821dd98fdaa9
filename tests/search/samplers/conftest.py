"""Searches played quickly in memory: a designer, its trials, no record."""

from collections.abc import Callable

import pytest

from search.designer import Later
from search.ledger import TrialState
from search.samplers.table import make_designer
from search.studies import Studies
from trainables.record import Outcome


@pytest.fixture
def play(tmp_path) -> Callable[..., list[TrialState]]:
    """Propose and end trials one at a time, after those that are `known`; returns all."""

    def run(spec, upto=10_000, known=(), score=lambda trial: 0.5, designer=None):
        designer = designer or make_designer(spec, Studies(spec, tmp_path / "optuna.journal"))
        trials = list(known)
        while len(trials) < upto:
            proposal = designer.propose(by_context(trials))
            assert not isinstance(proposal, Later), "it waits, and nothing runs"
            if proposal is None:
                break
            trial = TrialState(
                len(trials), proposal.context.key, dict(proposal.values), proposal.seed,
                proposal.start_design, proposal.until_epoch,
            )  # fmt: skip
            designer.accepted(trial.number)
            trials.append(trial)
            total = proposal.until_epoch or 9
            trial.scores = {1: score(trial), total: score(trial)}
            trial.outcome = Outcome.COMPLETE if total == 9 else Outcome.STOPPED_EARLY
        return trials

    return run


def by_context(trials):
    known = {}
    for trial in trials:
        known.setdefault(trial.context, []).append(trial)
    return known

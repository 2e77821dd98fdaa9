import pytest

from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger
from trainables.record import Outcome, SearchState

FIELDS = ("trials", "by_context", "state", "started", "last", "active_s", "plan", "spec")


@pytest.fixture
def ledger(journal, make_spec, plan):
    return plan(journal, make_spec())


def propose(ledger, number, context=0):
    ledger.record(
        EventKind.PROPOSED,
        number,
        context=ledger.spec.context_list[context].key,
        values={"kd_weight": 0.1 * number},
        seed=0,
        start_design=False,
    )
    ledger.record(EventKind.STARTED, number)


def report(ledger, number, *epochs):
    for epoch in epochs:
        metrics = {"epoch": epoch, "val_accuracy": 0.1 * epoch, "train_loss": 1.0}
        ledger.record(EventKind.REPORTED, number, epoch=epoch, metrics=metrics)


def end(ledger, number, outcome, reason=None):
    ledger.record(EventKind.ENDED, number, outcome=outcome, reason=reason)


def same(one, other):
    return all(getattr(one, name) == getattr(other, name) for name in FIELDS)


def test_what_is_read_back_equals_the_live_state_after_every_step(ledger, journal):
    steps = [
        lambda: ledger.record(EventKind.PREPARED, key="teacher-x", metadata={"val_accuracy": "1"}),
        lambda: propose(ledger, 0),
        lambda: report(ledger, 0, 1, 2, 3),
        lambda: ledger.record(EventKind.RUNG, 0, epoch=3, score=0.3, stop=True),
        lambda: end(ledger, 0, Outcome.STOPPED_EARLY, "at the rung of epoch 3"),
        lambda: propose(ledger, 1, context=1),
        lambda: end(ledger, 1, Outcome.FAILED, "ValueError: loss is not finite"),
        lambda: propose(ledger, 2),
        lambda: report(ledger, 2, 1),
        lambda: ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED),
        lambda: ledger.record(EventKind.RESUMED),
        lambda: ledger.record(EventKind.STARTED, 2),
        lambda: report(ledger, 2, 1, 2),
        lambda: end(ledger, 2, Outcome.COMPLETE),
        lambda: ledger.record(EventKind.ANSWER, curve=[{"kd_weight": 0.5}]),
        lambda: ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE),
    ]
    for step in steps:
        step()
        assert same(Ledger(journal, ledger.search), ledger)
    assert ledger.trials[1].reason == "ValueError: loss is not finite"


def test_a_whole_rehearsed_search_reads_back_as_it_was(
    journal, make_spec, plan, rehearsal, tmp_path
):
    spec = make_spec()
    ledger = plan(journal, spec)
    rehearsal(spec, ledger, tmp_path).run()
    assert same(Ledger(journal, spec.name), ledger)


def test_a_trial_that_is_started_again_keeps_what_is_recorded(ledger, journal):
    """Its seed makes it the same trial: facts stay, what comes after them is added."""
    propose(ledger, 0)
    report(ledger, 0, 1, 2, 3)
    ledger.record(EventKind.RUNG, 0, epoch=3, score=0.3, stop=False)
    ledger.record(EventKind.STARTED, 0)
    for each in (ledger, Ledger(journal, ledger.search)):
        trial = each.trials[0]
        assert (trial.epoch, trial.running, trial.stopped_at) == (3, True, None)
        assert trial.rungs == {3: (0.3, False)}


def test_trials_are_counted_by_outcome_and_those_under_way_as_running(ledger):
    outcomes = [*Outcome, Outcome.COMPLETE, None, None]
    for number, outcome in enumerate(outcomes):
        propose(ledger, number)
        if outcome is not None:
            end(ledger, number, outcome)
    assert ledger.outcomes() == {**dict.fromkeys(map(str, Outcome), 1), "complete": 2, "running": 2}
    assert [t.number for t in ledger.unfinished()] == [5, 6]


def test_a_context_is_done_when_its_whole_budget_has_ended(ledger):
    for number in range(3):
        propose(ledger, number)
        end(ledger, number, Outcome.COMPLETE)
    propose(ledger, 3, context=1)
    assert ledger.contexts_done() == 0
    for number in range(4, 13):
        propose(ledger, number)
        end(ledger, number, Outcome.STOPPED_EARLY)
    assert ledger.contexts_done() == 1


def test_a_halt_leaves_nothing_running_and_a_resumed_search_is_running_again(ledger):
    assert ledger.state is SearchState.RUNNING
    propose(ledger, 0)
    ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
    assert (ledger.state, ledger.outcomes()["running"]) == (SearchState.INTERRUPTED, 0)
    assert len(ledger.unfinished()) == 1
    ledger.record(EventKind.RESUMED)
    assert ledger.state is SearchState.RUNNING


def test_the_objective_alone_counts_as_a_score(ledger):
    propose(ledger, 0)
    ledger.record(EventKind.REPORTED, 0, epoch=1, metrics={"train_loss": 3.0})
    assert ledger.trials[0].scores == {}
    assert ledger.spec.objective == "val_accuracy"


def test_a_search_nobody_planned_has_no_spec(journal):
    with pytest.raises(KdcurveError, match="no search named 'nobody'"):
        _ = Ledger(journal, "nobody").spec

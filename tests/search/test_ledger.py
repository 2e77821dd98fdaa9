import pytest

from search.errors import KdcurveError
from search.journal import Event, EventKind
from search.ledger import Ledger
from trainables.record import Outcome, SearchState

FIELDS = ("trials", "by_context", "state", "started", "last", "active_s")
FIELDS += ("plan", "spec", "prepared")


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
        lambda: ledger.record(EventKind.CHECKPOINTED, 2, epoch=1, path="checkpoints/2"),
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


@pytest.mark.parametrize("sampler", ["curve", "ray-stock"])
def test_where_contexts_get_different_numbers_of_trials_none_is_called_done(
    make_spec, journal, plan, sampler
):
    ledger = plan(journal, make_spec(sampler=sampler))
    assert ledger.contexts_done() is None


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


def events_at(journal, *timed):
    """Record events of the search "rehearsal" at given times."""
    last = journal.last_number("rehearsal")
    journal.write("rehearsal", [Event(last + i, *event) for i, event in enumerate(timed, start=1)])
    return Ledger(journal, "rehearsal")


def test_a_search_that_was_extended_is_what_it_was_extended_to(ledger, journal, make_spec):
    more = make_spec(budget={"trials_per_context": 24}, seeds={"trials": 4})
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
    ledger.record(EventKind.RESUMED, spec=more.model_dump(mode="json", exclude_none=True))
    for each in (ledger, Ledger(journal, ledger.search)):
        assert each.spec == more
        assert each.state is SearchState.RUNNING
        assert each.plan["git_commit"] == "abc1234", "the rest of the plan stays"
    ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
    ledger.record(EventKind.RESUMED)
    assert ledger.spec == Ledger(journal, ledger.search).spec == more


def test_what_is_shared_is_known_by_its_key(ledger, journal):
    teacher = {"key": "teacher-1", "artifact": {"model": "cnn4"}, "metadata": {"a": "1"}}
    ledger.record(EventKind.PREPARED, **teacher, seconds=2.5)
    ledger.record(EventKind.PREPARED, key="scores-1", metadata={})  # as version 1 recorded it
    for each in (ledger, Ledger(journal, ledger.search)):
        assert list(each.prepared) == ["teacher-1", "scores-1"]
        assert each.prepared["teacher-1"] == {**teacher, "seconds": 2.5}


def test_a_trial_is_taken_up_from_its_newest_checkpoint(ledger, journal):
    propose(ledger, 0)
    assert ledger.trials[0].checkpoint == 0
    report(ledger, 0, 1, 2, 3, 4)
    for epoch in (2, 4):
        ledger.record(EventKind.CHECKPOINTED, 0, epoch=epoch, path="checkpoints/0")
    report(ledger, 0, 5)
    for each in (ledger, Ledger(journal, ledger.search)):
        assert (each.trials[0].checkpoint, each.trials[0].epoch) == (4, 5)


def test_a_trial_has_its_own_times_and_newest_metrics(ledger, journal):
    context = ledger.spec.context_list[0].key
    proposed = {"context": context, "values": {}, "seed": 0, "start_design": True}
    two = {"epoch": 2, "val_accuracy": 0.2, "train_loss": 1.0}
    replayed = events_at(
        journal,
        (100.0, EventKind.PROPOSED, 0, proposed),
        (101.0, EventKind.STARTED, 0, {}),
        (102.0, EventKind.REPORTED, 0, {"epoch": 1, "metrics": {"epoch": 1}}),
        (200.0, EventKind.STARTED, 0, {}),
        (203.0, EventKind.REPORTED, 0, {"epoch": 2, "metrics": two}),
        (204.0, EventKind.ENDED, 0, {"outcome": "complete", "reason": None}),
    )
    trial = replayed.trials[0]
    assert (trial.started, trial.ended) == (101.0, 204.0), "first taken up, at last ended"
    assert trial.last == two
    assert replayed.last == 204.0


def test_pauses_do_not_count_as_work_nor_does_a_clock_that_is_set_back(journal):
    replayed = events_at(
        journal,
        (100.0, EventKind.PLANNED, None, {}),
        (110.0, EventKind.PREPARED, None, {"key": "k"}),
        (120.0, EventKind.CLOSED, None, {"state": "interrupted"}),
        (500.0, EventKind.RESUMED, None, {}),
        (504.0, EventKind.PREPARED, None, {"key": "l"}),
        # killed here, and the clock set back by an hour
        (-3000.0, EventKind.RESUMED, None, {}),
        (-2999.0, EventKind.PREPARED, None, {"key": "m"}),
        (-5000.0, EventKind.PREPARED, None, {"key": "n"}),
        (-4998.0, EventKind.CLOSED, None, {"state": "complete"}),
    )
    assert replayed.active_s == 20 + 4 + 1 + 0 + 2
    assert (replayed.started, replayed.last) == (100.0, -4998.0)


def test_a_ledger_takes_note_of_what_was_taken_in_and_of_nothing_else(journal, make_spec, plan):
    spec = make_spec()
    plan(journal, spec)

    def refuse(entries):
        raise KdcurveError("the disk is full")

    ledger = Ledger(journal, spec.name, refuse)
    with pytest.raises(KdcurveError, match="the disk is full"):
        propose(ledger, 0)
    assert ledger.trials == {}
    assert same(Ledger(journal, spec.name), ledger)

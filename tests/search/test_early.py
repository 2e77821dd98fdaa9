import itertools

import pytest

from search.early import effect, measured_grace, start_curves
from search.journal import EventKind
from search.ledger import Ledger
from trainables.record import Outcome

AUTO = {"grace_epochs": "auto"}
SIX = {"method": ["random"], "fraction": [0.1, 0.2, 0.3, 0.5, 0.7, 0.9], "teacher": ["cnn4"]}


def turning(settled):
    """Scores whose order over KD weights turns round at that epoch."""

    def score(trial, epoch):
        sign = 1 if epoch >= settled else -1
        return 0.5 + 0.01 * epoch - sign * 0.2 * (trial["kd_weight"] - 0.1) ** 2

    return score


@pytest.fixture
def searched(make_spec, journal, plan, rehearsal, tmp_path):
    def search(score, name="early", **sections):
        spec = make_spec(
            **{
                "name": name,
                "contexts": SIX,
                "early_stopping": AUTO,
                "seeds": {"trials": 2},
                "budget": {"trials_per_context": 8},
            }
            | sections
        )
        played = rehearsal(spec, plan(journal, spec), tmp_path / name, score)
        played.run()
        return spec, played.ledger

    return search


def events(journal, spec, kind):
    return [event for event in journal.events(spec.name) if event.kind is kind]


@pytest.mark.parametrize("settled", [1, 4, 6])
def test_the_first_rung_stands_where_ranks_have_settled(searched, journal, settled):
    spec, ledger = searched(turning(settled))
    (decided,) = events(journal, spec, EventKind.GRACE)
    assert decided.data == {"share": pytest.approx(settled / 9), "correlation": 1.0, "groups": 12}
    assert ledger.grace_share == decided.data["share"]
    rungs = {event.data["epoch"] for event in events(journal, spec, EventKind.RUNG)}
    assert min(rungs) == settled
    first = min(event.number for event in events(journal, spec, EventKind.RUNG))
    assert first > decided.number, "nothing is compared before it is decided"


def test_where_ranks_never_settle_nothing_is_stopped_and_that_is_said(searched, journal):
    spec, ledger = searched(turning(9))
    assert ledger.grace_share == 1.0
    assert not events(journal, spec, EventKind.RUNG)
    assert "no trial was compared" in effect(spec, ledger)
    assert effect(spec, ledger).startswith("0 of 48 trials stopped early")


def test_too_few_trials_to_rank_leave_the_usual_third(searched, make_spec):
    two = make_spec().contexts.model_dump(exclude_none=True)
    spec, ledger = searched(turning(6), contexts=two, seeds={"trials": 2})
    assert ledger.grace == {"share": pytest.approx(1 / 3), "correlation": None, "groups": 4}
    assert spec.rungs(spec.context_list[0], ledger.grace_share) == (3,)
    assert "at the usual 33% of the budget" in effect(spec, ledger)


def test_trials_of_the_starting_design_compete_at_rungs_set_after_they_ended(searched, journal):
    """They score 0.9, all others less: whatever comes after them is stopped at its first rung."""

    def score(trial, epoch):
        start = trial["kd_weight"] in (0.0, 0.5, 1.0)
        return (0.9 if start else 0.1) + 0.01 * trial["kd_weight"]

    _, ledger = searched(score, early_stopping={**AUTO, "reduction_factor": 2})
    later = [trial for trial in ledger.trials.values() if not trial.start_design]
    assert later
    assert {trial.outcome for trial in later} == {Outcome.STOPPED_EARLY}
    assert {trial.stopped_at for trial in later} == {1}


def test_it_is_not_decided_while_the_starting_design_runs(make_spec, journal, plan):
    spec = make_spec(contexts=SIX, early_stopping=AUTO)
    ledger = plan(journal, spec)
    numbers = itertools.count()
    for context in spec.context_list:
        assert measured_grace(spec, ledger.by_context) is None
        for weight in (0.0, 0.5, 1.0):
            number = next(numbers)
            values = {"kd_weight": weight}
            proposal = {"context": context.key, "values": values, "seed": 0, "start_design": True}
            ledger.record(EventKind.PROPOSED, number, **proposal)
            assert measured_grace(spec, ledger.by_context) is None
            ledger.record(EventKind.ENDED, number, outcome=Outcome.FAILED, reason="lost")
    assert measured_grace(spec, ledger.by_context)["groups"] == 0
    assert start_curves(spec, ledger.by_context) == {}


def test_a_search_taken_up_again_goes_on_as_the_undisturbed_one(
    searched, make_spec, journal, plan, rehearsal, tmp_path
):
    def facts(ledger):
        return [
            (t.number, dict(t.values), t.outcome, dict(t.rungs), dict(t.scores))
            for t in ledger.trials.values()
        ]

    small = {"budget": {"trials_per_context": 6}, "seeds": {"trials": 1}}
    contexts = {**SIX, "method": ["random", "el2n"]}
    spec, whole = searched(turning(4), contexts=contexts, **small)
    assert whole.grace["groups"] == 12
    parts = spec.model_copy(update={"name": "parts"})
    plan(journal, parts)
    for _ in range(4):
        life = Ledger(journal, parts.name)
        rehearsal(parts, life, tmp_path / "parts", turning(4)).run(trials=20, cut_at=5)
    rehearsal(parts, Ledger(journal, parts.name), tmp_path / "parts", turning(4)).run()
    again = Ledger(journal, parts.name)
    assert again.grace == whole.grace
    assert facts(again) == facts(whole)


def test_what_was_spared_and_what_it_would_have_cost_is_said(searched):
    spec, ledger = searched(turning(6), early_stopping={"grace_epochs": 3})
    said = effect(spec, ledger)
    stopped = [t for t in ledger.trials.values() if t.outcome is Outcome.STOPPED_EARLY]
    assert said.startswith(f"{len(stopped)} of 48 trials stopped early, which spared ")
    # Before epoch 6 the order is the reverse: the best of every starting design is the worst.
    assert "of 12 starting designs run to their end, 12 would have lost their best" in said
    right, ledger = searched(turning(1), name="right", early_stopping={"grace_epochs": 3})
    assert "12 starting designs run to their end, 0 would have lost" in effect(right, ledger)


def test_without_early_stopping_nothing_is_said(searched):
    spec, ledger = searched(turning(1), early_stopping={"name": "none"})
    assert effect(spec, ledger) is None

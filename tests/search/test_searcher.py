import threading
import time
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.search import Searcher

from search.designer import Proposal
from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger
from search.recorder import Recorder
from search.searcher import CurveSearcher, snapshot
from tests.search.conftest import failing
from trainables.config import TrialConfig
from trainables.record import Outcome


@pytest.fixture(params=["tpe", "random"])
def spec(request, make_spec):
    return make_spec(sampler=request.param)


def facts(ledger):
    """All that a search found, trial by trial."""
    return [
        (t.number, t.context, dict(t.values), t.seed, t.start_design, t.outcome, dict(t.scores))
        for t in ledger.trials.values()
    ]


def test_a_search_ends_when_its_budget_is_spent(spec, journal, plan, rehearsal, tmp_path):
    ledger = plan(journal, spec)
    played = rehearsal(spec, ledger, tmp_path)
    played.run()
    assert list(ledger.trials) == list(range(24))
    assert played.searcher.suggest("one-more") == Searcher.FINISHED
    assert not ledger.unfinished()
    outcomes = ledger.outcomes()
    assert outcomes[Outcome.COMPLETE] + outcomes[Outcome.STOPPED_EARLY] == 24
    assert outcomes[Outcome.COMPLETE] >= 12  # the starting design at least
    assert outcomes[Outcome.STOPPED_EARLY] > 0


def test_a_suggestion_holds_a_whole_valid_trial(spec, journal, plan, rehearsal, tmp_path):
    played = rehearsal(spec, plan(journal, spec), tmp_path)
    config = played.searcher.suggest("first")
    trial = TrialConfig.model_validate(config["trial"])
    assert (config["number"], config["rungs"]) == (0, (3,))
    assert (trial.kd_weight, trial.fraction, trial.seed) == (0.0, 0.1, 0)
    assert played.searcher.numbers == {"first": 0}


def test_a_proposal_is_recorded_before_tune_sees_it(spec, journal, plan, rehearsal, tmp_path):
    played = rehearsal(spec, plan(journal, spec), tmp_path)
    for number in range(15):
        config = played.searcher.suggest(str(number))
        newest = list(journal.events(spec.name))[-1]
        assert (newest.kind, newest.trial) == (EventKind.PROPOSED, number)
        assert newest.data["values"]["kd_weight"] == config["trial"]["kd_weight"]


@pytest.mark.parametrize("every", [1, 5])
def test_a_search_interrupted_between_trials_equals_the_undisturbed_one(
    spec, journal, plan, rehearsal, tmp_path, every
):
    whole = plan(journal, spec)
    rehearsal(spec, whole, tmp_path / "whole").run()
    other = spec.model_copy(update={"name": "interrupted"})
    plan(journal, other)
    for _ in range(0, 24, every):
        rehearsal(other, Ledger(journal, other.name), tmp_path / "parts").run(trials=every)
    assert facts(Ledger(journal, other.name)) == facts(whole)


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_search_killed_within_trials_equals_the_undisturbed_one(
    spec, journal, plan, rehearsal, tmp_path, epoch
):
    """Each life of the search dies at that epoch of its fourth trial."""
    whole = plan(journal, spec)
    rehearsal(spec, whole, tmp_path / "whole").run()
    other = spec.model_copy(update={"name": "killed"})
    plan(journal, other)
    for _ in range(7):
        rehearsal(other, Ledger(journal, other.name), tmp_path / "parts").run(4, cut_at=epoch)
    rehearsal(other, Ledger(journal, other.name), tmp_path / "parts").run()
    assert facts(Ledger(journal, other.name)) == facts(whole)


def test_unfinished_trials_are_reissued_first_as_they_were(
    spec, journal, plan, rehearsal, tmp_path
):
    first = rehearsal(spec, plan(journal, spec), tmp_path / "a")
    first.run(trials=13)
    lost = [first.searcher.suggest(str(number)) for number in range(3)]
    again = rehearsal(spec, Ledger(journal, spec.name), tmp_path / "b")
    assert [again.searcher.suggest(f"again-{n}") for n in range(3)] == lost
    assert again.searcher.suggest("new")["number"] == 16


def test_many_at_a_time_get_different_proposals(spec, journal, plan, rehearsal, tmp_path):
    played = rehearsal(spec, plan(journal, spec), tmp_path)
    configs = [played.searcher.suggest(str(number)) for number in range(24)]
    late = [c["trial"] for c in configs[12:]]
    assert [c["number"] for c in configs] == list(range(24))
    assert len({(t["fraction"], t["kd_weight"]) for t in late}) == 12


@pytest.mark.faults
def test_a_trial_that_failed_comes_again_before_anything_new_and_then_no_more(
    make_spec, journal, plan, rehearsal, tmp_path
):
    """Out of memory: once more with more room, then failed alone."""
    spec = make_spec(sampler="random", resources={"cpu": 1, "gpu": 0.25})
    ledger = plan(journal, spec)
    searcher = rehearsal(spec, ledger, tmp_path).searcher
    recorder = Recorder(ledger, {}, again=searcher.again)
    error = RayTaskError("train", "", torch.OutOfMemoryError("CUDA out of memory."))
    first, second = searcher.suggest("a"), searcher.suggest("b")
    recorder.on_trial_error(0, [], failing(first, error, tmp_path))
    again = searcher.suggest("c")
    assert (again["number"], again["trial"]) == (first["number"], first["trial"])
    assert first["resources"] == second["resources"] == {"cpu": 1, "gpu": 0.25}
    assert again["resources"] == {"cpu": 1, "gpu": 1.0}
    recorder.on_trial_error(0, [], failing(again, error, tmp_path))
    assert ledger.trials[0].outcome is Outcome.FAILED
    assert ledger.trials[0].reason == "OutOfMemoryError: CUDA out of memory."
    assert searcher.suggest("d")["number"] == 2
    read = Ledger(journal, spec.name).trials[0]
    assert read.retries == {"gpu_memory": 1}, "whoever resumes the search goes on counting"


@pytest.mark.faults
def test_the_end_waits_for_trials_that_run_since_they_may_come_again(
    make_spec, journal, plan, rehearsal, tmp_path
):
    spec = make_spec(sampler="random")
    ledger = plan(journal, spec)
    played = rehearsal(spec, ledger, tmp_path)
    played.run(trials=23)
    last = played.searcher.suggest("last")
    recorder = Recorder(ledger, {}, again=played.searcher.again)
    assert played.searcher.suggest("more") is None
    recorder.on_trial_error(0, [], failing(last, RayActorError(error_msg="killed"), tmp_path))
    again = played.searcher.suggest("again")
    assert again["number"] == last["number"]
    assert played.searcher.suggest("more") is None
    played.run_one(again)
    assert played.searcher.suggest("more") == Searcher.FINISHED


@pytest.mark.faults
def test_a_trial_that_the_watchdog_ended_is_a_timeout(
    make_spec, journal, plan, rehearsal, tmp_path
):
    ledger = plan(journal, make_spec(sampler="random"))
    searcher = rehearsal(ledger.spec, ledger, tmp_path).searcher
    recorder = Recorder(ledger, {}, again=searcher.again, hung={0: "no report for 60 s"})
    hung = searcher.suggest("a")
    recorder.on_trial_error(0, [], failing(hung, RayActorError(error_msg="killed"), tmp_path))
    ended = ledger.trials[0]
    assert (ended.outcome, ended.reason) == (Outcome.TIMEOUT, "no report for 60 s")
    assert searcher.suggest("b")["number"] == 1


@pytest.fixture
def one_trial(make_spec, journal, plan):
    """A trial under way, the recorder of its search, and Tune's view of it."""
    spec = make_spec()
    ledger = plan(journal, spec)
    context = spec.context_list[0]
    ledger.record(EventKind.PROPOSED, 0, context=context.key, values={}, seed=0, start_design=False)
    recorder = Recorder(ledger, {context.key: 9})
    tune_trial = SimpleNamespace(config={"number": 0})
    recorder.on_trial_start(0, [], tune_trial)
    return ledger, recorder, tune_trial


def reports(*epochs):
    return {"reports": [{"epoch": e, "val_accuracy": e / 10} for e in epochs]}


def test_epochs_that_are_reported_again_are_recorded_once(one_trial, journal):
    ledger, recorder, trial = one_trial
    for epochs in ((1, 2), (1, 2), (2, 3), (4,)):
        recorder.on_trial_result(0, [], trial, reports(*epochs))
    recorded = [
        e.data["epoch"] for e in journal.events(ledger.search) if e.kind is EventKind.REPORTED
    ]
    assert recorded == [1, 2, 3, 4]
    assert ledger.trials[0].scores == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}


def test_the_full_budget_is_complete_even_if_a_rung_would_have_stopped_it(one_trial):
    ledger, recorder, trial = one_trial
    ledger.record(EventKind.RUNG, 0, epoch=9, score=0.1, stop=True)
    recorder.on_trial_result(0, [], trial, reports(*range(1, 10)))
    recorder.on_trial_complete(0, [], trial)
    assert (ledger.trials[0].outcome, ledger.trials[0].reason) == (Outcome.COMPLETE, None)


def test_a_trial_stopped_at_a_rung_says_which(one_trial):
    ledger, recorder, trial = one_trial
    ledger.record(EventKind.RUNG, 0, epoch=3, score=0.1, stop=True)
    recorder.on_trial_result(0, [], trial, reports(1, 2, 3))
    recorder.on_trial_complete(0, [], trial)
    assert ledger.trials[0].outcome is Outcome.STOPPED_EARLY
    assert ledger.trials[0].reason == "at the rung of epoch 3"


def test_an_end_that_nobody_asked_for_is_a_failure(one_trial):
    ledger, recorder, trial = one_trial
    recorder.on_trial_result(0, [], trial, reports(1, 2))
    recorder.on_trial_complete(0, [], trial)
    assert ledger.trials[0].outcome is Outcome.FAILED
    assert "without a reason" in ledger.trials[0].reason


@pytest.mark.parametrize(
    "error",
    [
        ValueError("all is lost\nloss is not finite at epoch 2"),
        RayTaskError("step", "Traceback ...", ValueError("loss is not finite at epoch 2")),
    ],
)
def test_a_trial_that_raised_failed_with_the_cause_in_one_line(one_trial, error, tmp_path):
    ledger, recorder, trial = one_trial
    recorder.on_trial_error(0, [], failing(trial.config, error, tmp_path))
    assert ledger.trials[0].outcome is Outcome.FAILED
    assert ledger.trials[0].reason == "ValueError: loss is not finite at epoch 2"


class Slow:
    """A designer that takes its time, and may fail."""

    def __init__(self, spec, failing=False):
        self.context, self.failing, self.go = spec.context_list[0], failing, threading.Event()

    def propose(self, known):
        self.go.wait(10)
        if self.failing:
            raise ZeroDivisionError("no values left")
        return Proposal(self.context, {"kd_weight": 0.25}, 0)

    def accepted(self, number):
        self.number = number


def test_tune_does_not_wait_for_a_designer_that_thinks(make_spec, journal, plan):
    spec = make_spec()
    ledger, designer = plan(journal, spec), Slow(spec)
    searcher = CurveSearcher(spec, ledger, designer)
    designer.go.set()
    assert searcher.suggest("first")["number"] == 0, "with nothing else to do it does wait"
    ledger.record(EventKind.STARTED, 0)
    designer.go.clear()
    began = time.monotonic()
    assert searcher.suggest("second") is None
    assert time.monotonic() - began < 1.0
    designer.go.set()
    ledger.record(EventKind.ENDED, 0, outcome=Outcome.COMPLETE, reason=None)
    assert searcher.suggest("second")["number"] == designer.number == 1
    searcher.close()


def test_a_designer_that_fails_is_one_clear_error(make_spec, journal, plan):
    spec = make_spec()
    designer = Slow(spec, failing=True)
    designer.go.set()
    searcher = CurveSearcher(spec, plan(journal, spec), designer)
    with pytest.raises(KdcurveError, match=r"'tpe' failed to propose trial 0: ZeroDivisionError"):
        searcher.suggest("first")


def test_a_designer_sees_what_was_known_when_it_was_asked(make_spec, journal, plan):
    spec = make_spec()
    ledger = plan(journal, spec)
    key = spec.context_list[0].key
    for number in range(2):
        ledger.record(
            EventKind.PROPOSED, number, context=key, values={"kd_weight": 0.0}, seed=0,
            start_design=True,
        )  # fmt: skip
    ledger.record(EventKind.ENDED, 0, outcome=Outcome.COMPLETE, reason=None)
    seen = snapshot(ledger.by_context)
    ledger.record(EventKind.REPORTED, 1, epoch=1, metrics={"epoch": 1, spec.objective: 0.5})
    ledger.record(EventKind.ENDED, 1, outcome=Outcome.COMPLETE, reason=None)
    assert [(t.outcome, dict(t.scores)) for t in seen[key]] == [(Outcome.COMPLETE, {}), (None, {})]

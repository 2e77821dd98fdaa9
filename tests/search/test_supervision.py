"""A search that breaks off goes on from its record, so often and no more."""

from types import SimpleNamespace

import pytest
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RuntimeEnvSetupError

from search import supervision
from search.errors import KdcurveError
from search.journal import EventKind
from search.supervision import supervise

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    waited = []
    monkeypatch.setattr(supervision.time, "sleep", waited.append)
    return waited


@pytest.fixture
def ledger(journal, make_spec, plan):
    return plan(journal, make_spec(faults={"restarts": 2}))


def play(ledger, attempts, asked=lambda: False):
    """Supervise attempts that raise what is an exception; what was said and what came of it."""
    said, left = [], iter(attempts)

    def attempt():
        result = next(left)
        if isinstance(result, BaseException):
            raise result
        return result

    return supervise(attempt, ledger, asked, said.append), said, list(left)


def restarts(ledger):
    return [e.kind for e in ledger.journal.events(ledger.search)].count(EventKind.RESUMED)


def test_an_attempt_that_ends_is_not_repeated(ledger):
    assert play(ledger, ["12 trials per context", "never"])[::2] == (
        "12 trials per context",
        ["never"],
    )
    assert restarts(ledger) == 0


def test_what_raises_goes_on_and_says_why(ledger, pauses):
    reason, said, _ = play(ledger, [RuntimeError("a mistake"), None, "the budget"])
    assert reason == "the budget"
    assert said == [
        "the search broke off (RuntimeError: a mistake); going on from its record",
        "the search broke off (Ray Tune ended with 0 trials under way); going on from its record",
    ]
    assert restarts(ledger) == 2
    assert pauses == [1.0, 2.0]


def test_after_too_many_the_last_reason_is_told(ledger):
    with pytest.raises(KdcurveError, match="broke off 3 times, at last with: ValueError: c"):
        play(ledger, [ValueError(each) for each in "abc"])


def test_what_the_user_must_mend_is_not_tried_again(ledger):
    with pytest.raises(KdcurveError, match="the sampler failed"):
        play(ledger, [KdcurveError("the sampler failed"), "never"])
    assert restarts(ledger) == 0


@pytest.mark.parametrize("end", [None, RuntimeError("Ray is gone")])
def test_whoever_asked_for_a_stop_gets_it(ledger, end):
    assert play(ledger, [end, "never"], asked=lambda: True) == (None, [], ["never"])
    assert restarts(ledger) == 0


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("low on memory"), RuntimeEnvSetupError("no wheel")]
)
def test_what_happens_to_a_process_is_one_trial_s_failure(error):
    """Ray's manager of actors would raise, and all trials would end."""
    failed = []
    actor = SimpleNamespace(actor_id=1, _on_error=lambda _, error: failed.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    manager = RayActorManager.__new__(RayActorManager)
    manager._failed_actor_ids = set()
    manager._cleanup_actor = lambda tracked_actor: None

    def fail():
        manager._actor_task_failed(tracked_actor_task=task, exception=error)

    with pytest.raises(RuntimeError, match="unexpected"):
        fail()
    with supervision._one_process_ends_one_trial():
        fail()
    assert [str(each) for each in failed] == [str(error)]
    with pytest.raises(RuntimeError, match="unexpected"):
        fail()

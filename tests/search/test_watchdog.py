"""Who is silent for too long: a multiple of what others took, or what the file says."""

from types import SimpleNamespace

import pytest
import ray

from search.watchdog import FIRST_S, FLOOR_S, LOOK_EVERY_S, PATIENCE, Patience, Watchdog

pytestmark = pytest.mark.faults


def test_silence_is_measured_by_the_slowest_and_by_samples():
    patience = Patience()
    assert patience.allowed_s(1000) == FIRST_S, "nothing is known yet"
    patience.learn(30.0, samples=100)
    patience.learn(100.0, samples=1000)
    assert patience.allowed_s(10_000) == PATIENCE * 0.3 * 10_000
    assert patience.allowed_s(100) == FLOOR_S
    assert Patience(silence_s=5.0).allowed_s(10_000) == 5.0


@pytest.fixture
def killed(monkeypatch):
    ended = []
    monkeypatch.setattr(ray, "kill", ended.append)
    return ended


@pytest.fixture
def watched():
    """A watchdog with a clock that tests set, and two trials that it watches."""
    now = [0.0]
    ledger = SimpleNamespace(
        spec=SimpleNamespace(faults=SimpleNamespace(silence_s=60.0)),
        trials={number: SimpleNamespace(context="c") for number in (0, 1)},
    )
    watchdog = Watchdog(ledger, {"c": 100}, clock=lambda: now[0])
    trials = [
        SimpleNamespace(
            config={"number": number}, temporary_state=SimpleNamespace(ray_actor=f"actor {number}")
        )
        for number in (0, 1)
    ]
    for trial in trials:
        watchdog.on_trial_start(0, [], trial)

    def live(seconds, reporting=(), step=LOOK_EVERY_S):
        end = now[0] + seconds
        while now[0] < end:
            now[0] += step
            for number in reporting:
                watchdog.on_trial_result(0, [], trials[number], {"reports": [{}]})
            watchdog.on_step_end(0, [])

    return SimpleNamespace(dog=watchdog, live=live, trials=trials)


def test_a_silent_trial_is_ended_and_others_are_not(watched, killed):
    watched.live(60, reporting=[1])
    assert killed == []
    watched.live(2, reporting=[1])
    assert killed == ["actor 0"]
    assert watched.dog.hung == {0: "no report for 60 s"}
    watched.dog.on_trial_error(0, [], watched.trials[0])
    watched.live(100, reporting=[1])
    assert killed == ["actor 0"], "once"


def test_trials_that_ended_are_not_watched(watched, killed):
    watched.dog.on_trial_complete(0, [], watched.trials[0])
    watched.dog.on_trial_error(0, [], watched.trials[1])
    watched.live(100)
    assert killed == []


def test_when_the_loop_itself_stood_still_no_trial_is_blamed(watched, killed):
    watched.live(3600, step=3600)
    assert killed == []
    watched.live(60)
    assert sorted(killed) == ["actor 0", "actor 1"]

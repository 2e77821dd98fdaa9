import contextlib
import itertools
import json
import socket
import time
from types import SimpleNamespace

import mlflow.exceptions
import pytest
import tenacity
from mlflow.tracking import MlflowClient

from search import tracking
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.places import Places
from search.tracking import Delivery
from trainables import record
from trainables.record import Kind, Outcome, SearchState

STATUS = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.STOPPED_EARLY: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.TIMEOUT: "FAILED",
}
names = (f"delivered-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def client(places) -> MlflowClient:
    return MlflowClient(places.tracking_uri)


@pytest.fixture
def search(make_spec, plan, places, tmp_path):
    """A search with one trial of every outcome, recorded and not delivered yet."""
    spec = make_spec(name=next(names))
    ledger = plan(Journal(f"sqlite:///{tmp_path / 'record.db'}"), spec)
    for number, outcome in enumerate(Outcome):
        add_trial(ledger, number, outcome, epochs=number)
    return SimpleNamespace(spec=spec, ledger=ledger, journal=ledger.journal)


@pytest.fixture
def small_search(make_spec, plan, journal):
    """One trial that completed and one that failed, and the search's end."""
    spec = make_spec(name=next(names))
    small = SimpleNamespace(spec=spec, ledger=plan(journal, spec), journal=journal)
    add_trial(small.ledger, 0, Outcome.COMPLETE, epochs=2)
    add_trial(small.ledger, 1, Outcome.FAILED, epochs=1)
    close(small)
    return small


def copy_of(search, spec):
    """The same record under another name."""
    events = [(e.kind, e.trial, e.data) for e in search.journal.events(search.spec.name)]
    search.journal.append(spec.name, events)
    return SimpleNamespace(
        spec=spec, journal=search.journal, ledger=Ledger(search.journal, spec.name)
    )


def add_trial(ledger, number, outcome, epochs):
    context = ledger.spec.context_list[number % 2]
    ledger.record(
        EventKind.PROPOSED,
        number,
        context=context.key,
        values={"kd_weight": number / 10},
        seed=number % 2,
        start_design=number == 0,
    )
    ledger.record(EventKind.STARTED, number)
    add_epochs(ledger, number, 1, epochs)
    if outcome is not None:
        reason = None if outcome is Outcome.COMPLETE else f"reason {number}"
        ledger.record(EventKind.ENDED, number, outcome=outcome, reason=reason)


def add_epochs(ledger, number, first, last):
    for epoch in range(first, last + 1):
        metrics = {"epoch": epoch, "val_accuracy": epoch / 100, "seconds": 2.0 * epoch}
        ledger.record(EventKind.REPORTED, number, epoch=epoch, metrics=metrics)


def close(search, state=SearchState.COMPLETE):
    search.ledger.record(EventKind.CLOSED, state=state)


def new_delivery(search, places):
    return Delivery(search.journal, search.spec, places)


def deliver(search, places):
    """Deliver with an object that knows nothing of earlier deliveries."""
    delivery = new_delivery(search, places)
    delivery.check()
    delivery.start()
    assert delivery.finish()
    return delivery


def stored(client, name):
    """The parent run, and trials by number; fails if one is there twice."""
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if r.data.tags[record.TAG_KIND] == Kind.SEARCH]
    trials = [r for r in runs if r.data.tags[record.TAG_KIND] == Kind.TRIAL]
    numbers = [int(r.data.tags[record.TAG_TRIAL]) for r in trials]
    assert len(set(numbers)) == len(numbers)
    return parent, dict(zip(numbers, trials, strict=True))


def points(client, run, metric="val_accuracy"):
    return [
        (m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, metric)
    ]


def recorded_points(search, number):
    return [
        (e.data["epoch"], e.data["metrics"]["val_accuracy"], round(1000 * e.time))
        for e in search.journal.events(search.spec.name)
        if e.kind is EventKind.REPORTED and e.trial == number
    ]


def snapshot(client, search):
    """All that MLflow holds of a search, to compare before and after."""
    parent, trials = stored(client, search.spec.name)
    return [
        (
            r.info.run_id,
            r.info.status,
            r.info.start_time,
            r.info.end_time,
            sorted(r.data.params.items()),
            sorted(r.data.tags.items()),
            [points(client, r, metric) for metric in ("val_accuracy", "epoch", "seconds")],
        )
        for r in [parent, *(trials[n] for n in sorted(trials))]
    ]


def assert_whole(client, search):
    """Everything recorded is in MLflow, once."""
    parent, trials = stored(client, search.spec.name)
    assert sorted(trials) == sorted(Ledger(search.journal, search.spec.name).trials)
    for number, run in trials.items():
        state = search.ledger.trials[number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags.get(record.TAG_OUTCOME) == state.outcome
        assert run.info.status == (STATUS[state.outcome] if state.outcome else "RUNNING")
        assert points(client, run) == recorded_points(search, number)
        assert set(run.data.params) == set(record.TRIAL_PARAMS)
    assert parent.data.params["dataset"] == "digits"
    files = [each.path for each in client.list_artifacts(parent.info.run_id)]
    assert files == ["search.json"]


def test_everything_recorded_arrives_under_its_name(search, places, client, tmp_path):
    close(search)
    delivery = deliver(search, places)
    parent, trials = stored(client, search.spec.name)
    assert_whole(client, search)
    assert parent.info.run_id == delivery.parent_run_id
    assert parent.info.status == "FINISHED"
    assert parent.data.tags[record.TAG_STATE] == SearchState.COMPLETE
    assert parent.data.tags[record.TAG_OBJECTIVE] == record.VAL_ACCURACY
    assert parent.data.tags[record.TAG_TUNED] == "kd_weight"
    assert parent.data.tags["mlflow.source.git.commit"] == "abc1234"
    assert parent.data.tags["kdcurve.hardware.cpus"] == "2"
    experiment = client.get_experiment_by_name(search.spec.name)
    assert experiment.tags[record.TAG_SEARCH] == search.spec.name
    assert experiment.tags[record.TAG_SCHEMA] == str(record.SCHEMA_VERSION)
    file = client.download_artifacts(parent.info.run_id, "search.json", str(tmp_path))
    with open(file, encoding="utf-8") as opened:  # noqa: PTH123  (MLflow gives a string)
        assert json.load(opened)["name"] == search.spec.name

    trial = trials[3]
    context = search.spec.context_list[1]
    assert {k: kind(trial.data.params[k]) for k, kind in record.TRIAL_PARAMS.items()} == {
        "dataset": "digits",
        "label_noise": 0.0,
        "student": "cnn8",
        "method": "random",
        "fraction": 0.9,
        "teacher": "cnn4",
        "teacher_fraction": 1.0,
        "kd_weight": 0.3,
        "temperature": 4.0,
        "seed": 1,
        "teacher_seed": 0,
        "budget_epochs": 9,
        "kept_samples": 1164,
    }
    assert trial.data.tags[record.TAG_CONTEXT] == context.key
    assert trial.data.tags[record.TAG_CONTEXT_LABEL] == context.label
    assert [record.TAG_START_DESIGN in trials[n].data.tags for n in range(4)] == [True] + [
        False
    ] * 3


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_has_its_status_and_reason(search, places, client, outcome):
    deliver(search, places)
    number = list(Outcome).index(outcome)
    run = stored(client, search.spec.name)[1][number]
    assert run.info.status == STATUS[outcome]
    assert run.data.tags[record.TAG_OUTCOME] == outcome
    reason = None if outcome is Outcome.COMPLETE else f"reason {number}"
    assert run.data.tags.get(record.TAG_REASON) == reason
    times = {
        e.kind: round(1000 * e.time)
        for e in search.journal.events(search.spec.name)
        if e.trial == number
    }
    assert run.info.start_time == times[EventKind.STARTED]
    assert run.info.end_time == times[EventKind.ENDED]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (SearchState.COMPLETE, "FINISHED"),
        (SearchState.INTERRUPTED, "KILLED"),
        (SearchState.FAILED, "FAILED"),
    ],
)
def test_a_searchs_end_has_its_status(search, places, client, state, status):
    close(search, state)
    deliver(search, places)
    parent, _ = stored(client, search.spec.name)
    assert (parent.data.tags[record.TAG_STATE], parent.info.status) == (state, status)


def test_delivering_the_same_record_again_changes_nothing(search, places, client):
    add_trial(search.ledger, 4, None, epochs=3)
    close(search)
    deliver(search, places)
    before = snapshot(client, search)
    for _ in range(2):
        deliver(search, places)
    assert snapshot(client, search) == before
    assert_whole(client, search)


def test_a_search_is_followed_while_it_runs(search, places, client, monkeypatch):
    monkeypatch.setattr(tracking, "POLL_S", 0.01)
    add_trial(search.ledger, 4, None, epochs=1)
    delivery = new_delivery(search, places)
    delivery.start()

    def seen():
        with contextlib.suppress(AttributeError, KeyError, ValueError):
            return len(points(client, stored(client, search.spec.name)[1][4]))
        return 0

    for epoch in (1, 2, 3):
        deadline = time.monotonic() + 20
        while seen() < epoch and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seen() == epoch
        assert stored(client, search.spec.name)[0].info.status == "RUNNING"
        add_epochs(search.ledger, 4, epoch + 1, epoch + 1)
    search.ledger.record(EventKind.ENDED, 4, outcome=Outcome.COMPLETE, reason=None)
    close(search)
    assert delivery.finish()
    assert_whole(client, search)


def test_a_proposed_trial_that_never_started_has_no_run_yet(search, places, client):
    context = search.spec.context_list[0].key
    proposal = {"context": context, "values": {"kd_weight": 1.0}, "seed": 0}
    search.ledger.record(EventKind.PROPOSED, 4, **proposal, start_design=False)
    deliver(search, places)
    assert sorted(stored(client, search.spec.name)[1]) == [0, 1, 2, 3]


def test_a_resumed_search_goes_on_in_the_runs_it_had(search, places, client):
    add_trial(search.ledger, 4, None, epochs=2)
    close(search, SearchState.INTERRUPTED)
    first = deliver(search, places)
    run_id = stored(client, search.spec.name)[1][4].info.run_id

    search.ledger.record(EventKind.RESUMED)
    second = new_delivery(search, places)
    second.check()
    second._deliver()
    parent, _ = stored(client, search.spec.name)
    assert (parent.info.status, parent.data.tags[record.TAG_STATE]) == ("RUNNING", "running")
    search.ledger.record(EventKind.STARTED, 4)
    add_epochs(search.ledger, 4, 1, 4)
    search.ledger.record(EventKind.ENDED, 4, outcome=Outcome.COMPLETE, reason=None)
    close(search)
    second.start()
    assert second.finish()
    assert second.parent_run_id == first.parent_run_id
    parent, trials = stored(client, search.spec.name)
    assert parent.info.status == "FINISHED"
    assert trials[4].info.run_id == run_id
    assert_whole(client, search)


def test_many_points_are_sent_in_batches_that_mlflow_takes(search, places, client, monkeypatch):
    monkeypatch.setattr(tracking, "METRICS_PER_REQUEST", 7)
    add_trial(search.ledger, 4, Outcome.COMPLETE, epochs=9)
    deliver(search, places)
    assert_whole(client, search)


class Flaky:
    """A client whose n-th request fails, either on the way there or on the way back."""

    def __init__(self, client, failing, lost_answer):
        self._client, self._failing, self._lost_answer = client, failing, lost_answer
        self.requests = 0

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def request(*args, **kwargs):
            self.requests += 1
            fails = self.requests in self._failing
            if fails and not self._lost_answer:
                raise mlflow.exceptions.MlflowException("the network is down")
            answer = method(*args, **kwargs)
            if fails:
                raise mlflow.exceptions.MlflowException("the answer was lost")
            return answer

        return request


def deliver_through(flaky, search, places):
    """Deliver until it works, in one life of the delivery."""
    delivery = new_delivery(search, places)
    delivery._client = flaky
    for _ in range(100):
        try:
            delivery._deliver()
        except mlflow.exceptions.MlflowException:
            continue
        return
    raise AssertionError("never delivered")


@pytest.fixture
def requests_in_all(small_search, places, make_spec):
    """How many requests a delivery without failures makes."""
    flaky = Flaky(MlflowClient(places.tracking_uri), (), False)
    deliver_through(flaky, copy_of(small_search, make_spec(name=next(names))), places)
    return flaky.requests


@pytest.mark.parametrize("lost_answer", [False, True], ids=["request lost", "answer lost"])
def test_whichever_request_fails_each_fact_arrives_once(
    small_search, places, client, make_spec, requests_in_all, lost_answer
):
    assert requests_in_all >= 15
    for failing in range(1, requests_in_all + 1):
        each = copy_of(small_search, make_spec(name=next(names)))
        deliver_through(Flaky(client, {failing}, lost_answer), each, places)
        assert_whole(client, each)
        assert stored(client, each.spec.name)[0].info.status == "FINISHED"


@pytest.mark.parametrize("lost_answer", [False, True], ids=["request lost", "answer lost"])
def test_every_third_request_may_fail(search, places, client, lost_answer):
    add_trial(search.ledger, 4, Outcome.COMPLETE, epochs=9)
    close(search)
    # Not of a period that would make one request fail for ever.
    failing = {n for n in range(1, 500) if n % 3 == 0 and n < 40}
    deliver_through(Flaky(client, failing, lost_answer), search, places)
    assert_whole(client, search)


def test_a_delivery_killed_after_any_request_is_made_whole_by_the_next(
    small_search, places, client, make_spec, requests_in_all
):
    """The second delivery is another process: it knows what MLflow and the record hold."""
    for last in range(1, requests_in_all + 1):
        each = copy_of(small_search, make_spec(name=next(names)))
        killed = new_delivery(each, places)
        killed._client = Flaky(client, {last}, True)
        with pytest.raises(mlflow.exceptions.MlflowException):
            killed._deliver()
        new_delivery(each, places)._deliver()
        assert_whole(client, each)
        assert stored(client, each.spec.name)[0].info.status == "FINISHED"


def test_the_thread_tries_again_even_at_the_very_end(search, places, client, monkeypatch):
    monkeypatch.setattr(
        tracking.tenacity, "wait_random_exponential", lambda max: tenacity.wait_none()
    )
    close(search)
    delivery = new_delivery(search, places)
    delivery._client = Flaky(client, {2, 5, 8}, True)
    delivery._finishing.set()
    delivery.start()
    assert delivery.finish()
    assert_whole(client, search)


def test_an_mlflow_that_stays_away_ends_the_delivery_and_is_told(search, places, monkeypatch):
    monkeypatch.setattr(
        tracking.tenacity, "wait_random_exponential", lambda max: tenacity.wait_none()
    )
    delivery = new_delivery(search, places)
    delivery._client = Flaky(None, (), False)  # has no methods at all
    delivery.start()
    assert not delivery.finish(timeout_s=20)
    assert isinstance(delivery.failure, AttributeError)


def test_a_foreign_experiment_of_the_same_name_is_refused_and_left_alone(search, places, client):
    client.create_experiment(search.spec.name)
    with pytest.raises(KdcurveError, match="kdcurve did not write; choose another name"):
        new_delivery(search, places).check()
    experiment = client.get_experiment_by_name(search.spec.name)
    assert client.search_runs([experiment.experiment_id]) == []


def test_a_deleted_experiment_of_the_same_name_is_refused(search, places, client):
    deliver(search, places)
    experiment = client.get_experiment_by_name(search.spec.name)
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(KdcurveError, match="is deleted; restore it, or choose another name"):
        new_delivery(search, places).check()


def test_a_search_of_another_record_is_not_taken_for_ours(search, places, tmp_path):
    """Two people, one tracking server, the same name: the second is told before it starts."""
    deliver(search, places)
    empty = Journal(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(KdcurveError, match="of another record; choose another name"):
        Delivery(empty, search.spec, places).check()


@pytest.fixture
def dead_port():
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_down_is_told_within_seconds(search, tmp_path, dead_port, scheme):
    uri = f"{scheme}://someone:hunter2@127.0.0.1:{dead_port}"
    began = time.monotonic()
    with pytest.raises(KdcurveError, match="does not answer") as refused:
        new_delivery(search, Places.at(tmp_path, tracking_uri=uri)).check()
    assert time.monotonic() - began < 5
    assert f"127.0.0.1:{dead_port}" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["nosuchscheme://user:hunter2@x", "not a uri", "sqlite:////proc/no/such/mlflow.db"]
)
def test_a_tracking_uri_that_cannot_be_used_is_one_line(search, tmp_path, uri):
    with pytest.raises(KdcurveError, match="the tracking URI") as refused:
        new_delivery(search, Places.at(tmp_path, tracking_uri=uri)).check()
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)

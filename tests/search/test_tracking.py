import contextlib
import itertools
import logging
import socket
import threading
import time
from dataclasses import replace

import mlflow.exceptions
import pytest
import requests
import sqlalchemy as sa
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from search import tracking
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.mirror import Mirror, RefusedError, RefusedRunError
from search.places import Places
from search.tracking import Delivery, is_refusal
from tests.delivered import add_epochs, add_trial, assert_whole, end, points, stored
from trainables.record import Outcome, SearchState

names = (f"delivered-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def client(places) -> MlflowClient:
    return MlflowClient(places.tracking_uri)


@pytest.fixture
def search(make_spec, plan, journal):
    """A search with one trial of every outcome, recorded and not delivered yet."""
    found = plan(journal, make_spec(name=next(names)))
    for number, outcome in enumerate(Outcome):
        add_trial(found, number, outcome, epochs=number)
    return found


def close(ledger, state=SearchState.COMPLETE):
    ledger.record(EventKind.CLOSED, state=state)


@pytest.fixture
def said():
    """What the user was told."""
    return []


@pytest.fixture
def new_delivery(search, places, said):
    """A delivery of the search; whatever a test leaves running is stopped."""
    made = []

    def new(where=places):
        made.append(Delivery(search.journal, search.spec, where, said.append))
        return made[-1]

    yield new
    for delivery in made:
        if delivery.ident is not None:
            delivery.finish(0)
            delivery.join(30)
            assert not delivery.is_alive()


@pytest.fixture
def quick(monkeypatch):
    """Looks at the record and tries again without long waits."""
    monkeypatch.setattr(tracking, "POLL_S", 0.01)
    monkeypatch.setattr(tracking, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(tracking, "LONGEST_LAST_WAIT_S", 0.05)


@pytest.fixture
def broken(monkeypatch):
    """Makes every request of a delivery raise what it is set to."""

    class Broken:
        error: BaseException | None = None
        requests = 0

        def __init__(self, uri):
            self._client = MlflowClient(uri)

        def __getattr__(self, name):
            Broken.requests += 1
            if Broken.error is not None:
                raise Broken.error
            return getattr(self._client, name)

    monkeypatch.setattr(tracking, "MlflowClient", Broken)
    return Broken


def eventually(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


AWAY = mlflow.exceptions.MlflowException("connection refused")
FORBIDDEN = mlflow.exceptions.MlflowException("not for you", PERMISSION_DENIED)


@pytest.mark.usefixtures("quick")
def test_a_search_is_followed_while_it_runs(search, client, new_delivery):
    add_trial(search, 4, None, epochs=1)
    delivery = new_delivery()
    delivery.start()

    def seen():
        with contextlib.suppress(AttributeError, KeyError):
            return len(points(client, stored(client, search.search)["4"]))
        return 0

    for epoch in (1, 2, 3):
        eventually(lambda epoch=epoch: seen() == epoch)
        assert stored(client, search.search)["search"].info.status == "RUNNING"
        add_epochs(search, 4, epoch + 1, epoch + 1)
    end(search, 4, Outcome.COMPLETE)
    close(search)
    assert delivery.finish(60)
    assert delivery.delivered == 5
    assert_whole(client, search.journal, search.search)


@pytest.mark.usefixtures("quick")
def test_what_fails_is_tried_again_and_the_user_told_once_of_each_turn(
    search, client, new_delivery, broken, said, caplog
):
    delivery = new_delivery()
    delivery.start()
    eventually(lambda: delivery.delivered == 4)
    assert said == []
    broken.error = AWAY
    add_trial(search, 4, Outcome.COMPLETE, epochs=1)
    before = broken.requests
    eventually(lambda: broken.requests > before + 5)
    assert delivery.failure == "connection refused"
    broken.error = FORBIDDEN
    eventually(lambda: len(said) == 2)
    broken.error = None
    close(search)
    assert delivery.finish(60)
    assert delivery.failure is None
    assert_whole(client, search.journal, search.search)
    for line, expected in zip(
        said,
        [
            r"does not take the record now (connection refused); the search goes on",
            r"refuses the record (not for you); the search goes on",
            r"takes the record again",
        ],
        strict=True,
    ):
        assert line.startswith("MLflow at sqlite:")
        assert line.endswith(expected)


@pytest.mark.usefixtures("quick")
def test_it_is_tried_again_even_at_the_very_end(search, client, new_delivery, broken):
    close(search)
    broken.error = AWAY
    delivery = new_delivery()
    delivery.start()
    threading.Timer(0.5, lambda: setattr(broken, "error", None)).start()
    assert delivery.finish(60)
    assert_whole(client, search.journal, search.search)


@pytest.mark.usefixtures("quick")
def test_the_end_waits_with_notices_for_as_long_as_it_says(
    search, new_delivery, broken, monkeypatch
):
    monkeypatch.setattr(tracking, "NOTICE_EVERY_S", 0.2)
    broken.error = AWAY
    delivery = new_delivery()
    delivery.start()
    notices = []
    began = time.monotonic()
    assert not delivery.finish(1.0, lambda: notices.append(time.monotonic() - began))
    assert 1.0 <= time.monotonic() - began < 3.0
    assert 2 <= len(notices) <= 5
    assert notices[0] >= 0.2
    delivery.join(10)
    assert not delivery.is_alive()
    assert delivery.failure == "connection refused"


@pytest.mark.usefixtures("quick")
def test_the_end_does_not_wait_for_a_request_that_hangs(search, new_delivery, monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr(tracking, "MlflowClient", lambda _: hanging.wait(30))
    delivery = new_delivery()
    delivery.start()
    began = time.monotonic()
    assert not delivery.finish(0.5)
    assert time.monotonic() - began < 3
    hanging.set()


@pytest.mark.usefixtures("quick")
def test_after_its_time_nothing_more_is_sent(search, client, new_delivery, monkeypatch):
    """Whoever delivers next must be the only one."""
    sent = []

    def send(self, identity, run, caught_up):
        sent.append(identity)
        time.sleep(0.3)

    monkeypatch.setattr(Mirror, "_send", send)
    delivery = new_delivery()
    delivery.start()
    eventually(lambda: sent)
    assert not delivery.finish(0)
    delivery.join(10)
    assert not delivery.is_alive()
    assert len(sent) < len(Outcome)
    assert delivery.failure == "its time was over"


@pytest.mark.usefixtures("quick")
def test_the_end_does_not_wait_where_waiting_is_no_use(search, new_delivery, broken, said):
    broken.error = FORBIDDEN
    delivery = new_delivery()
    delivery.start()
    eventually(lambda: said)
    tries = broken.requests
    time.sleep(0.3)
    assert broken.requests == tries  # the next try is minutes away
    began = time.monotonic()
    assert not delivery.finish(60)
    assert time.monotonic() - began < 2
    assert broken.requests > tries  # but the end tries once more
    assert delivery.failure == "not for you"


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_refused_is_named_at_the_end_and_no_failure(
    search, client, new_delivery, said
):
    add_trial(search, 4, None, epochs=1)
    delivery = new_delivery()
    delivery.start()
    eventually(lambda: delivery.delivered == 4 and "4" in stored(client, search.search))
    client.delete_run(stored(client, search.search)["4"].info.run_id)
    end(search, 4, Outcome.COMPLETE)
    add_trial(search, 5, Outcome.COMPLETE, epochs=1)
    close(search)
    assert not delivery.finish(60)
    assert delivery.failure is None
    assert list(delivery.refused) == ["trial-4"]
    assert stored(client, search.search)["5"].info.status == "FINISHED"
    assert said == []


@pytest.mark.usefixtures("quick")
def test_a_record_that_is_away_is_waited_for_and_not_said_to_be_mlflow(
    search, client, new_delivery, said, monkeypatch, caplog
):
    delivery = new_delivery()
    delivery.start()
    eventually(lambda: delivery.delivered == 4)
    read = Journal.events

    def away(*_):
        raise sa.exc.OperationalError("SELECT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(Journal, "events", away)
    with caplog.at_level(logging.WARNING):
        eventually(lambda: "the record does not answer: server closed" in caplog.text)
    monkeypatch.setattr(Journal, "events", read)
    add_trial(search, 4, Outcome.COMPLETE, epochs=1)
    assert delivery.finish(60)
    assert said == []
    assert_whole(client, search.journal, search.search)


@pytest.mark.usefixtures("quick")
def test_of_a_record_of_any_length_no_more_is_taken_in_than_one_share(
    search, client, new_delivery, broken, monkeypatch
):
    monkeypatch.setattr(tracking, "EVENTS_PER_ROUND", 50)
    metrics = {"epoch": 1, "val_accuracy": 0.5}
    add_trial(search, 4, None, epochs=0)
    reports = [(EventKind.REPORTED, 4, {"epoch": n, "metrics": metrics}) for n in range(2000)]
    search.journal.append(search.search, reports)
    broken.error = AWAY
    delivery = new_delivery()
    delivery.start()
    before = broken.requests
    eventually(lambda: broken.requests > before + 20)
    assert delivery._cursor == 50
    broken.error = None
    most = 0

    def caught_up():
        nonlocal most
        held = [len(run.metrics) for run in list(delivery._mirror._runs.values())]
        most = max(most, sum(held))
        return delivery._cursor == search.journal.last_number(search.search)

    eventually(caught_up)
    assert 0 < most <= 2 * 50
    assert delivery.finish(60)
    history = client.get_metric_history(stored(client, search.search)["4"].info.run_id, "epoch")
    assert len(history) == 2000


def test_delivered_in_shares_of_any_size_it_is_the_same(search, client, places, monkeypatch):
    add_trial(search, 4, None, epochs=3)
    close(search, SearchState.INTERRUPTED)
    for size in (1, 3):
        monkeypatch.setattr(tracking, "EVENTS_PER_ROUND", size)
        each = copy_of(search, next(names))
        delivery = Delivery(each.journal, each.spec, places)
        delivery.start()
        assert delivery.finish(60)
        assert_whole(client, each.journal, each.search)


def copy_of(ledger, name):
    """The same record under another name."""
    entries = [(e.kind, e.trial, e.data) for e in ledger.journal.events(ledger.search)]
    spec = ledger.spec.model_copy(update={"name": name})
    entries[0][2]["spec"] = spec.model_dump(mode="json", exclude_none=True)
    ledger.journal.append(name, entries)
    return Ledger(ledger.journal, name)


def test_a_foreign_experiment_of_the_same_name_is_refused_and_left_alone(
    search, client, new_delivery
):
    client.create_experiment(search.search)
    for new in (False, True):
        with pytest.raises(KdcurveError, match="kdcurve did not write; choose another name"):
            new_delivery().check(new=new)
    experiment = client.get_experiment_by_name(search.search)
    assert client.search_runs([experiment.experiment_id]) == []


@pytest.mark.usefixtures("quick")
def test_a_foreign_experiment_found_only_later_is_told_and_not_waited_for(
    search, client, new_delivery, said
):
    client.create_experiment(search.search)
    delivery = new_delivery()
    delivery.start()
    began = time.monotonic()
    assert not delivery.finish(60)
    assert time.monotonic() - began < 10
    assert "that kdcurve did not write" in delivery.failure


def test_a_deleted_experiment_of_the_same_name_is_refused(search, client, new_delivery):
    delivery = new_delivery()
    delivery.start()
    assert delivery.finish(60)
    assert new_delivery().check() is None
    experiment = client.get_experiment_by_name(search.search)
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(KdcurveError, match="is deleted; restore it, or choose another name"):
        new_delivery().check()


def test_a_search_of_another_record_is_not_taken_for_ours(
    search, places, plan, tmp_path, new_delivery
):
    """Two people, one tracking server, the same name: the second is told before it starts."""
    delivery = new_delivery()
    delivery.start()
    assert delivery.finish(60)
    theirs = Journal(f"sqlite:///{tmp_path / 'theirs.db'}")
    with pytest.raises(KdcurveError, match="of another record; choose another name"):
        Delivery(theirs, search.spec, places).check(new=True)
    plan(theirs, search.spec)
    with pytest.raises(KdcurveError, match="of another record; choose another name"):
        Delivery(theirs, search.spec, places).check()


@pytest.fixture
def dead_port():
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql"])
def test_a_server_that_is_down_is_told_within_seconds_and_the_search_may_start(
    search, new_delivery, places, dead_port, scheme
):
    uri = f"{scheme}://someone:hunter2@127.0.0.1:{dead_port}"
    began = time.monotonic()
    notice = new_delivery(replace(places, tracking_uri=uri)).check(new=True)
    assert time.monotonic() - began < 5
    assert notice == (
        f"MLflow at {scheme}://someone:***@127.0.0.1:{dead_port} does not answer "
        "([Errno 111] Connection refused); the search goes on, and delivers its record when it does"
    )


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://someone:hunter2@no-such-host.invalid:5000", "not known"),
        ("postgresql://someone:hunter2@no-such-host.invalid/mlflow", "not known"),
        ("nosuchscheme://user:hunter2@x", "unsupported URI"),
        ("not a uri", "filesystem tracking backend"),
        ("sqlite:////proc/no/such/mlflow.db", "No such file"),
        ("sqlite:////proc", "unable to open"),
        ("http://someone:hunter2/@127.0.0.1:5000", "its port is not a number"),
        ("postgresql://someone:hunter2@127.0.0.1:port/db", "not a number"),
        ("postgresql+nosuchdriver://someone:hunter2/@127.0.0.1/db", "nosuchdriver"),
        ("mysql+pymysql://someone:hunter2/@127.0.0.1/db", "No module named 'pymysql'"),
    ],
)
def test_a_tracking_uri_that_cannot_be_used_is_refused_in_one_line(
    search, new_delivery, places, uri, says
):
    began = time.monotonic()
    with pytest.raises(KdcurveError, match="cannot be used") as refused:
        new_delivery(replace(places, tracking_uri=uri)).check()
    assert time.monotonic() - began < 10
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_server_that_is_away_is_no_unknown_host(search, new_delivery, places, monkeypatch):
    def away(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", away)
    elsewhere = replace(places, tracking_uri="http://mlflow.example:5000")
    assert "Temporary failure" in new_delivery(elsewhere).check()


def http_error(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("upload failed", response=response)


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (AWAY, False),
        (FORBIDDEN, True),
        (mlflow.exceptions.RestException({"error_code": "UNAUTHENTICATED", "message": ""}), True),
        (mlflow.exceptions.RestException({"error_code": "REQUEST_LIMIT_EXCEEDED"}), False),
        (mlflow.exceptions.RestException({"error_code": "TEMPORARILY_UNAVAILABLE"}), False),
        (http_error(403), True),
        (http_error(413), True),
        (http_error(429), False),
        (http_error(503), False),
        (PermissionError("no"), True),
        (OSError("no space left"), False),
        (RefusedError("another's"), True),
        (RefusedRunError("one of many"), False),
        (AnalysisError("does not answer"), False),
        (KeyError("a bug"), False),
    ],
    ids=str,
)
def test_refusals_are_told_from_what_waiting_may_cure(error, refusal):
    assert is_refusal(error) == refusal


def test_a_failure_is_told_by_its_cause(dead_port, monkeypatch):
    """The request's own words are long, and name an address that was shown already."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(mlflow.exceptions.MlflowException) as failed:
        MlflowClient(f"http://127.0.0.1:{dead_port}").get_experiment_by_name("x")
    assert "/api/2.0/" in str(failed.value)
    told = tracking._cause(failed.value)
    assert told == "Failed to establish a new connection: [Errno 111] Connection refused"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Max retries exceeded with url: /api (Caused by "
            "ResponseError('too many 503 error responses'))",
            "too many 503 error responses",
        ),
        (
            "Max retries exceeded with url: /api (Caused by ProtocolError('Connection aborted.', "
            "ConnectionResetError(104, 'Connection reset by peer')))",
            "Connection aborted.', ConnectionResetError(104, 'Connection reset by peer')",
        ),
        ("one line\nand another", "one line"),
        ("", "ValueError"),
    ],
)
def test_a_cause_is_one_line(text, told):
    assert tracking._cause(ValueError(text)) == told


def test_places_of_their_own_need_no_check(tmp_path, make_spec, plan):
    """MLflow's folder is made by the delivery itself, if nobody looked before."""
    places = Places.at(tmp_path / "home")
    places.make()
    ledger = plan(Journal(places.record), make_spec(name=next(names)))
    close(ledger)
    delivery = Delivery(ledger.journal, ledger.spec, places)
    delivery.start()
    assert delivery.finish(60)
    assert_whole(MlflowClient(places.tracking_uri), ledger.journal, ledger.search)

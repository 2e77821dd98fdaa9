"""Searches recorded and delivered to real servers, which stop, start and misbehave meanwhile."""

import itertools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from analysis.runs import load_runs
from analysis.secrets import RedactingFormatter
from search import tracking
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.places import Places
from search.publish import publish
from search.specfile import parse_spec
from search.tracking import Delivery
from search.writer import Writer, writing
from tests.delivered import assert_whole, stored
from tests.search.conftest import RAW, Rehearsal, failing
from tests.servers import MlflowServer, Stub, answering, hanging, mlflow_server
from trainables.record import SearchState

pytestmark = pytest.mark.faults

names = (f"search-{number}" for number in itertools.count())
WRITE_S = 0.05
"""What a call of the recorder may take at most, in the middle: Tune's event loop waits for it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[MlflowServer]:
    """An MLflow server that is started by the first test that asks for it to run."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def running(server) -> MlflowServer:
    if not server.is_running:
        server.start()
    return server


@pytest.fixture
def stub(running) -> Iterator[Stub]:
    stub = Stub(running)
    yield stub
    stub.close()


@pytest.fixture
def quick(monkeypatch):
    """Looks at the record and tries again without long waits."""
    monkeypatch.setattr(tracking, "POLL_S", 0.05)
    monkeypatch.setattr(tracking, "LONGEST_WAIT_S", 0.5)
    monkeypatch.setattr(tracking, "LONGEST_LAST_WAIT_S", 0.5)


@dataclass
class Search:
    """A search under way: rehearsed, written and delivered as `search.launch` does it."""

    ledger: Ledger
    writer: Writer
    delivery: Delivery
    rehearsed: Rehearsal
    places: Places
    said: list[str]
    calls_s: list[float]
    """How long each event took Tune's loop."""

    @property
    def name(self) -> str:
        return self.ledger.search

    def go_on(self, until: Callable[[], object]) -> None:
        """Run three to six trials, and wait until something is so."""
        deadline = time.monotonic() + 120
        for done in itertools.count():
            if done >= 3 and until():
                return
            if done < 6:
                self.rehearsed.run(trials=1)
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def close(self, timeout_s: float = 60.0) -> bool:
        """End it; returns whether all was delivered."""
        self.ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
        self.writer.flush()
        return self.delivery.finish(timeout_s)

    def assert_whole(self, server: MlflowServer | None = None) -> None:
        uri = server.backend if server else self.places.tracking_uri
        assert_whole(MlflowClient(uri), self.ledger.journal, self.name)

    def assert_undisturbed(self) -> None:
        assert statistics.median(self.calls_s) < WRITE_S


@pytest.fixture
def begin(tmp_path, monkeypatch) -> Iterator[Callable[..., Search]]:
    """Begin a search."""
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder for artifacts where it stands
    under_way = []

    def begin(tracking_uri: str, record: str | None = None) -> Search:
        places = Places.at(tmp_path / "home", record=record, tracking_uri=tracking_uri)
        places.make()
        budget = {"trials_per_context": 60}
        spec = parse_spec({**RAW, "name": next(names), "sampler": "random", "budget": budget})
        journal = Journal(places.record)
        said: list[str] = []
        calls_s: list[float] = []
        delivery = Delivery(journal, spec, places, said.append)
        said.append(delivery.check(new=True) or "it answers")
        context = writing(journal, spec.name, places.folder(spec.name))
        writer = context.__enter__()

        def append(entries: Any) -> Any:
            began = time.perf_counter()
            events = writer.append(entries)
            calls_s.append(time.perf_counter() - began)
            return events

        ledger = Ledger(journal, spec.name, append)
        plan = {"versions": {}, "git_commit": None, "hardware": {}}
        plain = spec.model_dump(mode="json", exclude_none=True)
        ledger.record(EventKind.PLANNED, spec=plain, **plan)
        delivery.start()
        rehearsed = Rehearsal(spec, ledger, places.folder(spec.name))
        under_way.append((delivery, context))
        return Search(ledger, writer, delivery, rehearsed, places, said, calls_s)

    yield begin
    for delivery, context in under_way:
        delivery.finish(0)
        context.__exit__(None, None, None)


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_away_at_first_and_killed_later_costs_the_search_nothing(begin, server):
    search = begin(server.uri)
    assert "does not answer ([Errno 111] Connection refused); the search goes on" in search.said[0]
    search.go_on(until=lambda: len(search.said) == 2)
    starting = threading.Thread(target=server.start)
    starting.start()
    search.go_on(until=lambda: len(search.said) == 3)
    starting.join()
    server.stop()
    search.go_on(until=lambda: len(search.said) == 4)
    starting = threading.Thread(target=server.start)
    starting.start()
    search.go_on(until=lambda: not starting.is_alive())
    assert search.close()
    search.assert_undisturbed()
    search.assert_whole(server)
    assert [line.split(" (")[0] for line in search.said] == [
        f"MLflow at {server.uri} {what}"
        for what in (
            "does not answer",
            "does not take the record now",
            "takes the record again",
            "does not take the record now",
            "takes the record again",
        )
    ]


def passing_on(_, forward):
    forward()


def slowly(_, forward):
    time.sleep(0.2)
    forward()


TROUBLES = (
    answering(503),
    answering(429),
    answering(404, "default backend"),
    answering(200, "<html>Welcome to something else</html>"),
    hanging,
)


@pytest.mark.usefixtures("quick")
def test_whatever_a_server_answers_for_a_while_all_arrives_afterwards(
    begin, stub, running, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracking, "REFUSED_WAIT_S", 0.5)
    search = begin(stub.uri)
    for trouble in TROUBLES:
        stub.behave = passing_on
        search.go_on(until=lambda: search.delivery.failure is None and search.delivery.delivered)
        stub.behave = trouble
        search.go_on(until=lambda: search.delivery.failure)
    stub.behave = passing_on
    assert search.close()
    search.assert_undisturbed()
    assert search.delivery.refused == {}
    search.assert_whole(running)


@pytest.mark.usefixtures("quick")
def test_a_slow_server_costs_the_search_nothing(begin, stub, running):
    stub.behave = slowly
    search = begin(stub.uri)
    search.go_on(until=lambda: stub.requests.total() >= 10)
    search.assert_undisturbed()
    stub.behave = passing_on
    assert search.close()
    search.assert_whole(running)


@pytest.mark.usefixtures("quick")
def test_requests_carried_out_when_nobody_waits_for_them_any_more_leave_no_second_run(
    begin, stub, running, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    creates = itertools.count()

    def behave(handler, forward):
        match next(creates) if handler.path.endswith("/runs/create") else None:
            case 0 | 3:  # carried out when a second request did the same already
                time.sleep(1.5)
                forward()
            case 4:  # carried out at once
                forward(answer_after_s=1.5)
            case _:
                forward()

    stub.behave = behave
    search = begin(stub.uri)
    search.go_on(until=lambda: search.delivery.delivered >= 5)
    assert search.close()
    search.assert_whole(running)


def test_the_end_waits_no_longer_than_it_says_for_a_server_that_hangs(begin, stub):
    search = begin(stub.uri)
    stub.behave = hanging
    search.go_on(until=lambda: True)
    began = time.monotonic()
    assert not search.close(2.0)
    assert 2.0 <= time.monotonic() - began < 6.0


def test_no_request_is_repeated_or_waited_for_by_mlflow_itself(stub, monkeypatch, begin):
    """Its own retries would take minutes; of an upload too."""
    search = begin(stub.uri)
    assert search.close()
    client = MlflowClient(stub.uri)
    parent = stored(client, search.name)["search"].info.run_id
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for behave in (answering(429), answering(500), answering(503), hanging):
        stub.behave = behave
        for request in (
            lambda: client.set_tag(parent, "a", "b"),
            lambda: client.log_dict(parent, {}, "a.json"),
        ):
            before, began = stub.requests.total(), time.monotonic()
            with pytest.raises(Exception, match=r"429|500|503|timed out"):
                request()
            assert time.monotonic() - began < 2
            assert stub.requests.total() == before + 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_no_requests_of_ours_is_told_before_the_search_starts(
    begin, stub, status
):
    stub.behave = answering(status, "who are you?")
    with pytest.raises(KdcurveError, match=rf"cannot be used: .*{status}.*who are you") as refused:
        begin(stub.uri)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("quick")
def test_one_that_wants_no_more_of_them_is_told_and_not_waited_for(begin, stub, running):
    search = begin(stub.uri)
    search.go_on(until=lambda: search.delivery.delivered >= 2)
    stub.behave = answering(403, "no more")
    search.go_on(until=lambda: len(search.said) == 2)
    assert search.said[1].startswith(f"MLflow at {stub.uri} refuses the record (")
    assert search.said[1].endswith("; the search goes on")
    before = stub.requests.total()
    search.go_on(until=lambda: True)
    assert stub.requests.total() == before
    began = time.monotonic()
    assert not search.close()
    assert time.monotonic() - began < 5
    # Somebody mends it: another delivery brings the rest.
    stub.behave = passing_on
    rest = Delivery(search.ledger.journal, search.ledger.spec, search.places)
    rest.start()
    assert rest.finish(60)
    search.assert_whole(running)


def test_a_server_behind_a_proxy_is_not_probed_past_it(begin, stub, monkeypatch):
    """Its name may be known to the proxy only."""
    monkeypatch.setenv("http_proxy", stub.uri)
    monkeypatch.setenv("no_proxy", "")
    stub.behave = answering(404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}')
    assert begin("http://mlflow.invalid:5000").said == ["it answers"]


@pytest.mark.usefixtures("quick")
def test_a_record_that_restarts_costs_the_search_nothing(begin, postgres, tmp_path):
    search = begin(f"sqlite:///{tmp_path / 'mlflow.db'}", postgres.uri("record_restarts"))
    search.go_on(until=lambda: search.delivery.delivered >= 2)
    postgres.stop()
    try:
        search.go_on(until=lambda: search.delivery.failure)
        assert "the record does not answer" in search.delivery.failure
    finally:
        postgres.start()
    search.go_on(until=lambda: not search.delivery.failure)
    assert search.close()
    search.assert_undisturbed()
    assert search.said == ["it answers"]
    search.assert_whole()


@pytest.mark.usefixtures("quick")
def test_an_mlflow_database_that_restarts_costs_the_search_nothing(begin, postgres):
    search = begin(postgres.uri("mlflow_restarts"))
    search.go_on(until=lambda: search.delivery.delivered >= 2)
    postgres.stop()
    try:
        search.go_on(until=lambda: len(search.said) == 2)
    finally:
        postgres.start()
    search.go_on(until=lambda: len(search.said) == 3)
    assert search.close()
    search.assert_undisturbed()
    search.assert_whole()


def test_a_database_that_refuses_or_is_away_is_told_within_seconds(
    begin, postgres, tmp_path, monkeypatch
):
    """MLflow itself would try for 101 s."""
    uri = postgres.uri("refuses")
    wrong = uri.replace(postgres.password, "hunter2/")
    began = time.monotonic()
    for text, says in (
        (wrong, "password authentication failed"),
        (uri.replace("refuses", "none_such"), 'database "none_such" does not exist'),
    ):
        with pytest.raises(KdcurveError, match=f"cannot be used: .*{says}"):
            begin(text)
        with pytest.raises(AnalysisError, match=f"does not answer: .*{says}") as told:
            load_runs("any", text)
        assert "hunter2" not in str(told.value)
    assert time.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_server_on_postgresql_and_its_database_may_both_restart(begin, postgres, tmp_path):
    uri = postgres.uri("behind_a_server")
    with mlflow_server(tmp_path / "server", uri) as server:
        search = begin(server.uri)
        search.go_on(until=lambda: search.delivery.delivered >= 5)
        postgres.stop()
        try:
            search.go_on(until=lambda: search.delivery.failure)
        finally:
            postgres.start()
        search.go_on(until=lambda: not search.delivery.failure)
        server.stop()
        search.go_on(until=lambda: search.delivery.failure)
        starting = threading.Thread(target=server.start)
        starting.start()
        search.go_on(until=lambda: not starting.is_alive())
        assert search.close()
        search.assert_undisturbed()
        search.assert_whole(server)


@pytest.mark.usefixtures("quick")
def test_no_secret_is_left_anywhere(begin, stub, running, postgres, monkeypatch, capfd):
    """Neither in files, nor in databases, nor in logs, nor in what is said; in trouble, too."""
    token, password = "token-hunter2", "pass@word/hunter2"
    quoted = password.replace("@", "%40").replace("/", "%2F")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    monkeypatch.setenv("PGPASSWORD", "pg-hunter2")
    monkeypatch.setattr(tracking, "REFUSED_WAIT_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    record, uri = postgres.uri("no_secret"), stub.uri.replace("//", f"//someone:{quoted}@")
    search = begin(uri, record)
    folder = search.places.folder(search.name)
    handler = logging.FileHandler(folder / "kdcurve.log")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        search.go_on(until=lambda: search.delivery.delivered >= 5)
        for trouble in (answering(403, f"{uri} {token}"), hanging):
            stub.behave = trouble
            search.go_on(until=lambda: search.delivery.failure)
            stub.behave = passing_on
            search.go_on(until=lambda: search.delivery.failure is None)
        fail(search, OSError(f"{uri} and {record} want {token}"))
        search.ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
        publish(search.ledger, search.places)
        search.writer.flush()
        assert search.delivery.finish(60)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    search.assert_whole(running)
    runs = load_runs(search.name, uri)
    assert runs["reason"].iloc[-1].startswith("OSError: http://someone:***@127.0.0.1:")

    texts = {
        str(path): path.read_bytes()
        for home in (search.places.home, running.folder)
        for path in home.rglob("*")
        if path.is_file()
    }
    names = {Path(name).name for name in texts}
    assert {"report.html", "kdcurve.log", "mlflow.db", "search.json"} <= names
    assert b"someone:***@" in texts[str(folder / "kdcurve.log")]
    engine = sa.create_engine(record)
    for table in sa.inspect(engine).get_table_names():
        with engine.connect() as connection:
            texts[table] = str(connection.execute(sa.text(f"SELECT * FROM {table}")).all()).encode()
    assert b"someone:***@" in texts["kdcurve_events"]
    printed = capfd.readouterr()
    texts["printed"] = f"{printed.out} {printed.err} {search.said}".encode()
    for secret in (token, password, quoted, "hunter2", postgres.password):
        for name, content in texts.items():
            assert secret.encode() not in content, name


def fail(search, error):
    """A worker dies of an error."""
    number = len(search.ledger.trials)
    assert search.rehearsed.searcher.suggest("ill")["number"] == number
    trial = failing({"number": number}, error, search.places.home.parent)
    search.rehearsed.recorder.on_trial_start(0, [], trial)
    search.rehearsed.recorder.on_trial_error(0, [], trial)

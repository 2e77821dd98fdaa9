import json
import shutil
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from search import database
from search.database import VERSION
from search.errors import KdcurveError
from search.journal import EventKind, Journal, check_name
from search.ledger import Ledger
from search.writer import writing

DATA = Path(__file__).parent.parent / "data"
NO_IDENTITY = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=None))
TABLES = ["kdcurve_events", "kdcurve_journal", "kdcurve_leases"]


def execute(uri, *statements):
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def version_1(record_uri):
    """A record as version 1 left it: one search complete, one cut off, their ids interleaved."""
    execute(record_uri, *statements(record_uri))
    return record_uri


def statements(uri):
    """Those of the dump; on PostgreSQL version 1 could not record NaN and infinity."""
    text = (DATA / "record-v1.sql").read_text()
    if uri.startswith("postgresql"):
        text = text.replace("NaN", "null").replace("Infinity", "null")
    begin, *those, commit = [each for each in text.split(";\n") if each]
    assert (begin, commit) == ("BEGIN TRANSACTION", "COMMIT")
    return those


def replayed(uri, name):
    """A search of a record in the words of the version that wrote the example."""
    ledger = Ledger(Journal(uri), name)
    fields = ("number", "context", "values", "seed", "start_design", "scores", "rungs")
    fields += ("outcome", "reason")
    return {
        "state": ledger.state,
        "events": ledger.journal.last_number(name),
        "trials": json.loads(
            json.dumps([{f: getattr(t, f) for f in fields} for t in ledger.trials.values()])
        ),
    }


# Making a record


def test_every_commit_reaches_the_disk_and_readers_do_not_block_the_writer(tmp_path):
    uri = f"sqlite:///{tmp_path / 'record.db'}"
    Journal(uri).close()
    for create in (True, False):
        journal = Journal(uri, create=create)
        with journal.engine.connect() as one, journal.transaction() as another:
            for connection in (one, another):
                ask = connection.exec_driver_sql
                assert ask("PRAGMA synchronous").scalar() == 2, "FULL"
                assert ask("PRAGMA journal_mode").scalar() == "wal"


def test_a_copy_that_lost_its_write_ahead_log_gets_one_again(tmp_path):
    uri = f"sqlite:///{tmp_path / 'record.db'}"
    Journal(uri).close()
    execute(uri, "PRAGMA journal_mode=DELETE")
    with Journal(uri).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_record_can_be_opened_again_and_keeps_its_identity(record_uri):
    first, again, reader = Journal(record_uri), Journal(record_uri), Journal(record_uri)
    assert first.identity == again.identity == reader.identity
    assert len(first.identity) == 32


def test_processes_may_make_a_record_at_the_same_time(record_uri, at_once):
    code = """
from search.journal import EventKind, Journal
journal = Journal(arguments[0])
journal.append(str(which), [(EventKind.PLANNED, None, {})])
answer = journal.identity
"""
    for _ in range(3):
        answers = at_once(6, code, record_uri)
        assert len(answers) == 6
        assert set(answers) == {Journal(record_uri).identity}
        assert sorted(Journal(record_uri).searches()) == list("012345")
        execute(record_uri, *(f"DROP TABLE {name}" for name in TABLES))


def test_turning_to_a_write_ahead_log_waits_for_who_writes_the_file(tmp_path):
    """SQLite itself would not wait: it says at once that the database is locked."""
    other = sqlite3.connect(tmp_path / "record.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE other (number INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO other VALUES (1)")
    ends = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    ends.start()
    journal = Journal(f"sqlite:///{tmp_path / 'record.db'}")
    assert not ends.is_alive()
    with journal.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    other.close()


def test_a_process_that_dies_while_it_makes_a_record_leaves_nothing(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'record.db'}"
    with monkeypatch.context() as patched:
        patched.setattr(database, "uuid", NO_IDENTITY)  # the last statement fails
        with pytest.raises(KdcurveError, match="cannot open the record"):
            Journal(uri)
    with pytest.raises(KdcurveError, match="there is no record at"):
        Journal(uri, create=False)
    assert Journal(uri).searches() == []


# Opening what cannot be opened


def test_a_record_of_a_newer_version_is_refused(record_uri):
    Journal(record_uri)
    execute(record_uri, "UPDATE kdcurve_journal SET version = version + 1")
    for create in (True, False):
        with pytest.raises(KdcurveError, match=f"newer kdcurve .version {VERSION + 1}"):
            Journal(record_uri, create=create)


def test_a_reader_does_not_create_a_record(record_uri, tmp_path):
    with pytest.raises(KdcurveError, match="there is no record at"):
        Journal(record_uri, create=False)
    assert list(tmp_path.iterdir()) == []
    assert sa.inspect(sa.create_engine(record_uri)).get_table_names() == []


def test_a_reader_says_where_there_is_no_record_without_the_password(postgres):
    uri = postgres.uri("no_record")
    with pytest.raises(KdcurveError, match="there is no record at postgresql") as refused:
        Journal(uri, create=False)
    assert postgres.password not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    for create in (True, False):
        with pytest.raises(KdcurveError, match=r"cannot open the record .*notes\.txt"):
            Journal(f"sqlite:///{tmp_path / 'notes.txt'}", create=create)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+nosuchdriver://user:hunter2@localhost/db",
        "postgresql://user:hun:ter@hunter2@localhost/db",
        "nosuchdatabase://user:hunter2@localhost/db",
        "postgresql://user:hunter2@local host:port:x/db",
        "postgresql://user:hunter2@127.0.0.1:1/db",
        "sqlite://user:hunter2@somewhere/file.db",
    ],
)
def test_a_record_that_cannot_be_opened_is_one_line_without_the_password(uri):
    with pytest.raises(KdcurveError) as refused:
        Journal(uri)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("uri", ["", "record.db", "ftp://x/y", "sqlite", "sqlite://"])
def test_what_is_no_database_uri_is_refused_by_name(uri):
    with pytest.raises(KdcurveError, match=f"--record '{uri}' is not a database URI"):
        Journal(uri)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(KdcurveError, match=r"cannot open the record .*unable to open"):
        Journal(f"sqlite:///{tmp_path / 'no' / 'such' / 'record.db'}")


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "my data, 100% ü"
    folder.mkdir()
    uri = f"sqlite:///{folder / 'record.db'}"
    Journal(uri).append("a", [(EventKind.PLANNED, None, {})])
    assert Journal(uri, create=False).searches() == ["a"]
    assert (folder / "record.db").is_file()


def test_a_file_can_be_named_as_sqlite_does_with_its_own_options(tmp_path):
    Journal(f"sqlite:///{tmp_path / 'record.db'}").append("a", [(EventKind.PLANNED, None, {})])
    reader = f"sqlite:///file:{tmp_path / 'record.db'}?mode=ro&uri=true"
    assert Journal(reader, create=False).searches() == ["a"]
    with pytest.raises(KdcurveError, match=r"cannot write to the record: .*readonly"):
        Journal(reader).append("a", [(EventKind.RESUMED, None, {})])
    with pytest.raises(KdcurveError, match="there is no record at"):
        Journal(reader.replace("record.db", "none.db"), create=False)


def test_own_options_of_a_postgresql_uri_come_first():
    engine = database._engine("postgresql://user@host/db?connect_timeout=3&application_name=x")
    _, arguments = engine.dialect.create_connect_args(engine.url)
    assert (arguments["connect_timeout"], arguments["application_name"]) == ("3", "x")
    assert int(arguments["tcp_user_timeout"]) > 0


# From version 1


@pytest.mark.parametrize("create", [True, False])
def test_a_record_of_version_1_replays_to_the_same_trials(version_1, create):
    Journal(version_1, create=create).close()
    expected = json.loads((DATA / "record-v1.json").read_text())
    assert {name: replayed(version_1, name) for name in expected} == expected
    assert Journal(version_1).searches() == list(expected)


def test_an_upgraded_record_has_the_tables_of_one_made_now(version_1, tmp_path):
    def schema(uri):
        inspector = sa.inspect(sa.create_engine(uri))
        return {
            table: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
                inspector.get_pk_constraint(table)["constrained_columns"],
                [(i["name"], i["column_names"]) for i in inspector.get_indexes(table)],
            )
            for table in sorted(inspector.get_table_names())
        }

    Journal(version_1).close()
    upgraded = schema(version_1)
    assert list(upgraded) == TABLES
    execute(version_1, *(f"DROP TABLE {name}" for name in TABLES))
    Journal(version_1).close()
    assert schema(version_1) == upgraded


def test_a_search_of_version_1_can_be_gone_on_with(version_1, tmp_path, rehearsal):
    journal = Journal(version_1)
    with pytest.raises(KdcurveError, match="recorded already"):
        check_name(journal, "cut")
    with writing(journal, "cut", tmp_path / "cut") as writer:
        ledger = Ledger(journal, "cut", writer.append)
        before = journal.last_number("cut")
        assert [trial.number for trial in ledger.unfinished()] == [4]
        ledger.record(EventKind.RESUMED)
        rehearsal(ledger.spec, ledger, tmp_path).run()
        assert len(ledger.trials) == ledger.spec.trials
        assert not ledger.unfinished()
    numbers = [event.number for event in journal.events("cut")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > before
    assert journal.last_number("whole") == 39


def test_processes_may_upgrade_a_record_at_the_same_time(record_uri, at_once):
    code = """
from search.journal import Journal
journal = Journal(arguments[0], create=which % 2 == 0)
answer = [journal.identity, [journal.last_number(name) for name in journal.searches()]]
"""
    for _ in range(3):
        execute(record_uri, *statements(record_uri))
        answers = at_once(4, code, record_uri)
        assert answers == 4 * [[Journal(record_uri).identity, [39, 32]]]
        execute(record_uri, *(f"DROP TABLE {name}" for name in TABLES))


def test_an_upgrade_that_is_cut_off_leaves_version_1(version_1, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(database, "uuid", NO_IDENTITY)  # the last statement fails
        with pytest.raises(KdcurveError, match="from version 1 to"):
            Journal(version_1)
    with sa.create_engine(version_1).connect() as connection:
        assert connection.exec_driver_sql("SELECT version FROM kdcurve_journal").scalar() == 1
        assert connection.exec_driver_sql("SELECT MAX(id) FROM kdcurve_events").scalar() == 71
    assert Journal(version_1).searches() == ["whole", "cut"]


def test_what_a_process_of_version_1_still_writes_is_refused(version_1):
    Journal(version_1).close()
    late = "INSERT INTO kdcurve_events (search, time, kind, data) VALUES ('cut', 1, 'closed', '{}')"
    with pytest.raises(sa.exc.IntegrityError):
        execute(version_1, late)


def test_a_reader_of_a_version_1_record_that_it_may_not_write_is_told_so(tmp_path):
    path = tmp_path / "record.db"
    execute(f"sqlite:///{path}", *statements("sqlite"))
    before = path.read_bytes()
    with pytest.raises(KdcurveError) as refused:
        Journal(f"sqlite:///file:{path}?mode=ro&uri=true", create=False)
    assert "from version 1 to 2: attempt to write a readonly database" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


def test_a_version_1_record_that_is_in_use_is_read_up_to_its_last_commit(tmp_path):
    """Copied with its write-ahead log, as a killed process leaves it."""
    connection = sqlite3.connect(tmp_path / "live.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    for statement in statements("sqlite"):
        connection.execute(statement)
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"live.db{suffix}", tmp_path / f"killed.db{suffix}")
    assert Journal(f"sqlite:///{tmp_path / 'killed.db'}").last_number("whole") == 39

import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from search.errors import KdcurveError
from search.journal import JOURNAL_VERSION, EventKind, Journal


def epochs(journal, search="a", after=0):
    return [e.data["epoch"] for e in journal.events(search, after) if "epoch" in e.data]


def report(epoch):
    return EventKind.REPORTED, 0, {"epoch": epoch, "metrics": {"val_accuracy": 0.1 * epoch}}


def test_events_come_back_as_written_and_in_order(journal):
    written = journal.append("a", [report(3), report(1)]) + journal.append("a", [report(2)])
    read = list(journal.events("a"))
    assert read == written
    assert [e.data["epoch"] for e in read] == [3, 1, 2]
    assert [e.number for e in read] == sorted({e.number for e in read})
    assert [e.time for e in read] == sorted(e.time for e in read)
    assert all(type(e.kind) is EventKind for e in read)


def test_a_reader_can_go_on_after_the_last_event_it_saw(journal):
    seen = journal.append("a", [report(1), report(2)])[-1].number
    assert epochs(journal, after=seen) == []
    journal.append("a", [report(3)])
    assert epochs(journal, after=seen) == [3]


def test_searches_share_a_record_without_mixing(journal):
    for name in ("b", "a"):
        journal.append(name, [(EventKind.PLANNED, None, {}), report(1)])
    journal.append("a", [report(2)])
    assert (epochs(journal, "a"), epochs(journal, "b")) == ([1, 2], [1])
    assert journal.searches() == ["b", "a"]
    assert list(journal.events("c")) == []


def test_events_of_one_call_arrive_together_or_not_at_all(journal):
    with pytest.raises(KdcurveError, match="cannot write to the record"):
        journal.append("a", [report(1), (EventKind.REPORTED, 0, {"epoch": object()})])
    assert list(journal.events("a")) == []


def test_threads_may_append_at_the_same_time(journal):
    def work(which):
        for epoch in range(20):
            journal.append(which, [report(epoch)])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(epochs(journal, name) == list(range(20)) for name in "abcd")


WRITER = """
import os, signal, sys
from search.journal import EventKind, Journal
journal = Journal(sys.argv[1])
for epoch in range(5):
    journal.append("a", [(EventKind.REPORTED, 0, {"epoch": epoch})])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_another_process_appended_survives_its_death_right_after(journal):
    killed = subprocess.run([sys.executable, "-c", WRITER, journal.uri], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert epochs(journal) == [0, 1, 2, 3, 4]
    journal.append("a", [report(5)])
    assert epochs(Journal(journal.uri, create=False)) == [0, 1, 2, 3, 4, 5]


def test_a_record_of_a_newer_version_is_refused(journal):
    engine = sa.create_engine(journal.uri)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE kdcurve_journal SET version = version + 1"))
    for create in (True, False):
        with pytest.raises(KdcurveError, match=f"newer kdcurve .version {JOURNAL_VERSION + 1}"):
            Journal(journal.uri, create=create)


def test_a_reader_does_not_create_a_record(tmp_path):
    with pytest.raises(KdcurveError, match=r"there is no record at .*none.db"):
        Journal(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(KdcurveError, match=r"cannot open the record .*notes\.txt"):
        Journal(f"sqlite:///{tmp_path / 'notes.txt'}")


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+nosuchdriver://user:hunter2@localhost/db",
        "postgresql://user:hun:ter@hunter2@localhost/db",
        "nosuchdatabase://user:hunter2@localhost/db",
        "postgresql://user:hunter2@local host:port:x/db",
        "sqlite://user:hunter2@somewhere/file.db",
    ],
)
def test_a_record_that_cannot_be_opened_is_one_line_without_the_password(uri):
    with pytest.raises(KdcurveError) as refused:
        Journal(uri)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("uri", ["", "record.db", "ftp://x/y", "sqlite"])
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
    Journal(uri).append("a", [report(1)])
    assert epochs(Journal(uri, create=False)) == [1]
    assert (folder / "record.db").is_file()

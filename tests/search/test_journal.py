import math
import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from search import journal as journals
from search.errors import KdcurveError, UsageError
from search.journal import ConflictError, EventKind, Journal, check_name, numbered, rows_of


@pytest.fixture
def journal(record_uri):
    return Journal(record_uri)


def epochs(journal, search="a", after=0, limit=None):
    return [e.data["epoch"] for e in journal.events(search, after, limit) if "epoch" in e.data]


def report(epoch):
    return EventKind.REPORTED, 0, {"epoch": epoch, "metrics": {"val_accuracy": 0.1 * epoch}}


def rows(*entries, after=0):
    return rows_of(numbered(entries, after))


def test_events_come_back_as_written_and_in_order(journal):
    written = journal.append("a", [report(3), report(1)]) + journal.append("a", [report(2)])
    read = list(journal.events("a"))
    assert read == written
    assert [e.data["epoch"] for e in read] == [3, 1, 2]
    assert [e.number for e in read] == [1, 2, 3]
    assert [e.time for e in read] == sorted(e.time for e in read)
    assert all(type(e.kind) is EventKind for e in read)


def test_a_reader_can_go_on_after_the_last_event_it_saw(journal):
    seen = journal.append("a", [report(1), report(2)])[-1].number
    assert epochs(journal, after=seen) == []
    journal.append("a", [report(3)])
    assert epochs(journal, after=seen) == [3]


@pytest.mark.parametrize("share", [1, 3, 10, 100])
def test_events_are_the_same_in_whatever_shares_they_are_read(journal, monkeypatch, share):
    monkeypatch.setattr(journals, "EVENTS_PER_READ", share)
    journal.append("a", map(report, range(10)))
    journal.append("b", map(report, range(5)))
    assert epochs(journal) == list(range(10))
    assert epochs(journal, after=4) == list(range(4, 10))
    assert epochs(journal, after=4, limit=3) == [4, 5, 6]
    assert epochs(journal, after=4, limit=60) == list(range(4, 10))
    assert epochs(journal, limit=0) == []


def test_who_reads_slowly_holds_nothing_up(journal, monkeypatch):
    monkeypatch.setattr(journals, "EVENTS_PER_READ", 2)
    journal.append("a", map(report, range(4)))
    reading = journal.events("a")
    next(reading)
    journal.append("a", [report(4)])
    assert journal.engine.pool.checkedout() == 0
    assert [e.number for e in reading] == [2, 3, 4, 5]


def test_searches_share_a_record_without_mixing(journal):
    for name in ("b", "a"):
        journal.append(name, [(EventKind.PLANNED, None, {}), report(1)])
    journal.append("a", [report(2)])
    assert (epochs(journal, "a"), epochs(journal, "b")) == ([1, 2], [1])
    assert journal.searches() == ["b", "a"]
    assert list(journal.events("c")) == []


def test_a_deleted_search_is_gone_and_the_others_stay(journal):
    for name in "ab":
        journal.append(name, [(EventKind.PLANNED, None, {}), report(1)])
    journal.delete("a")
    assert (journal.searches(), journal.last_number("a"), epochs(journal, "b")) == (["b"], 0, [1])
    assert journal.append("a", [report(7)])[0].number == 1


def test_where_a_search_stands_is_read_without_its_trials(journal):
    halt = (EventKind.CLOSED, None, {"state": "interrupted"})
    resumed = (EventKind.RESUMED, None, {})
    journal.append("a", [(EventKind.PLANNED, None, {}), *map(report, range(9)), halt, resumed])
    journal.append("b", [(EventKind.PLANNED, None, {}), report(1)])
    found = [(e.number, e.kind) for e in journal.milestones("a")]
    assert found == [(1, "planned"), (11, "closed"), (12, "resumed")]
    assert journal.newest("a").kind is EventKind.RESUMED
    assert journal.newest("b").data["epoch"] == 1
    assert journal.count("a", EventKind.REPORTED) == 9
    assert journal.count("a", EventKind.ENDED) == 0
    assert (journal.last_number("a"), journal.last_number("c")) == (12, 0)


def test_a_taken_name_is_refused_and_a_free_one_offered(journal):
    for name in ("a", "a-2", "b"):
        journal.append(name, [(EventKind.PLANNED, None, {})])
    check_name(journal, "c")
    with pytest.raises(UsageError, match=r"'a' is recorded already.*--name a-3"):
        check_name(journal, "a")


def test_numbers_that_json_has_no_words_for_survive(journal):
    metrics = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2, "e": 5e-324}
    journal.append("a", [(EventKind.REPORTED, 0, {"metrics": metrics})])
    (event,) = journal.events("a")
    assert event.data["metrics"] == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def test_any_text_survives(journal):
    text = "α ≈ ½ 🙂 \x00 \ud800 ' \" \\ % :x {y}"
    journal.append("a", [(EventKind.ENDED, 0, {"reason": text})])
    assert next(journal.events("a")).data["reason"] == text


def loop():
    data = {}
    data["itself"] = data
    return data


@pytest.mark.parametrize("data", [{"epoch": object()}, {"epoch": {1}}, {(1, 2): 3}, loop()])
def test_events_of_one_call_arrive_together_or_not_at_all(journal, data):
    with pytest.raises(KdcurveError, match="cannot write to the record"):
        journal.append("a", [report(1), (EventKind.REPORTED, 0, data), report(2)])
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


def test_a_search_can_be_copied_into_another_record(journal, tmp_path):
    journal.append("a", [report(0), report(1)])
    other = Journal(f"sqlite:///{tmp_path / 'other.db'}")
    other.write("a", journal.events("a"))
    assert list(other.events("a")) == list(journal.events("a"))
    assert other.identity != journal.identity


# Writing what may be there already


def test_written_again_events_are_there_once(journal):
    first, second = rows(report(0), report(1)), rows(report(2), after=2)
    for _ in range(2):
        journal.write_rows("a", first)
    journal.write_rows("a", first + second)
    journal.write_rows("a", second)
    journal.write_rows("a", [])
    assert epochs(journal) == [0, 1, 2]


def test_events_that_do_not_continue_the_record_are_refused(journal):
    journal.write_rows("a", rows(report(0), report(1)))
    with pytest.raises(ConflictError, match="'a' ends before its event 3"):
        journal.write_rows("a", rows(report(3), after=3))
    with pytest.raises(ConflictError, match="'b' ends before its event 1"):
        journal.write_rows("b", rows(report(1), after=1))
    assert (epochs(journal), epochs(journal, "b")) == ([0, 1], [])


def test_other_events_of_the_same_numbers_are_refused_and_nothing_is_written(journal):
    journal.write_rows("a", rows(report(0), report(1)))
    with pytest.raises(ConflictError, match="'a' has another event 2"):
        journal.write_rows("a", rows(report(8), report(9), after=1))
    assert epochs(journal) == [0, 1]


def test_nothing_is_written_without_a_permit(journal):
    def refuse(connection: sa.Connection) -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        journal.write_rows("a", rows(report(0)), refuse)
    assert epochs(journal) == []


def test_of_two_processes_that_append_unasked_none_overwrites_the_other(journal, at_once):
    code = """
from search.journal import EventKind, Journal
journal, answer = Journal(arguments[0]), 0
for epoch in range(30):
    try:
        journal.append("a", [(EventKind.REPORTED, which, {"epoch": epoch})] * 3)
        answer += 1
    except Exception as error:
        assert "to the record of 'a'" in str(error) or "has another event" in str(error), error
"""
    succeeded = at_once(3, code, journal.uri)
    events = list(journal.events("a"))
    assert [e.number for e in events] == list(range(1, 3 * sum(succeeded) + 1))
    assert [sum(e.trial == which for e in events) // 3 for which in range(3)] == succeeded


def test_the_record_does_not_change_with_what_was_appended(journal):
    metrics = {"val_accuracy": 0.5}
    written = rows((EventKind.REPORTED, 0, {"metrics": metrics}))
    metrics["val_accuracy"] = 0.9
    journal.write_rows("a", written)
    assert next(journal.events("a")).data["metrics"] == {"val_accuracy": 0.5}

import contextlib
import json
import logging
import math
import os
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time

import psutil
import pytest
import sqlalchemy as sa

from search import writer as writers
from search.errors import KdcurveError
from search.journal import ConflictError, EventKind, Journal
from search.lease import Lease, TakenOverError, running
from search.ledger import Ledger
from search.writer import Spool, Writer, left_behind, writing


@pytest.fixture
def journal(record_uri):
    return Journal(record_uri)


@pytest.fixture
def on_sqlite(tmp_path):
    return Journal(f"sqlite:///{tmp_path / 'record.db'}")


def report(epoch, **metrics):
    return EventKind.REPORTED, 0, {"epoch": epoch, "metrics": metrics}


def append(writer, epochs):
    return [writer.append([report(epoch)])[0].number for epoch in epochs]


def epochs(journal, search="a"):
    """What is recorded; its numbers are whole in any case."""
    events = list(journal.events(search))
    assert [e.number for e in events] == list(range(1, len(events) + 1))
    return [e.data["epoch"] for e in events]


def spools(folder):
    return sorted(folder.glob("events-*.spool"))


def set_aside(folder):
    return sorted(folder.glob("events-*.spool.*"))


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


class Switch:
    """A database that can be turned off: it answers each write with an error, or not at all."""

    def __init__(self, journal, monkeypatch):
        self._write = journal.write_rows
        self.away = False
        self.hangs = False
        self.back = threading.Event()
        monkeypatch.setattr(journal, "write_rows", self.write)

    def write(self, *arguments):
        if self.hangs:
            self.back.wait(60)
        if self.away:
            raise sa.exc.OperationalError("INSERT", {}, Exception("the server is away"))
        self._write(*arguments)


@pytest.fixture
def switch(on_sqlite, monkeypatch):
    made = Switch(on_sqlite, monkeypatch)
    yield made
    made.back.set()


# From one end to the other


def test_what_is_appended_arrives_whole_and_in_order(journal, tmp_path):
    with writing(journal, "a", tmp_path) as writer:
        live = [writer.append([report(3 * i), report(3 * i + 1)]) for i in range(5)]
        live.append(writer.append([report(99)]))
        writer.flush()
        assert list(journal.events("a")) == [event for events in live for event in events]
        append(writer, [100])
    assert epochs(journal)[-2:] == [99, 100]
    assert spools(tmp_path) == [], "nothing is left to keep"
    assert running(journal) == {}


def test_a_writer_goes_on_where_the_record_ends(journal, tmp_path):
    journal.append("a", [report(0), report(1)])
    with writing(journal, "a", tmp_path) as writer:
        assert append(writer, [2, 3]) == [3, 4]
    with writing(journal, "a", tmp_path) as writer:
        assert append(writer, [4]) == [5]
    assert epochs(journal) == [0, 1, 2, 3, 4]


def test_a_ledger_over_a_writer_is_that_of_the_record(
    journal, tmp_path, make_spec, plan, rehearsal
):
    spec = make_spec(budget={"trials_per_context": 6})
    plan(journal, spec)
    with writing(journal, spec.name, tmp_path / "spool") as writer:
        ledger = Ledger(journal, spec.name, writer.append)
        rehearsal(spec, ledger, tmp_path).run()
    assert Ledger(journal, spec.name).trials == ledger.trials
    assert len(ledger.trials) == 12


def test_no_events_are_no_events(journal, tmp_path):
    with writing(journal, "a", tmp_path) as writer:
        assert writer.append([]) == []
        assert append(writer, [0]) == [1]
    assert epochs(journal) == [0]


def test_a_second_writer_is_refused_until_the_first_is_closed(journal, tmp_path):
    with writing(journal, "a", tmp_path):
        with pytest.raises(KdcurveError, match=f"held by process {os.getpid()}"):
            Writer(journal, "a", tmp_path)
        with writing(journal, "b", tmp_path / "b"):
            pass
    with writing(journal, "a", tmp_path):
        pass


def test_a_closed_writer_takes_nothing_more(journal, tmp_path):
    with writing(journal, "a", tmp_path) as writer:
        pass
    with pytest.raises(KdcurveError, match="closed"):
        append(writer, [0])
    writer.close()
    assert epochs(journal) == []


def test_a_writer_that_cannot_begin_leaves_the_search_free(journal, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KdcurveError, match=r"cannot write to the record: .*file"):
        Writer(journal, "a", tmp_path / "file" / "folder")
    assert running(journal) == {}


def test_a_holder_shows_that_it_is_alive_though_nothing_happens(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "RENEW_S", 0.02)

    def renewed():
        with journal.engine.connect() as connection:
            return connection.exec_driver_sql("SELECT renewed FROM kdcurve_leases").scalar()

    with writing(journal, "a", tmp_path):
        first = renewed()
        wait_for(lambda: renewed() > first)


# Soon on the disk, and nobody waits


def test_appending_takes_microseconds_while_commits_go_on(journal, tmp_path):
    metrics = {f"metric_{i}": 0.1 * i for i in range(15)}
    took = []
    with writing(journal, "a", tmp_path) as writer:
        for epoch in range(400):
            began = time.perf_counter()
            writer.append([report(epoch, **metrics)])
            took.append(time.perf_counter() - began)
            time.sleep(0.002)
        assert journal.last_number("a") > 0, "commits went on meanwhile"
    assert statistics.median(took) < 0.002
    assert epochs(journal) == list(range(400))


def test_an_event_is_in_the_database_within_a_second(journal, tmp_path):
    """One alone, and each of a stream: what a power cut may cost."""
    with writing(journal, "a", tmp_path) as writer:
        appended = {}
        arrived = {}

        def look():
            number = journal.last_number("a")
            now = time.monotonic()
            for each in appended.keys() - arrived.keys():
                if each <= number:
                    arrived[each] = now

        for epoch in [*range(150), 150]:
            if epoch == 150:
                wait_for(lambda: len(arrived) == 150 or look())
            (number,) = append(writer, [epoch])
            appended[number] = time.monotonic()
            look()
            time.sleep(0.01)
        wait_for(lambda: len(arrived) == 151 or look())
    assert max(arrived[number] - appended[number] for number in appended) < 1.0


def test_a_backlog_arrives_in_order_whatever_the_size_of_a_commit(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "EVENTS_PER_COMMIT", 7)
    whole, sizes = journal.write_rows, []
    monkeypatch.setattr(
        journal,
        "write_rows",
        lambda name, rows, *more: (sizes.append(len(rows)), whole(name, rows, *more)),
    )
    with writing(journal, "a", tmp_path) as writer:
        append(writer, range(100))
        writer.append(map(report, range(100, 150)))
        writer.flush(20)
        assert epochs(journal) == list(range(150))
    assert max(sizes) == 7


def test_the_spool_does_not_grow_with_the_search(on_sqlite, tmp_path, monkeypatch):
    """Events arrive all the time, so that there is never a moment at which none waits."""
    monkeypatch.setattr(writers, "COMMIT_EVERY_S", 0.001)
    slow = on_sqlite.write_rows
    monkeypatch.setattr(on_sqlite, "write_rows", lambda *a: (time.sleep(0.01), slow(*a)))
    sizes = []
    with writing(on_sqlite, "a", tmp_path) as writer:
        for epoch in range(1500):
            writer.append([report(epoch, note="x" * 1000)])
            sizes.append(sum(path.stat().st_size for path in spools(tmp_path)))
            time.sleep(0.0005)
        assert len(writer._waiting) > 0
    assert max(sizes) < 1500 * 1000 * 0.7
    assert epochs(on_sqlite) == list(range(1500))


def test_a_file_of_the_spool_is_emptied_when_all_in_it_is_committed_and_not_before(tmp_path):
    paths = [tmp_path / "1", tmp_path / "2"]
    spool = Spool(paths)

    def add(number):
        spool.append([{"number": number, "time": 1.0, "kind": "started", "trial": 0, "data": "{}"}])

    def held():
        return [[row["number"] for row in left_behind([path])[0]] for path in paths]

    for number in (1, 2, 3):
        add(number)
    spool.turn()
    add(4)
    spool.turn()  # in vain: the other file holds events that are not committed
    add(5)
    spool.clear(2)
    assert sorted(held()) == [[1, 2, 3], [4, 5]]
    spool.clear(4)
    assert sorted(held()) == [[], [4, 5]]
    spool.turn()
    add(6)
    spool.clear(4)
    assert sorted(held()) == [[4, 5], [6]]
    spool.close(5)
    assert [path.exists() for path in paths].count(True) == 1


# The database away


def test_while_sqlite_is_locked_appends_go_on_and_all_arrives(on_sqlite, tmp_path):
    other = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
    with writing(on_sqlite, "a", tmp_path) as writer:
        append(writer, [0])
        writer.flush()
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        append(writer, range(1, 200))
        assert time.monotonic() - began < 1
        with pytest.raises(KdcurveError, match=r"did not take 199 events within 0\.5 s.*kept in"):
            writer.flush(0.5)
        assert time.monotonic() - began < 5
        assert epochs(on_sqlite) == [0], "readers go on, too"
        assert sum(path.stat().st_size for path in spools(tmp_path)) > 199 * 30
        other.execute("ROLLBACK")
        writer.flush(20)
        assert epochs(on_sqlite) == list(range(200))
    other.close()


def test_while_postgresql_is_restarted_appends_go_on_and_all_arrives(postgres, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    journal = Journal(postgres.uri("restarted"))
    with writing(journal, "a", tmp_path) as writer:
        append(writer, [0])
        writer.flush()
        postgres.stop()
        try:
            began = time.monotonic()
            append(writer, range(1, 200))
            assert time.monotonic() - began < 1
            with pytest.raises(KdcurveError, match=r"did not take 199 events within 0\.5 s"):
                writer.flush(0.5)
            assert time.monotonic() - began < 5
        finally:
            postgres.start()
        writer.flush(20)
        assert epochs(journal) == list(range(200))
        append(writer, [200])
    assert epochs(journal) == list(range(201))
    said = [r.getMessage() for r in caplog.records if "does not answer" in r.getMessage()]
    assert len(said) >= 1
    assert all("\n" not in each and postgres.password not in each for each in said)
    journal.close()


def test_what_a_database_that_is_away_did_not_take_is_kept_for_the_next_writer(
    on_sqlite, switch, tmp_path
):
    writer = Writer(on_sqlite, "a", tmp_path)
    append(writer, [0])
    writer.flush()
    switch.away = True
    append(writer, [1, 2])
    for timeout_s in (0.1, 60):  # the second time nobody is left to wait for
        began = time.monotonic()
        with pytest.raises(KdcurveError, match=f"did not take 2 events .* kept in {tmp_path}"):
            writer.close(timeout_s)
        assert time.monotonic() - began < 5
    assert epochs(on_sqlite) == [0]
    switch.away = False
    with writing(on_sqlite, "a", tmp_path, take_over=True) as writer:
        assert epochs(on_sqlite) == [0, 1, 2]
        append(writer, [3])
    assert epochs(on_sqlite) == [0, 1, 2, 3]
    assert set_aside(tmp_path) == []


def test_while_the_database_is_away_the_spool_is_handed_to_the_disk(
    on_sqlite, switch, tmp_path, monkeypatch
):
    """A power cut would cost all that waits; again and again, since more comes."""
    synced = []
    monkeypatch.setattr(writers.os, "fsync", lambda file: synced.append(file.name))
    writer = Writer(on_sqlite, "a", tmp_path)
    switch.away = True
    append(writer, [0])
    for _ in range(2):
        synced.clear()
        wait_for(lambda: set(synced) == set(map(str, spools(tmp_path))))
    switch.away = False
    writer.close()


def test_a_database_that_never_answers_does_not_keep_a_search_from_ending(
    on_sqlite, switch, tmp_path, monkeypatch
):
    monkeypatch.setattr(writers, "_JOIN_TIMEOUT_S", 0.2)
    writer = Writer(on_sqlite, "a", tmp_path)
    append(writer, [0])
    writer.flush()
    switch.hangs = True
    append(writer, [1, 2])
    began = time.monotonic()
    with pytest.raises(KdcurveError, match="did not take 2 events"):
        writer.close(timeout_s=0.3)
    assert time.monotonic() - began < 3
    # It answers at last: the thread finishes what it was about, and gives the search free.
    switch.back.set()
    writer._thread.join(20)
    assert epochs(on_sqlite) == [0, 1, 2]
    assert (running(on_sqlite), spools(tmp_path)) == ({}, [])


def test_a_postgresql_that_is_frozen_does_not_keep_a_search_from_ending(
    postgres, tmp_path, monkeypatch
):
    monkeypatch.setattr(writers, "_JOIN_TIMEOUT_S", 0.2)
    journal = Journal(postgres.uri("frozen"))
    writer = Writer(journal, "a", tmp_path)
    append(writer, [0])
    writer.flush()
    leader = psutil.Process(
        int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
    )
    server = [leader, *leader.children(recursive=True)]
    for process in server:
        process.suspend()
    try:
        began = time.monotonic()
        append(writer, [1, 2])
        with pytest.raises(KdcurveError, match="did not take 2 events"):
            writer.close(timeout_s=0.5)
        assert time.monotonic() - began < 5
    finally:
        for process in server:
            process.resume()
    writer._thread.join(20)
    with writing(journal, "a", tmp_path):
        assert epochs(journal) == [0, 1, 2]
    journal.close()


@pytest.mark.parametrize("lost", [1, 3])
def test_a_commit_whose_answer_was_lost_is_not_taken_for_anothers(
    journal, tmp_path, monkeypatch, lost
):
    whole, left = journal.write_rows, lost

    def answerless(search, rows, permit):
        nonlocal left
        whole(search, rows, permit)
        if rows and left:
            left -= 1
            raise sa.exc.OperationalError("COMMIT", {}, Exception("connection lost"))

    monkeypatch.setattr(journal, "write_rows", answerless)
    with writing(journal, "a", tmp_path) as writer:
        append(writer, range(5))
        wait_for(lambda: left < lost)
        append(writer, range(5, 10))
        writer.flush(20)
        assert left == 0
        assert epochs(journal) == list(range(10))


def test_an_answer_lost_to_the_end_of_the_connection_is_no_loss(postgres, tmp_path):
    """The server ends its side again and again while a search writes."""
    journal = Journal(postgres.uri("cut_off"))
    other = sa.create_engine(postgres.uri("cut_off"), poolclass=sa.NullPool)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut_off' AND "
    with writing(journal, "a", tmp_path) as writer:
        for epoch in range(300):
            append(writer, [epoch])
            if epoch % 10 == 0:
                with other.connect() as connection:
                    connection.exec_driver_sql(cut + "pid <> pg_backend_pid()")
            time.sleep(0.005)
        writer.flush(20)
    assert epochs(journal) == list(range(300))
    journal.close()


# Another writer


def go_on(writer, epochs):
    """What another did may be found out while appending or after it."""
    append(writer, epochs)
    writer.flush(20)


@pytest.mark.parametrize("shared", [True, False], ids=["one folder", "two folders"])
def test_a_writer_that_is_taken_over_stops_and_writes_nothing_more(journal, tmp_path, shared):
    folders = [tmp_path, tmp_path if shared else tmp_path / "other"]
    first = Writer(journal, "a", folders[0])
    append(first, [0, 1])
    first.flush()
    with writing(journal, "a", folders[1], take_over=True) as second:
        append(second, [2])
        second.flush()
        with pytest.raises(TakenOverError, match=f"taken over by process {os.getpid()} on"):
            go_on(first, [100, 101])
        with pytest.raises(TakenOverError):
            append(first, [102])
        with pytest.raises(TakenOverError):
            first.close()
        append(second, [3])
        second.flush()
        assert spools(folders[1]), "the first has left them alone"
    assert epochs(journal) == [0, 1, 2, 3]


def test_the_lease_is_asked_with_every_write(journal, tmp_path, monkeypatch):
    """However long ago it was renewed: a process that slept has nothing to say any more."""
    first = Writer(journal, "a", tmp_path / "first")
    append(first, [0])
    first.flush()
    Lease(journal, "a", take_over=True)
    with pytest.raises(TakenOverError):
        go_on(first, [1])
    assert epochs(journal) == [0]


def test_a_process_that_writes_without_a_lease_is_found_out(journal, tmp_path):
    writer = Writer(journal, "a", tmp_path)
    append(writer, [0])
    writer.flush()
    journal.append("a", [report(99)])
    with pytest.raises(ConflictError, match="'a' has another event 2"):
        go_on(writer, [1])
    with pytest.raises(ConflictError):
        append(writer, [2])
    with pytest.raises(ConflictError):
        writer.close()
    assert epochs(journal) == [0, 99]
    assert len(spools(tmp_path)) == 1, "what it could not write is kept"


# What a killed process leaves

KILLED_OFTEN = """
import json, os, random, signal, sys, time
from pathlib import Path
from search.journal import EventKind, Journal
from search.writer import Writer

uri, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
Journal(uri).close()
told = []
for life in range(kills):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        writer = Writer(Journal(uri), "a", folder)
        while True:
            entries = [(EventKind.REPORTED, life, {})] * chance.choice([1, 1, 3])
            for event in writer.append(entries):
                os.write(write, b"%d\\n" % event.number)
            time.sleep(chance.choice([0, 0, 0, 0.001]))
    os.close(write)
    with os.fdopen(read) as answers:
        if life % 2:
            told.append(int(answers.readline()))
        time.sleep(chance.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        if life % 3:
            os.waitpid(pid, 0)
        told += [int(line) for line in answers if line.endswith("\\n")]
    if life % 3 == 0:
        os.waitpid(pid, os.WNOHANG)  # a zombie is no holder
    journal = Journal(uri)
    writer = Writer(journal, "a", folder)
    numbers = [event.number for event in journal.events("a")]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    assert told == sorted(set(told))
    assert set(told) <= set(numbers), set(told) - set(numbers)
    lives = [event.trial for event in journal.events("a")]
    assert lives == sorted(lives)
    writer.close()
    journal.close()
print(json.dumps([len(told), len(numbers), [path.name for path in folder.iterdir()]]))
"""


def test_no_event_is_lost_doubled_or_out_of_order_in_a_process_that_is_killed(record_uri, tmp_path):
    """At twenty moments, among them the making of the spool and the recovery."""
    command = [sys.executable, "-c", KILLED_OFTEN, record_uri, str(tmp_path / "a"), "20", "7"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    told, recorded, left = json.loads(done.stdout)
    assert recorded >= told > 1000
    assert left == []


def test_a_search_killed_before_its_first_commit_is_recorded(on_sqlite, switch, tmp_path):
    first = Writer(on_sqlite, "a", tmp_path)
    switch.away = True
    first.append([(EventKind.PLANNED, None, {"epoch": 0}), report(1)])
    abandon(first)
    switch.away = False
    with writing(on_sqlite, "a", tmp_path, take_over=True):
        assert on_sqlite.searches() == ["a"]
        assert epochs(on_sqlite) == [0, 1]


def abandon(writer):
    """Leave a writer as a kill would: its thread does nothing more, its files stay."""
    writer._spool.close = lambda committed: None
    writer._closing.set()
    writer._wake.set()
    writer._thread.join(20)


def line(*fields):
    """A line of a spool with one event; its data are JSON of their own."""
    number, epoch = fields
    data = json.dumps({"epoch": epoch, "metrics": {}})
    return "\n" + json.dumps([[number, 1e9 + number, "reported", 0, data]])


@pytest.fixture
def spool(on_sqlite, tmp_path):
    """Lay out a spool as an earlier process left it: the texts of one or two files."""
    on_sqlite.append("a", [report(0), report(1)])

    def lay(*texts):
        for i, text in enumerate(texts, start=1):
            data = text if isinstance(text, bytes) else text.encode()
            (tmp_path / f"events-{on_sqlite.identity[:8]}-{i}.spool").write_bytes(data)

    return lay


def recovered(journal, folder):
    with writing(journal, "a", folder) as writer:
        found = epochs(journal)
        assert append(writer, [99]) == [len(found) + 1]
    assert epochs(journal) == [*found, 99]
    assert spools(folder) == []
    return found


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param([line(3, 2) + line(4, 3)], id="one file"),
        pytest.param([line(3, 2), line(4, 3)], id="two files"),
        pytest.param([line(4, 3), line(3, 2)], id="the second is the older one"),
        pytest.param(["", line(3, 2) + line(4, 3)], id="an empty file"),
        pytest.param([line(3, 8) + line(3, 2) + line(4, 3)], id="one given up and made again"),
    ],
)
def test_what_a_killed_process_left_is_recorded(on_sqlite, spool, tmp_path, texts):
    spool(*texts)
    assert recovered(on_sqlite, tmp_path) == [0, 1, 2, 3]
    assert set_aside(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(line(5, 4)[:-1], id="torn"),
        pytest.param(line(5, 4)[:3], id="torn at once"),
        pytest.param("\n" + 4096 * "\x00", id="zeros"),
        pytest.param("\ngarbage", id="no JSON"),
        pytest.param('\n[[5, 1.0, "no kind", 0, "{}"]]', id="a kind nobody knows"),
        pytest.param('\n[["5", 1.0, "reported", 0, "{}"]]', id="a number that is none"),
        pytest.param('\n[[5, 1.0, "reported", 0, "{"]]', id="data that are none"),
        pytest.param('\n{"5": 4}', id="another thing"),
        pytest.param("\n17", id="yet another"),
        pytest.param("\n" + 100_000 * "[", id="deep"),
        pytest.param(b"\n\xff\xfe\x80", id="no text"),
    ],
)
@pytest.mark.parametrize("at", ["end", "middle", "beginning"])
def test_damage_costs_no_event_that_can_be_read(on_sqlite, spool, tmp_path, caplog, damage, at):
    damage = damage if isinstance(damage, bytes) else damage.encode()
    good = [line(3, 2).encode(), line(4, 3).encode()]
    good.insert({"beginning": 0, "middle": 1, "end": 2}[at], damage)
    spool(b"".join(good))
    assert recovered(on_sqlite, tmp_path) == [0, 1, 2, 3]
    (kept,) = set_aside(tmp_path)
    assert kept.read_bytes() == b"".join(good)
    assert f"{kept} is kept" in caplog.text


def test_what_was_committed_but_not_cleared_is_there_once(on_sqlite, tmp_path):
    first = Writer(on_sqlite, "a", tmp_path)
    append(first, [0, 1, 2])
    first._spool.clear = lambda committed: None
    first.flush()
    abandon(first)
    assert sum(path.stat().st_size for path in spools(tmp_path)) > 0
    assert recovered(on_sqlite, tmp_path) == [0, 1, 2]
    assert set_aside(tmp_path) == []


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        pytest.param([line(7, 6) + line(8, 7)], "ends before its event 6", id="a gap before"),
        pytest.param([line(2, 7) + line(3, 8)], "has another event 2", id="another's events"),
        pytest.param([line(1, 7), line(4, 8)], "has another event 1", id="all of it another's"),
    ],
)
def test_what_does_not_continue_the_record_is_kept_and_told(
    on_sqlite, spool, tmp_path, caplog, texts, why
):
    spool(*texts)
    assert recovered(on_sqlite, tmp_path) == [0, 1]
    assert [path.read_text() for path in set_aside(tmp_path)] == texts
    assert why in caplog.text


def test_after_a_gap_nothing_is_recorded_but_all_is_kept(on_sqlite, spool, tmp_path):
    texts = [line(3, 2) + line(5, 4), line(6, 5)]
    spool(*texts)
    assert recovered(on_sqlite, tmp_path) == [0, 1, 2]
    assert [path.read_text() for path in set_aside(tmp_path)] == texts


def test_two_records_do_not_take_each_others_spool_in_one_folder(tmp_path):
    """Two records with a search of one name, in the same home."""
    journals = [Journal(f"sqlite:///{tmp_path / name}") for name in ("one.db", "two.db")]
    first, second = (Writer(journal, "a", tmp_path) for journal in journals)
    append(first, [0, 1])
    append(second, [7])
    abandon(first)
    second.close()
    assert epochs(journals[1]) == [7]
    with writing(journals[1], "a", tmp_path):
        pass
    with writing(journals[0], "a", tmp_path, take_over=True):
        assert epochs(journals[0]) == [0, 1]


# A full disk


@contextlib.contextmanager
def no_file_longer_than(size):
    """As on a full disk, a write goes as far as there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.faults
def test_a_full_disk_is_one_clear_error_and_costs_nothing_that_was_recorded(
    on_sqlite, switch, tmp_path
):
    writer = Writer(on_sqlite, "a", tmp_path)
    switch.away = True
    append(writer, [0, 1])
    before = {path: path.read_bytes() for path in spools(tmp_path)}
    for room in (40, 0, -10):
        size = max(map(len, before.values()))
        with no_file_longer_than(size + room), pytest.raises(KdcurveError) as refused:
            writer.append([report(2, note="x" * 500), report(3)])
        assert str(refused.value).startswith(f"cannot write to {tmp_path}: ")
        assert str(refused.value).endswith("recorded, and the search can be resumed")
        assert {path: path.read_bytes() for path in spools(tmp_path)} == before
    assert append(writer, [2]) == [3], "there is room again"
    abandon(writer)
    switch.away = False
    with writing(on_sqlite, "a", tmp_path, take_over=True):
        assert epochs(on_sqlite) == [0, 1, 2]
    assert set_aside(tmp_path) == []


def test_a_write_that_cannot_be_taken_back_does_no_harm(on_sqlite, switch, tmp_path, monkeypatch):
    writer = Writer(on_sqlite, "a", tmp_path)
    switch.away = True
    append(writer, [0])
    size = max(path.stat().st_size for path in spools(tmp_path))
    file = writer._spool._active._file

    class Untruncated:
        def __getattr__(self, name):
            return getattr(file, name)

        def truncate(self, size):
            raise OSError("the disk is gone")

    writer._spool._active._file = Untruncated()
    with no_file_longer_than(size + 40), pytest.raises(KdcurveError, match="cannot write to"):
        writer.append([report(1, note="x" * 500)])
    writer._spool._active._file = file
    assert append(writer, [1, 2]) == [2, 3]
    abandon(writer)
    switch.away = False
    with writing(on_sqlite, "a", tmp_path, take_over=True):
        assert epochs(on_sqlite) == [0, 1, 2]


# What the data may be


NO_JSON = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2}


def test_numbers_that_json_has_no_words_for_survive(journal, tmp_path):
    with writing(journal, "a", tmp_path) as writer:
        writer.append([report(0, **NO_JSON)])
    (event,) = journal.events("a")
    assert event.data["metrics"] == pytest.approx(NO_JSON, rel=0, abs=0, nan_ok=True)


def test_numbers_that_json_has_no_words_for_survive_a_kill(on_sqlite, switch, tmp_path):
    first = Writer(on_sqlite, "a", tmp_path)
    switch.away = True
    first.append([report(0, **NO_JSON)])
    abandon(first)
    switch.away = False
    with writing(on_sqlite, "a", tmp_path, take_over=True):
        (event,) = on_sqlite.events("a")
    assert event.data["metrics"] == pytest.approx(NO_JSON, rel=0, abs=0, nan_ok=True)


def test_what_is_not_json_is_refused_and_the_rest_goes_on(journal, tmp_path):
    with writing(journal, "a", tmp_path) as writer:
        append(writer, [0])
        for data in (object(), {1}, 1j, b"bytes"):
            with pytest.raises(KdcurveError, match="not JSON serializable"):
                writer.append([report(7), report(8, accuracy=data), report(9)])
        assert append(writer, [1]) == [2]
    assert epochs(journal) == [0, 1]


def test_what_happens_to_the_data_later_changes_nothing(on_sqlite, switch, tmp_path):
    with writing(on_sqlite, "a", tmp_path) as writer:
        switch.away = True
        metrics = {"val_accuracy": 0.5}
        writer.append([(EventKind.REPORTED, 0, {"epoch": 0, "metrics": metrics})])
        metrics["val_accuracy"] = 0.9
        switch.away = False
    (event,) = on_sqlite.events("a")
    assert event.data["metrics"] == {"val_accuracy": 0.5}

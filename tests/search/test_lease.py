import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from search import database, lease
from search.errors import KdcurveError
from search.journal import Journal
from search.lease import RENEW_S, Holder, Lease, TakenOverError, running

HOLD = """
import sys, time
from search.journal import Journal
from search.lease import Lease
held = Lease(Journal(sys.argv[1]), "a")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def journal(record_uri):
    return Journal(record_uri)


@pytest.fixture
def process(journal):
    """Another process that holds the lease of the search "a"."""
    held = subprocess.Popen([sys.executable, "-c", HOLD, journal.uri], stdout=subprocess.PIPE)
    assert held.stdout.readline() == b"held\n"
    yield held
    held.kill()
    held.communicate()


def held_by(journal, holder, silent_s=0.0):
    """A lease that a holder took and has not shown itself under for some seconds."""
    row = {"search": "a", "token": "theirs", "since": 1e9, "renewed": time.time() - silent_s}
    with journal.transaction() as connection:
        connection.execute(database.leases.insert().values(**asdict(holder), **row))


def elsewhere():
    return replace(Holder.here(), machine="another machine", host="node7", pid=4711)


def owner(journal):
    with journal.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT search, pid FROM kdcurve_leases")
        return {row.search: row.pid for row in rows}


@pytest.mark.faults
def test_a_second_process_is_refused_and_told_who_runs_the_search(journal, process):
    with pytest.raises(KdcurveError) as refused:
        Lease(journal, "a")
    holder = Holder.here()
    assert f"'a' is held by process {process.pid} on {holder.host} since " in str(refused.value)
    assert f"stop it with Ctrl-C there or: kill {process.pid}" in str(refused.value)
    assert "--take-over" not in str(refused.value), "killing it is enough"
    assert owner(journal) == {"a": process.pid}


def test_other_searches_of_the_record_are_free(journal, process):
    Lease(journal, "b")
    assert owner(journal) == {"a": process.pid, "b": os.getpid()}


def test_a_released_lease_is_free_and_releasing_twice_harms_nobody(journal):
    first = Lease(journal, "a")
    first.release()
    second = Lease(journal, "a")
    first.release()
    with journal.transaction() as connection:
        second.renew(connection)


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_was_killed_on_this_machine_is_replaced_at_once(journal, process, reaped):
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:  # nobody has asked how it ended: it is there still, as a zombie
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    assert running(journal) == {}
    Lease(journal, "a")
    assert owner(journal) == {"a": os.getpid()}


def test_a_process_whose_number_is_used_again_is_replaced(journal):
    """The number is this process's, which was born later."""
    held_by(journal, replace(Holder.here(), born=Holder.here().born - 60))
    Lease(journal, "a")


@pytest.mark.skipif(not hasattr(psutil, "_pslinux"), reason="how Linux tells its start")
@pytest.mark.parametrize("step_s", [-7200.0, 86_400.0])
@pytest.mark.faults
def test_a_clock_that_is_set_makes_nobody_look_gone(journal, process, monkeypatch, step_s):
    booted = psutil.boot_time()
    for module in (psutil, psutil._pslinux):
        monkeypatch.setattr(module, "boot_time", lambda: booted + step_s)
    assert psutil.boot_time() == booted + step_s
    with pytest.raises(KdcurveError, match=f"process {process.pid} "):
        Lease(journal, "a")


def test_a_machine_that_was_started_again_has_lost_its_processes(journal):
    held_by(journal, replace(Holder.here(), boot="the one before"))
    assert running(journal) == {}
    Lease(journal, "a")


@pytest.mark.parametrize(
    "holder",
    [
        pytest.param(elsewhere(), id="machine"),
        pytest.param(replace(elsewhere(), boot="another"), id="its boot says nothing"),
        pytest.param(replace(Holder.here(), namespace="pid:[1]", pid=4711), id="container"),
    ],
)
def test_a_process_elsewhere_is_replaced_by_people_only(journal, holder):
    held_by(journal, holder, silent_s=3600)
    with pytest.raises(KdcurveError) as refused:
        Lease(journal, "a")
    said = str(refused.value)
    assert f"held by process 4711 on {holder.host} since 2001-09-" in said
    assert re.search(rf"last showed itself 36\d\d s ago \(it does every {RENEW_S:g} s\)", said)
    assert said.endswith("kdcurve resume a --take-over")
    assert running(journal)["a"].startswith(f"process 4711 on {holder.host} since")
    Lease(journal, "a", take_over=True)
    assert owner(journal) == {"a": os.getpid()}


def test_who_was_replaced_may_not_write_and_is_told_by_whom(journal):
    first = Lease(journal, "a")
    second = Lease(journal, "a", take_over=True)
    with (
        pytest.raises(TakenOverError, match=f"'a' was taken over by process {os.getpid()} on "),
        journal.transaction() as connection,
    ):
        first.renew(connection)
    with journal.transaction() as connection:
        second.renew(connection)
    second.release()
    with pytest.raises(TakenOverError, match="taken over;"), journal.transaction() as connection:
        first.renew(connection)


def test_a_holder_shows_itself_by_renewing(journal):
    mine = Lease(journal, "a")
    before = time.time()
    with journal.transaction() as connection:
        mine.renew(connection)
    with journal.engine.connect() as connection:
        renewed = connection.exec_driver_sql("SELECT renewed FROM kdcurve_leases").scalar()
    assert before <= renewed <= time.time()


def test_searches_that_run_are_listed_until_they_end(journal):
    one, other = Lease(journal, "a"), Lease(journal, "b")
    assert sorted(running(journal)) == ["a", "b"]
    one.release()
    assert list(running(journal)) == ["b"]
    assert running(journal)["b"].startswith(f"process {os.getpid()} on ")
    other.release()
    assert running(journal) == {}


TAKE = """
import os, time
from search.journal import Journal
from search.lease import Holder, Lease
gone = Holder.gone.fget
Holder.gone = property(lambda self: (gone(self), time.sleep(0.02))[0])  # all look before one acts
journal = Journal(arguments[0])
answer = []
for name in arguments[1:]:
    try:
        Lease(journal, name)
        answer.append([os.getpid(), "won"])
    except Exception as error:
        answer.append([os.getpid(), str(error)])
"""


@pytest.mark.parametrize("left", ["free", "by a killed process"])
def test_of_processes_that_race_for_a_lease_exactly_one_wins(journal, at_once, left):
    names = [f"race-{i}" for i in range(8)]
    if left != "free":
        gone = replace(Holder.here(), born=Holder.here().born - 60)
        for name in names:
            held_by(journal, gone)
            with journal.transaction() as connection:
                connection.exec_driver_sql(
                    f"UPDATE kdcurve_leases SET search = '{name}' WHERE search = 'a'"
                )
    by_process = at_once(5, TAKE, journal.uri, *names)
    owners = owner(journal)
    for race, name in zip(zip(*by_process, strict=True), names, strict=True):
        (winner,) = [pid for pid, said in race if said == "won"]
        assert owners[name] == winner
        said = [each for _, each in race if each != "won"]
        assert len(said) == 4
        assert all(f"held by process {winner} on" in each for each in said)


def test_a_database_that_fails_is_one_clear_line(tmp_path):
    Journal(f"sqlite:///{tmp_path / 'record.db'}").close()
    reader = Journal(f"sqlite:///file:{tmp_path / 'record.db'}?mode=ro&uri=true", create=False)
    with pytest.raises(KdcurveError, match=r"cannot write to the record: .*readonly"):
        Lease(reader, "a")


def test_this_process_is_not_gone():
    assert not Holder.here().gone
    assert Holder.here() == Holder.here()
    assert lease._machine()[1], "Linux has a name for the time since it was started"

"""A word before a disk is full, and a stop at the edge."""

import shutil
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest

from search.reserves import LOOK_EVERY_S, Reserves

pytestmark = pytest.mark.faults

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Reserves of one disk with 1000 GiB, looked at whenever its free space is set."""
    now, said = [0.0], []
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(percent=50.0))
    watch = Reserves((tmp_path, tmp_path), said.append, clock=lambda: now[0])

    def look(free, total=1000 * GIB):
        now[0] += LOOK_EVERY_S
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))
        return watch.stop_all()

    return watch, look, said


def test_the_user_is_told_once_and_the_search_stops_at_the_edge(watched, tmp_path):
    watch, look, said = watched
    assert not look(20 * GIB)
    assert said == []
    assert not look(4 * GIB)
    assert not look(3 * GIB)
    assert said == [f"4096 MiB are left on the disk of {tmp_path}; the search stops at 256 MiB"], (
        "one disk, told once"
    )
    assert look(0.1 * GIB)
    assert said[1:] == [f"stopping: 102 MiB are left on the disk of {tmp_path}; make space, "
                        "then resume"]  # fmt: skip
    assert look(20 * GIB), "it does not change its mind"
    assert watch.exhausted == f"102 MiB are left on the disk of {tmp_path}"


def test_a_small_disk_is_judged_by_its_share(watched):
    _, look, said = watched
    assert not look(1 * GIB, total=8 * GIB)
    assert said == []
    assert not look(0.5 * GIB, total=8 * GIB)
    assert len(said) == 1
    assert look(0.1 * GIB, total=8 * GIB)


def test_a_machine_short_of_memory_is_named_once(watched):
    watch, look, said = watched
    assert not watch("trial", {"hostname": "one", "memory_used": 0.5})
    assert not watch("trial", {"hostname": "two", "memory_used": 0.93})
    assert not watch("trial", {"hostname": "two", "memory_used": 0.94})
    assert [text.partition(";")[0] for text in said] == ["93% of the memory of two are taken"]
    assert not look(20 * GIB)

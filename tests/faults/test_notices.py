"""Notices reach Ray: AWS's metadata service, and a plain SIGTERM."""

import threading

import pytest

from search.notices import TERMINATION_S, Metadata, watch
from tests.faults.metadata import service

pytestmark = pytest.mark.faults


@pytest.fixture
def aws():
    with service() as (state, address):
        yield state, address


class Watching:
    """A watch in a thread, as it runs on a worker."""

    def __init__(self, address):
        self.drained, self.said, self.terminated = [], [], threading.Event()
        self._thread = threading.Thread(
            target=watch,
            args=(
                Metadata(address),
                lambda why, left_s: self.drained.append((why, left_s)),
                self.terminated,
                self.said.append,
                0.05,
            ),
        )
        self._thread.start()

    def ended(self, timeout_s):
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def test_a_notice_drains_the_machine_with_the_time_that_is_left(aws):
    state, address = aws
    watching = Watching(address)
    assert not watching.ended(0.3)
    assert watching.drained == []
    state.notice(left_s=120)
    assert watching.ended(10)
    ((why, left_s),) = watching.drained
    assert why == "spot notice"
    assert 100 < left_s <= 120
    assert watching.said == []


def test_a_time_that_has_passed_leaves_nothing(aws):
    state, address = aws
    state.notice(left_s=-60)
    watching = Watching(address)
    assert watching.ended(10)
    assert watching.drained == [("spot notice", 0.0)]


def test_sigterm_is_a_notice_too_and_a_service_in_trouble_is_asked_on(aws):
    state, address = aws
    state.status = 503
    watching = Watching(address)
    assert not watching.ended(0.5)
    assert len(watching.said) == 1, "told once"
    assert "503" in watching.said[0]
    watching.terminated.set()
    assert watching.ended(10)
    assert watching.drained == [("SIGTERM", TERMINATION_S)]


def test_where_there_is_no_such_service_sigterm_is_watched_all_the_same(aws):
    watching = Watching("http://127.0.0.1:1")
    watching.terminated.set()
    assert watching.ended(10)
    assert watching.drained == [("SIGTERM", TERMINATION_S)]

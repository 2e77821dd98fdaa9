"""Run a search: connect to Ray, prepare what is shared, let Tune schedule, close the record."""

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from filelock import FileLock

from analysis.errors import AnalysisError
from search.cluster import concurrent_trials, connected
from search.early import effect
from search.extension import check_extension
from search.journal import EventKind, Journal, check_name
from search.ledger import Ledger
from search.places import Places
from search.plan import settle
from search.preflight import preflight
from search.preparation import prepare_shared
from search.publish import Answers, publish
from search.reserves import Reserves
from search.samplers.presence import check_sampler
from search.space import SearchSpec
from search.supervision import supervise
from search.tracking import Delivery
from search.tuning import tune_trials
from search.writer import Writer, writing
from trainables.record import SearchState

DELIVERY_TIMEOUT_S = 120.0
"""How long the end of a search waits for MLflow."""
_PACKAGES = ("kdcurve", "torch", "ray", "optuna", "mlflow", "numpy")


class Watcher(Protocol):
    """Whoever wants to follow a search, e.g. `search.display.Display`."""

    def say(self, text: str) -> None:
        """Take note of a line."""

    def watching(self, spec: SearchSpec, ledger: Ledger) -> contextlib.AbstractContextManager[None]:
        """Follow the trials while the context is open."""

    def following(self, line: Callable[[], str]) -> contextlib.AbstractContextManager[None]:
        """Show a line that changes while the context is open."""


class Silent:
    """A watcher that shows nothing."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def watching(self, spec: SearchSpec, ledger: Ledger) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def following(self, line: Callable[[], str]) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()


@dataclass(frozen=True)
class SearchResult:
    """How a search ended."""

    name: str
    state: SearchState
    ledger: Ledger
    answers: Answers | None
    no_answers: str | None
    """Why there are no answers, if there are none."""
    undelivered: str | None
    """Why not all of the record reached MLflow, if it did not."""


def run(
    spec: SearchSpec,
    places: Places | None = None,
    *,
    address: str | None = None,
    look_first: bool = True,
    watcher: Watcher | None = None,
) -> SearchResult:
    """Run a new search to its end.

    Args:
        spec: the search (`search.load_spec` reads one from a file).
        places: where things live; ``./kdcurve-data`` by default.
        address: of a running Ray cluster; by default Ray is started on this machine,
            bound to the loopback interface, and stopped afterwards.
        look_first: look at every machine of a cluster before anything is started on it.
        watcher: follows the progress.

    Raises:
        UsageError: the name is taken, or the sampler is not there.
        KdcurveError: a folder, the record, MLflow or Ray cannot be used, a trial asks for
            more than the cluster has, or a teacher or the scores could not be made.
    """
    places = places or Places.at()
    watcher = watcher or Silent()
    spec = settle(spec)
    check_sampler(spec.sampler)
    places.make()
    with one_at_a_time(places):
        journal = Journal(places.record)
        check_name(journal, spec.name)
        delivery = Delivery(journal, spec, places, watcher.say)
        notice = delivery.check(new=True)
    with (
        writing(journal, spec.name, places.folder(spec.name)) as writer,
        connected(places.folder(spec.name), address),
        stopping_cleanly(watcher) as stopping,
    ):
        check_name(journal, spec.name)  # again, now that no other process can take it
        concurrent = concurrent_trials(spec, address, watcher.say)
        if look_first:
            preflight(spec, places, watcher.say, alone=address is not None)
        if notice:
            watcher.say(notice)
        ledger = Ledger(journal, spec.name, writer.append)
        # From here on the name is taken: all that can be refused has been refused.
        ledger.record(
            EventKind.PLANNED,
            spec=_plain(spec),
            versions={name: importlib.metadata.version(name) for name in _PACKAGES},
            git_commit=_git_commit(),
            hardware={"machine": platform.machine(), "cpus": os.cpu_count()},
        )
        return _carry_out(places, ledger, writer, delivery, concurrent, watcher, stopping)


def resume(
    name: str,
    places: Places | None = None,
    *,
    extended: SearchSpec | None = None,
    take_over: bool = False,
    address: str | None = None,
    look_first: bool = True,
    watcher: Watcher | None = None,
) -> SearchResult:
    """Go on with a search that was interrupted; nothing that finished is repeated.

    Trials that were under way go on from their newest checkpoint.

    Args:
        name: of the search.
        places: where things live; ``./kdcurve-data`` by default.
        extended: the same search with more contexts, seeds or budget; it then goes on with that,
            even if it was complete.
        take_over: break the lease of a process on another machine that is gone for good.
        address: of a running Ray cluster; by default Ray is started on this machine.
        look_first: look at every machine of a cluster before anything is started on it.
        watcher: follows the progress.

    Raises:
        UsageError: what is extended would not be comparable to what was run, or the sampler is
            not there.
        KdcurveError: there is no such search, another process runs it, or one of the places
            cannot be used.
    """
    places = places or Places.at()
    watcher = watcher or Silent()
    places.make()
    with one_at_a_time(places):
        journal = Journal(places.record)
        spec = Ledger(journal, name).spec
        if extended is not None:
            extended = settle(extended)
            check_extension(spec, extended)
            spec = extended
        check_sampler(spec.sampler)
        delivery = Delivery(journal, spec, places, watcher.say)
        notice = delivery.check()
    with (
        writing(journal, name, places.folder(name), take_over=take_over) as writer,
        connected(places.folder(name), address),
        stopping_cleanly(watcher) as stopping,
    ):
        concurrent = concurrent_trials(spec, address, watcher.say)
        if look_first:
            preflight(spec, places, watcher.say, alone=address is not None)
        if notice:
            watcher.say(notice)
        ledger = Ledger(journal, name, writer.append)
        changed: dict[str, Any] = {} if extended is None else {"spec": _plain(extended)}
        spent = None if ledger.unfinished() else ledger.reason
        ledger.record(EventKind.RESUMED, None, **changed)
        if extended is None and spent is not None:
            watcher.say(
                f"the budget is spent ({spent}); to go on, give the search more of it: "
                f"kdcurve resume {name} --file F"
            )
        return _carry_out(places, ledger, writer, delivery, concurrent, watcher, stopping)


@contextlib.contextmanager
def one_at_a_time(places: Places) -> Iterator[None]:
    """Two first searches in a home must not create its databases at once."""
    with FileLock(places.home / "lock"):
        yield


def _carry_out(
    places: Places,
    ledger: Ledger,
    writer: Writer,
    delivery: Delivery,
    concurrent: int,
    watcher: Watcher,
    stopping: threading.Event,
) -> SearchResult:
    spec = ledger.spec
    state = SearchState.FAILED
    reason = None
    reserves = Reserves((places.folder(spec.name), places.storage), watcher.say)
    writer.flush()
    delivery.start()
    try:
        prepare_shared(spec, places, ledger, watcher.say)
        with watcher.watching(spec, ledger):
            reason = supervise(
                lambda: tune_trials(spec, places, ledger, concurrent, reserves),
                ledger,
                lambda: stopping.is_set() or reserves.exhausted is not None,
                watcher.say,
            )
        state = SearchState.INTERRUPTED if reason is None else SearchState.COMPLETE
    except KeyboardInterrupt:
        state = SearchState.INTERRUPTED
    finally:
        ledger.record(
            EventKind.CLOSED, state=state, reason=reason, early_stopping=effect(spec, ledger)
        )
        answers, no_answers = _answer(ledger, places)
        undelivered = deliver_rest(ledger, writer, delivery, watcher)
    return SearchResult(spec.name, state, ledger, answers, no_answers, undelivered)


def _answer(ledger: Ledger, places: Places) -> tuple[Answers | None, str | None]:
    try:
        return publish(ledger, places), None
    except (AnalysisError, OSError) as error:
        return None, str(error)


def deliver_rest(
    ledger: Ledger, writer: Writer, delivery: Delivery, watcher: Watcher
) -> str | None:
    """Wait for MLflow; returns why it does not have all, if so."""
    ended = len(ledger.trials) - len(ledger.unfinished())

    def waiting() -> None:
        watcher.say(
            f"delivering to MLflow: {delivery.delivered} of {ended} trials, waiting up to "
            f"{DELIVERY_TIMEOUT_S:.0f} s (Ctrl-C leaves the rest to kdcurve sync)"
        )

    try:
        writer.flush()
        if delivery.finish(DELIVERY_TIMEOUT_S, waiting):
            return None
    except KeyboardInterrupt:
        return "delivery was cut off"
    refused = [f"{name}: {why}" for name, why in delivery.refused.items()]
    return delivery.failure or "; ".join(refused) or "its time was over"


@contextlib.contextmanager
def stopping_cleanly(watcher: Watcher) -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM end a search between two reports; a second one ends it at once.

    While Tune runs it ends its loop on SIGUSR1; elsewhere a KeyboardInterrupt does no harm.

    Yields:
        What is set once someone asked for that.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping  # signals are the caller's
        return

    def stop(_: int, __: FrameType | None) -> None:
        tune_listens = signal.getsignal(signal.SIGUSR1) is not before[signal.SIGUSR1]
        if stopping.is_set() or not tune_listens:
            raise KeyboardInterrupt
        stopping.set()
        watcher.say("stopping; what has ended is recorded (again to leave at once)")
        signal.raise_signal(signal.SIGUSR1)

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plain(spec: SearchSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True)


def _git_commit() -> str | None:
    """Commit of this source tree, if it is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607  (whichever git the user has)
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()

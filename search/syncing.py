"""All that derives from a search's record, rebuilt: Optuna's storage, answers, MLflow's runs."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from analysis.recorded import FILE
from analysis.secrets import redacted
from search.client import connect
from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger
from search.places import Places
from search.publish import publish
from search.standing import open_recorded, require_idle
from search.studies import Studies
from search.tracking import Delivery
from search.writer import writing
from trainables import record
from trainables.record import Kind, SearchState

logger = logging.getLogger(__name__)

STALLED_S = 60.0
"""How long `sync` waits for MLflow without getting any further."""
_PAGE_RUNS = 1000


@dataclass(frozen=True)
class Synced:
    """What was brought in line with the record."""

    recovered: int
    """Events that a killed process had left behind and that are in the record now."""
    ended: int
    """Trials that ended: MLflow has all that it does not refuse."""
    unfinished: int
    delivered: int
    """Trials that MLflow did not have whole before."""
    optuna: Path
    """Optuna's storage."""
    report: Path | None
    answered: bool
    """Whether the answers were made again."""
    no_answers: str | None
    """Why there are none, if so."""
    refused: dict[str, str]
    """Runs that MLflow does not take, by name, and why."""


def sync(
    name: str,
    places: Places | None = None,
    *,
    take_over: bool = False,
    say: Callable[[str], None] = logger.info,
) -> Synced:
    """Rebuild whatever is missing or behind; what is there already stays as it is.

    Args:
        name: of the search.
        places: where things live; ``./kdcurve-data`` by default.
        take_over: break the lease of a process on another machine that is gone for good.
        say: takes note of a line.

    Raises:
        KdcurveError: there is no such search, some process runs it (which delivers it too), or
            MLflow does not answer or does not take the record.
    """
    places = places or Places.at()
    journal = open_recorded(name, places)
    require_idle(journal, name, take_over)
    places.make()
    known = journal.last_number(name)
    with writing(journal, name, places.folder(name), take_over=take_over) as writer:
        recovered = journal.last_number(name) - known
        ledger = Ledger(journal, name, writer.append)
        with FileLock(places.home / "lock"):  # a first search there makes the same database
            there = _whole_trials(connect(places), name)
        if ledger.state is SearchState.RUNNING:
            # Its process is gone. Taken up first: the time since then was no work on it.
            halt = {"state": SearchState.INTERRUPTED}
            ledger.record_all([(EventKind.RESUMED, None, {}), (EventKind.CLOSED, None, halt)])
            writer.flush()
        say(f"rebuilding Optuna's storage from {len(ledger.trials)} trials")
        Studies(ledger.spec, places.optuna(name)).sync_all(ledger.by_context)
        answered, no_answers = _answer(ledger, places, say)
        writer.flush()
        delivery = Delivery(journal, ledger.spec, places, say=logger.info)
        unfinished = len(ledger.unfinished())
        ended = len(ledger.trials) - unfinished
        _deliver(delivery, ended, f"MLflow at {redacted(places.tracking_uri)}", say)
    return Synced(
        recovered=recovered,
        ended=ended,
        unfinished=unfinished,
        delivered=delivery.delivered - there,
        optuna=places.optuna(name),
        report=None if no_answers else _report(name, places),
        answered=answered,
        no_answers=no_answers,
        refused=delivery.refused,
    )


def _whole_trials(client: MlflowClient, name: str) -> int:
    """Trials that MLflow has from start to end."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        return 0
    ended = f"tags.`{record.TAG_KIND}` = '{Kind.TRIAL}' and attributes.status != 'RUNNING'"
    count, token = 0, None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], ended, max_results=_PAGE_RUNS, page_token=token
        )
        count += sum(record.TAG_OUTCOME in run.data.tags for run in page)
        token = page.token
        if not token:
            return count


def _report(name: str, places: Places) -> Path:
    return places.answers(name) / "report.html"


def _answer(ledger: Ledger, places: Places, say: Callable[[str], None]) -> tuple[bool, str | None]:
    """Make the answers if they are missing or older than what they would speak of.

    Returns:
        Whether they were made, and why there are none.
    """
    halt = ledger.journal.milestones(ledger.search)[-1].number
    since = ledger.journal.events(ledger.search, after=halt)
    answered = any(event.kind is EventKind.ANSWER for event in since)
    files = (_report(ledger.search, places), places.answers(ledger.search) / FILE)
    if answered and all(file.is_file() for file in files):
        return False, None
    say("making the answers")
    try:
        publish(ledger, places)
    except AnalysisError as error:
        return False, str(error)
    except OSError as error:
        raise KdcurveError(f"cannot write {error.filename}: {error.strerror}") from error
    return True, None


class _StalledError(Exception):
    """MLflow takes nothing any more."""


def _deliver(delivery: Delivery, ended: int, where: str, say: Callable[[str], None]) -> None:
    """Deliver for as long as MLflow takes something.

    Raises:
        KdcurveError: it does not have all, for another reason than that it refuses single runs.
    """
    seen, since = -1, time.monotonic()

    def waiting() -> None:
        nonlocal seen, since
        now = time.monotonic()
        if delivery.failure is None or delivery.delivered != seen:
            seen, since = delivery.delivered, now
        if now - since > STALLED_S:
            raise _StalledError
        trouble = f", trying on after: {delivery.failure}" if delivery.failure else ""
        say(f"delivering to MLflow: {delivery.delivered} of {ended} trials{trouble}")

    delivery.start()
    try:
        whole = delivery.finish(math.inf, waiting)
    except _StalledError:
        whole = delivery.finish(0)
    if not whole and (delivery.failure is not None or not delivery.refused):
        raise KdcurveError(
            f"{where} has {delivery.delivered} of {ended} trials: {delivery.failure}. "
            "Another sync goes on from there"
        )

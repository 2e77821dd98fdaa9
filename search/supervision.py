"""A search that breaks off by itself goes on from its record, a bounded number of times."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from ray.air.execution._internal import RayActorManager

from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger
from search.recovery import of_an_actor, reason_of

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0


def supervise(
    attempt: Callable[[], str | None],
    ledger: Ledger,
    asked_to_stop: Callable[[], bool],
    say: Callable[[str], None],
) -> str | None:
    """Run a search until it has ended, someone asks for a stop, or it breaks off too often.

    Args:
        attempt: runs the trials that are left; returns what ended the search, None if it was cut
            off.
        ledger: the record, which says what is left.
        asked_to_stop: whether someone did.
        say: takes note of a line for the user.

    Returns:
        What ended the search, in words; None if someone asked for a stop.

    Raises:
        KdcurveError: an attempt raised one, which another attempt would too, or the search broke
            off more often than `faults.restarts` allows.
    """
    restarts = ledger.spec.faults.restarts
    for number in range(restarts + 1):
        try:
            with _one_process_ends_one_trial():
                reason = attempt()
        except KdcurveError:
            raise
        except Exception as error:
            logger.exception("the search broke off")
            why = reason_of(error)
        else:
            if reason is not None or asked_to_stop():
                return reason
            why = f"Ray Tune ended with {len(ledger.unfinished())} trials under way"
        if asked_to_stop():
            return None
        if number < restarts:
            say(f"the search broke off ({why}); going on from its record")
            time.sleep(min(2.0**number, LONGEST_PAUSE_S))
            ledger.record(EventKind.RESUMED)  # raises what is wrong with the record, if that is it
    raise KdcurveError(
        f"the search broke off {restarts + 1} times, at last with: {why}; what has ended is "
        f"recorded, and kdcurve resume {ledger.search} goes on"
    )


@contextlib.contextmanager
def _one_process_ends_one_trial() -> Iterator[None]:
    """Let Tune see what Ray says of a process as an error of its trial: `of_an_actor`."""
    before = {
        name: getattr(RayActorManager, name)
        for name in ("_actor_task_failed", "_actor_start_failed")
    }

    def translating(method: Callable[..., None]) -> Callable[..., None]:
        def failed(*arguments: object, **named: object) -> None:
            method(*map(of_an_actor, arguments), **{k: of_an_actor(v) for k, v in named.items()})

        return failed

    for name, method in before.items():
        setattr(RayActorManager, name, translating(method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(RayActorManager, name, method)

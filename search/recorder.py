"""Tune's events into the record: trials started, reported, checkpointed, retried and ended."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from ray import cloudpickle
from ray.tune import Callback
from ray.tune.experiment import Trial

from search.journal import Entry, EventKind
from search.ledger import Ledger
from search.recovery import cause_of, may_retry, reason_of
from search.unpickled import Unpickled
from trainables.checkpoint import trial_folder
from trainables.record import Outcome


class Recorder(Unpickled, Callback):
    """Writes what Tune observes to the ledger, once.

    Args:
        ledger: the record.
        total_epochs: a trial's full budget by context key.
        checkpoints: the search's folder of checkpoints; those of an ended trial are removed.
        again: takes up a trial, by its number, that failed and is worth another try.
        hung: trials that the watchdog ended, by number, and why.
    """

    def __init__(
        self,
        ledger: Ledger,
        total_epochs: dict[str, int],
        checkpoints: Path | None = None,
        again: Callable[[int], None] | None = None,
        hung: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self._ledger = ledger
        self._total_epochs = total_epochs
        self._checkpoints = checkpoints
        self._again = again
        self._hung = hung

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """A worker takes a trial up."""
        self._ledger.record(EventKind.STARTED, trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """One or more epochs are done."""
        number = trial.config["number"]
        state = self._ledger.trials[number]
        entries: list[Entry] = [
            (EventKind.REPORTED, number, {"epoch": report["epoch"], "metrics": report})
            for report in result["reports"]
            if report["epoch"] > state.epoch
        ]
        epoch = result.get("checkpoint")
        if epoch and epoch > state.checkpoint:
            path = str(trial_folder(self._checkpoints, number)) if self._checkpoints else None
            entries.append((EventKind.CHECKPOINTED, number, {"epoch": epoch, "path": path}))
        self._ledger.record_all(entries)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """A trial ended as it should: at its budget, or at a rung."""
        state = self._ledger.trials[trial.config["number"]]
        if state.epoch >= self._total_epochs[state.context]:
            self._end(state.number, Outcome.COMPLETE)
        elif state.stopped_at is not None:
            self._end(state.number, Outcome.STOPPED_EARLY, f"at the rung of epoch {state.epoch}")
        else:
            self._end(state.number, Outcome.FAILED, f"ended without a reason at {state.epoch}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """A trial raised, or its worker died: take it up again if that may help."""
        number = trial.config["number"]
        if number in self._hung:
            self._end(number, Outcome.TIMEOUT, self._hung[number])
            return
        error = _error_of(trial)
        cause, reason = cause_of(error), reason_of(error)
        state = self._ledger.trials[number]
        if cause and self._again and may_retry(cause, state, self._ledger.spec.faults):
            self._ledger.record(EventKind.RETRIED, number, cause=cause, reason=reason)
            self._again(number)
        else:
            self._end(number, Outcome.FAILED, reason)

    def _end(self, number: int, outcome: Outcome, reason: str | None = None) -> None:
        self._ledger.record(EventKind.ENDED, number, outcome=outcome, reason=reason)
        if self._checkpoints is not None and self._ledger.trials[number].checkpoint:
            shutil.rmtree(trial_folder(self._checkpoints, number), ignore_errors=True)


def _error_of(trial: Trial) -> BaseException | None:
    """What Tune has just written of a failure to this machine; the storage may get it later."""
    path = trial.pickled_error_file
    return cast(BaseException, cloudpickle.loads(Path(path).read_bytes())) if path else None

"""Tune's events into the record: trials started, reported, checkpointed and ended."""

import shutil
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial

from analysis.secrets import redacted
from search.journal import Entry, EventKind
from search.ledger import Ledger
from search.unpickled import Unpickled
from trainables.checkpoint import trial_folder
from trainables.record import Outcome

_LONGEST_REASON = 1000
"""Characters: MLflow's tags have a limit, and a reason is one line."""


def reason_of(error: BaseException | None) -> str:
    """Why a training failed, in one line without secrets."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines() or [""]
    return redacted(f"{type(cause).__name__}: {lines[-1].strip()}")[:_LONGEST_REASON]


class Recorder(Unpickled, Callback):
    """Writes what Tune observes to the ledger, once.

    Args:
        ledger: the record.
        total_epochs: a trial's full budget by context key.
        checkpoints: the search's folder of checkpoints; those of an ended trial are removed.
    """

    def __init__(
        self, ledger: Ledger, total_epochs: dict[str, int], checkpoints: Path | None = None
    ) -> None:
        self._ledger = ledger
        self._total_epochs = total_epochs
        self._checkpoints = checkpoints

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
        """A trial raised, or its worker died."""
        self._end(trial.config["number"], Outcome.FAILED, reason_of(trial.get_pickled_error()))

    def _end(self, number: int, outcome: Outcome, reason: str | None = None) -> None:
        self._ledger.record(EventKind.ENDED, number, outcome=outcome, reason=reason)
        if self._checkpoints is not None and self._ledger.trials[number].checkpoint:
            shutil.rmtree(trial_folder(self._checkpoints, number), ignore_errors=True)

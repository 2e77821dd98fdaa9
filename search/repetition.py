"""One recorded trial again, in this process and without Ray: is it what was recorded?"""

import importlib.metadata
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger, TrialState
from search.places import Places
from search.space import Context
from search.standing import open_recorded
from trainables import cache
from trainables.config import DatasetSpec, TrialConfig, artifacts
from trainables.problem import open_training
from trainables.record import EPOCH, MACHINE_METRICS, Outcome
from trainables.threads import pin_threads

logger = logging.getLogger(__name__)

History = dict[int, dict[str, float]]
"""Metrics by epoch."""


@dataclass(frozen=True)
class Difference:
    """Where a metric of the repetition is farthest from what was recorded."""

    epoch: int
    recorded: float | None
    repeated: float | None
    """None in whichever of the two lacks the metric."""

    @property
    def size(self) -> float:
        """How far apart; infinite if one of them is missing or not a number."""
        if self.recorded is None or self.repeated is None:
            return math.inf
        apart = abs(self.recorded - self.repeated)
        return math.inf if math.isnan(apart) else apart


@dataclass(frozen=True)
class Rerun:
    """What was recorded of a trial and what came of repeating it, timings left out."""

    trial: TrialState
    context: Context
    recorded: History
    repeated: History
    error: Exception | None
    """What the repetition raised, if it did."""
    versions: Mapping[str, tuple[str, str | None]]
    """Packages that have another version now than when the search began: (then, now)."""

    @property
    def failed(self) -> bool:
        """Whether the trial failed, or was timed out, when it was recorded."""
        return _failed(self.trial)

    @property
    def compared(self) -> list[int]:
        """Epochs that both have."""
        return sorted(self.recorded.keys() & self.repeated.keys())

    @property
    def differences(self) -> dict[str, Difference]:
        """The largest difference by metric; empty if all is equal bit for bit."""
        found: dict[str, Difference] = {}
        for epoch in self.compared:
            recorded, repeated = self.recorded[epoch], self.repeated[epoch]
            for metric in [*recorded, *(m for m in repeated if m not in recorded)]:
                each = Difference(epoch, recorded.get(metric), repeated.get(metric))
                if _bits(each.recorded) == _bits(each.repeated):
                    continue
                if metric not in found or each.size > found[metric].size:
                    found[metric] = each
        return found


def rerun(
    name: str,
    number: int,
    places: Places | None = None,
    *,
    say: Callable[[str], None] = logger.info,
    progress: Callable[[int, int], None] | None = None,
) -> Rerun:
    """Repeat a recorded trial from its start, for as many epochs as are recorded.

    A trial that failed or was timed out goes on to its full budget, to raise again what it
    raised. On a CPU like the first one a repetition is equal bit for bit. The record stays
    as it is.

    Args:
        name: of the search.
        number: of the trial.
        places: where things live; ``./kdcurve-data`` by default.
        say: takes note of a line.
        progress: called after every epoch with it and the number of epochs to come to.

    Raises:
        KdcurveError: no such search, no such trial, or nothing of it is recorded.
    """
    places = places or Places.at()
    journal = open_recorded(name, places)
    ledger = Ledger(journal, name)
    trial = ledger.trials.get(number)
    if trial is None:
        raise KdcurveError(f"{name} has no trial {number}; {_numbers(ledger)}")
    spec = ledger.spec
    (context,) = (c for c in spec.context_list if c.key == trial.context)
    recorded = {
        event.data["epoch"]: _comparable(event.data["metrics"])
        for event in journal.events(name)
        if event.trial == number and event.kind is EventKind.REPORTED
    }
    epochs = spec.total_epochs(context) if _failed(trial) else max(recorded, default=0)
    if not epochs:
        raise KdcurveError(
            f"there is nothing to repeat of trial {number}: no epoch of it is recorded yet"
        )
    pin_threads(spec.resources.cpu)
    repeated: History = {}
    error = None
    try:
        config = spec.trial_config(context, trial.values, trial.seed)
        _announce(config, places, say)
        training = open_training(config, places.cache)
        while training.epoch < epochs:
            metrics = training.step()
            repeated[training.epoch] = _comparable(metrics)
            if progress is not None:
                progress(training.epoch, epochs)
    except Exception as raised:  # noqa: BLE001  (whatever it is, it is what was asked for)
        error = raised
    return Rerun(trial, context, recorded, repeated, error, _changed(ledger.plan))


def _failed(trial: TrialState) -> bool:
    return trial.outcome in (Outcome.FAILED, Outcome.TIMEOUT)


def _comparable(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k != EPOCH and k not in MACHINE_METRICS}


def _bits(value: float | None) -> str | None:
    return None if value is None else float(value).hex()


def _numbers(ledger: Ledger) -> str:
    if not ledger.trials:
        return "it has none yet"
    return f"its trials are numbered {min(ledger.trials)} to {max(ledger.trials)}"


def _announce(config: TrialConfig, places: Places, say: Callable[[str], None]) -> None:
    """Say what has to be made before the trial can start."""
    for artifact in artifacts(config):
        cached = isinstance(artifact, DatasetSpec) or cache.exists(places.cache, artifact.key)
        if not cached:
            say(f"the {artifact.label} is not in the cache and made first")


def _changed(plan: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {
        package: (then, now)
        for package, then in plan.get("versions", {}).items()
        if (now := _version(package)) != then
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Trials that stop reporting are ended, so that nobody waits for them for ever."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from search.ledger import Ledger
from search.unpickled import Unpickled

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""How many times as long as the slowest a trial may take."""
FLOOR_S = 900.0
"""Silence that is always allowed: storage may stall, and a machine may be busy."""
FIRST_S = 7200.0
"""Silence that is allowed before anything was reported."""
LOOK_EVERY_S = 1.0
_STANDSTILL_S = 10.0
"""Between two steps, more than this is not counted: Tune's loop itself stood still."""


class Patience:
    """How long a trial may be silent, from what others took.

    Args:
        silence_s: the answer, if the search file has one.
    """

    def __init__(self, silence_s: float | None = None) -> None:
        self._silence_s = silence_s
        self._slowest_s = 0.0
        """Seconds for a sample, at worst; the set-up before a first report counts with it."""

    def learn(self, silent_s: float, samples: int) -> None:
        """Take note of the time before a report, and of the samples trained in it."""
        self._slowest_s = max(self._slowest_s, silent_s / samples)

    def allowed_s(self, samples: int) -> float:
        """Silence allowed to a trial with so many samples an epoch."""
        if self._silence_s is not None:
            return self._silence_s
        if not self._slowest_s:
            return FIRST_S
        return max(FLOOR_S, PATIENCE * self._slowest_s * samples)


class Watchdog(Unpickled, Callback):
    """Ends the processes of trials that are silent for too long; `hung` says which and why.

    Args:
        ledger: the search's record.
        samples: of an epoch, by context key.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        samples: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._samples = samples
        self._clock = clock
        self._patience = Patience(ledger.spec.faults.silence_s)
        self._read = clock()
        self._now = self._looked = 0.0
        """Seconds that were watched, and those until the last look at all trials."""
        self._heard: dict[int, tuple[float, Trial]] = {}
        """When each trial was last heard of."""
        self.hung: dict[int, str] = {}
        """Why each trial was ended, by its number."""

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """From here on it is watched."""
        self._go_on()
        self._heard[trial.config["number"]] = self._now, trial

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """A sign of life."""
        self._go_on()
        number = trial.config["number"]
        silent_s = self._now - self._heard[number][0]
        self._patience.learn(silent_s, len(result["reports"]) * self._samples_of(number))
        self._heard[number] = self._now, trial

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """It is not watched any more."""
        self._heard.pop(trial.config["number"], None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """It is not watched any more."""
        self._heard.pop(trial.config["number"], None)

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Look after those that were not heard of for too long, now and then."""
        self._go_on()
        if self._now - self._looked < LOOK_EVERY_S:
            return
        self._looked = self._now
        for number, (heard, trial) in list(self._heard.items()):
            allowed_s = self._patience.allowed_s(self._samples_of(number))
            actor = trial.temporary_state.ray_actor
            if self._now - heard > allowed_s and actor is not None:
                del self._heard[number]
                self.hung[number] = f"no report for {allowed_s:.0f} s"
                logger.warning("trial %d: %s; its process is ended", number, self.hung[number])
                ray.kill(actor)  # Tune then sees it fail like any whose process died

    def _go_on(self) -> None:
        """Count the time since this was last asked."""
        now = self._clock()
        self._now += min(now - self._read, _STANDSTILL_S)
        self._read = now

    def _samples_of(self, number: int) -> int:
        return self._samples[self._ledger.trials[number].context]

"""How much a search may spend: the criteria that end it, whichever is reached first."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from trainables.config import Strict

USUAL_TRIALS = 12
"""Trials per context where a search file names no criterion at all."""


class Until(Strict):
    """An answer that is good enough."""

    regret: float = Field(gt=0.0, allow_inf_nan=False)
    """Points that the recommended settings may be expected to lose against the best ones, as a
    mean over contexts. A point is 0.01 of the objective: 0.1 is 0.001 in accuracy."""
    confidence: float = Field(0.9, gt=0.5, lt=1.0)
    """How sure that must be, in (0.5, 1)."""


class Budget(Strict):
    """How much a search may spend; the first criterion that is reached ends it.

    No trial is started from then on, and those that run are let finish: what a criterion allows is
    exceeded by at most what they still train.
    """

    trials_per_context: int | None = Field(None, ge=5)
    """At least 5: KD weights 0, ½ and 1, and two more for a curve with intervals (12 if no
    criterion is named; no limit if another one is)."""
    epoch_samples: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Epochs × kept samples that all trials together are trained on."""
    gpu_hours: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Measured training hours × GPUs per trial, of all trials."""
    wall_time_s: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Seconds that some process works on the search, teachers and scores included; pauses before
    a resume do not count."""
    money: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """GPU hours × `cost_per_gpu_hour`, in that currency."""
    cost_per_gpu_hour: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """What `money` is counted by."""
    until: Until | None = None
    """Ends the search when its answers are good enough."""

    @model_validator(mode="before")
    @classmethod
    def _some_end(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and all(raw.get(key) is None for key in CRITERIA):
            return {**raw, "trials_per_context": USUAL_TRIALS}
        return raw

    @model_validator(mode="after")
    def _money_has_a_price(self) -> "Budget":
        if self.money is not None and self.cost_per_gpu_hour is None:
            raise ValueError("money needs cost_per_gpu_hour beside it")
        if self.cost_per_gpu_hour is not None and self.money is None:
            raise ValueError("cost_per_gpu_hour has no effect without money")
        return self


LIMITS = ("trials_per_context", "epoch_samples", "gpu_hours", "wall_time_s", "money")
"""Criteria that are a number, not to be exceeded."""
CRITERIA = (*LIMITS, "until")

"""Designs that follow from a count of the trials, without a sampler."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search.designer import Known, Later, Proposal
from search.sections import Interval
from search.space import SearchSpec

Choice = Callable[[SearchSpec, Known], Proposal | Later | None]
"""A design as a function: see `Designer.propose`."""


@dataclass(frozen=True)
class Planned:
    """A designer made of such a function."""

    spec: SearchSpec
    choose: Choice

    def propose(self, known: Known) -> Proposal | Later | None:
        """What comes next by the design."""
        return self.choose(self.spec, known)

    def accepted(self, number: int) -> None:
        """Nothing to remember: the record has it."""


def fixed_trials(spec: SearchSpec) -> int:
    """Trials per context of a design that has to know them; its search file names them."""
    trials = spec.budget.trials_per_context
    assert trials is not None  # noqa: S101  (`search.faults` refuses the file otherwise)
    return trials


def spread(spec: SearchSpec, count: int) -> tuple[float, ...]:
    """KD weights at equal distances over the range that is tuned, both ends included.

    If the range does not begin at 0, one of them is 0 and the others lie in the range: gains are
    measured from there.
    """
    tuned = spec.tune.kd_weight
    reference = (0.0,) if tuned.low > 0 else ()
    steps = count - len(reference) - 1
    return (*reference, *(_between(tuned, i / steps) for i in range(steps + 1)))


def _between(tuned: Interval, share: float) -> float:
    if share in (0.0, 1.0):
        return tuned.high if share else tuned.low
    if tuned.log:
        return math.exp((1 - share) * math.log(tuned.low) + share * math.log(tuned.high))
    return round((1 - share) * tuned.low + share * tuned.high, 12)


def other_values(spec: SearchSpec, block: int) -> tuple[dict[str, Any], int]:
    """Tuned values but the KD weight, and how often all their combinations were through.

    Ranges stand at their middle; every combination of the lists gets a block in turn.
    """
    domains = {name: getattr(spec.tune, name) for name in spec.tuned if name != "kd_weight"}
    choices = {
        name: domain if isinstance(domain, list) else [domain.middle]
        for name, domain in domains.items()
    }
    combinations = list(itertools.product(*choices.values()))
    rounds, index = divmod(block, len(combinations))
    return dict(zip(choices, combinations[index], strict=True)), rounds

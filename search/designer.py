"""Which trial next: a pure function of the search and of what is known so far.

Contexts take turns, so that an interrupted search has answers of equal quality for all
of them. Each starts with KD weights 0, ½ and 1: the gain over plain training is then
measured, not guessed. The start is repeated with further seeds while it takes at most
three quarters of the budget: these trials are never stopped early, so that a curve can
always be fitted. After them the sampler chooses, and seeds take turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from search.ledger import TrialState
from search.space import Context, SearchSpec

START_POINTS = 3

Known = Mapping[str, Sequence[TrialState]]
"""Trials proposed so far, ended or not, in the order of their numbers, by context key."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run next."""

    context: Context
    values: Mapping[str, Any]
    """The tuned values."""
    seed: int
    start_design: bool = False
    """Whether it belongs to what every context starts with, and so is never stopped early."""
    until_epoch: int | None = None
    """Epoch at which it ends and before which nothing stops it, whatever its score; None: early
    stopping decides."""


class Later:
    """Nothing may be proposed before another trial has ended."""


class Designer(Protocol):
    """Chooses what is run next; `search/samplers/` has one file per way of doing so."""

    def propose(self, known: Known) -> Proposal | Later | None:
        """The next trial, `Later`, or None when there is nothing left to run.

        What is proposed depends on the search, its seed and what is known, and on nothing
        else: a search that is taken up again goes on as it would have.
        """
        ...

    def accepted(self, number: int) -> None:
        """The newest proposal has become the trial of that number."""
        ...


@dataclass(frozen=True)
class Slot:
    """A place in the design, to be filled with a trial."""

    context: Context
    index: int
    """Number of the trial within its context."""
    seed: int
    start_values: dict[str, Any] | None
    """Tuned values of the starting design; None leaves them to the sampler."""


def seeds_used(spec: SearchSpec) -> int:
    """Seeds that the budget has room for: each gets a starting design of its own."""
    per_context = spec.budget.trials_per_context
    return (
        spec.seeds.trials
        if per_context is None
        else min(spec.seeds.trials, max(1, per_context // 4))
    )


def start_trials(spec: SearchSpec) -> int:
    """Trials of a context's starting design."""
    return START_POINTS * seeds_used(spec)


def start_values(spec: SearchSpec, point: int, block: int = 0) -> dict[str, Any]:
    """A point of the starting design.

    KD weight 0 whatever the range that is tuned, since gains are measured from there, then
    the middle of the range and its upper end (½ and 1). Other ranges stand at their middle;
    lists take turns from block to block.
    """
    tune = spec.tune
    weights = (0.0, tune.kd_weight.middle, tune.kd_weight.high)
    values: dict[str, Any] = {"kd_weight": weights[point]}
    for name in spec.tuned:
        if name != "kd_weight":
            domain = getattr(tune, name)
            values[name] = (
                domain[block % len(domain)] if isinstance(domain, list) else domain.middle
            )
    return values


def next_context(spec: SearchSpec, known: Known) -> Context | None:
    """The context whose turn it is: the first of those with the fewest trials.

    None when the budget is spent.
    """
    context = min(spec.context_list, key=lambda c: len(known.get(c.key, ())))
    allowed = spec.budget.trials_per_context
    spent = allowed is not None and len(known.get(context.key, ())) >= allowed
    return None if spent else context


def next_slot(spec: SearchSpec, known: Known) -> Slot | None:
    """The next place to fill, or None when the budget is spent.

    Args:
        spec: the search.
        known: trials proposed so far, ended or not, by context key.
    """
    context = next_context(spec, known)
    if context is None:
        return None
    trials = known.get(context.key, ())
    # Counted, not read off the index: a search that was extended by further seeds owes them
    # a start of their own, after trials that the sampler chose.
    started = sum(trial.start_design for trial in trials)
    if started < start_trials(spec):
        block, position = divmod(started, START_POINTS)
        return Slot(context, len(trials), block, start_values(spec, position, block))
    return Slot(context, len(trials), (len(trials) - started) % seeds_used(spec), None)

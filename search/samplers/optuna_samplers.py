"""Optuna's samplers by name, and a user's own.

One is made anew for every proposal, seeded by the search, the context and the proposal's index, so
that a search that is taken up again goes on as it would have. What a sampler knows it
has to learn from its study: what it remembers in itself is lost.
"""

import inspect
from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from search.errors import UsageError
from search.samplers.cmaes import ReplayedCmaEs
from trainables.config import is_own
from trainables.parts import find

SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, start: TPESampler(n_startup_trials=start, seed=seed),
    "random": lambda seed, _: RandomSampler(seed=seed),
    # It learns from complete trials alone. Loads torch when it is asked.
    "gp": lambda seed, start: optuna.samplers.GPSampler(n_startup_trials=start, seed=seed),
    "cmaes": lambda seed, _: ReplayedCmaEs(seed),
}
"""Samplers by name: (seed, size of the starting design) -> sampler."""

_ALLOWED = "a class of optuna.samplers.BaseSampler that can be made with no argument but seed"


def make_sampler(name: str, seed: int, start: int) -> BaseSampler:
    """A sampler for one proposal.

    Args:
        name: a key of `SAMPLERS`, or `package.module:Class`.
        seed: of its random numbers.
        start: trials of the starting design.

    Raises:
        UsageError: there is no such class, or it cannot be made.
    """
    return own(name, seed) if is_own(name) else SAMPLERS[name](seed, start)


def own(name: str, seed: int) -> BaseSampler:
    """A sampler of the user's own class, seeded where it can be."""
    try:
        made = find(name, "a sampler")
    except ValueError as error:
        raise UsageError(f"sampler: {error}; allowed: {_ALLOWED}") from error
    if not isinstance(made, type) or not issubclass(made, BaseSampler):
        raise UsageError(f"sampler: {name!r} is {made!r}; allowed: {_ALLOWED}")
    arguments: dict[str, Any] = (
        {"seed": seed} if "seed" in inspect.signature(made).parameters else {}
    )
    try:
        return made(**arguments)
    except Exception as error:
        raise UsageError(f"sampler: {name!r} raised {error!r}; allowed: {_ALLOWED}") from error

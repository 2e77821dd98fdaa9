"""Whether the sampler that a search file names is there, asked before anything is spent."""

import importlib.util

from search.errors import UsageError
from trainables.config import is_own


def check_sampler(name: str) -> None:
    """Make sure of it; Optuna is loaded for a user's own alone.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise UsageError(
            "sampler: 'cmaes' needs a package that is not installed: pip install 'kdcurve[cmaes]'"
        )
    if is_own(name):
        from search.samplers.optuna_samplers import own  # noqa: PLC0415

        own(name, 0)

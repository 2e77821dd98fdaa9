"""Problems whose answers are known: what a trial would report, and which setting is best.

The closed-form ridge problem here, tables of recorded runs in `search.replay`. A world holds
more seeds than a search uses; each replication of a search draws its own from them.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search.space import Context, SearchSpec
from trainables.config import RidgeDataset, TrialConfig
from trainables.ridge import RidgeTraining, mean_error
from trainables.seeds import derive

Floats = NDArray[np.float64]
Metrics = dict[str, float]

TRUTH_SEEDS = 64
"""Subsets that the truth of the ridge problem is averaged over; the label noise is exact."""


class World(Protocol):
    """Answers for trials, and knows the truth."""

    def reports(self, trial: Mapping[str, Any], draw: int) -> list[Metrics]:
        """Metrics after each epoch that is reported, the last of them at the full budget.

        Args:
            trial: a `TrialConfig` as JSON.
            draw: number of the replication; each has seeds of its own.
        """
        ...

    def truth(self, setting: Mapping[str, Any], kd_weights: Floats) -> Floats:
        """The mean score over all seeds at the full budget, in the shape of `kd_weights`.

        Args:
            setting: a `TrialConfig` as JSON; its KD weight and seed do not matter.
            kd_weights: α, `[k]`.
        """
        ...

    def temperatures(self, spec: SearchSpec) -> tuple[float, ...]:
        """Temperatures to look for the best setting at, where they are tuned."""
        ...


class RidgeWorld:
    """The closed-form problem: trials are solved, not looked up."""

    def reports(self, trial: Mapping[str, Any], draw: int) -> list[Metrics]:
        """All epochs of the gradient flow."""
        seed = trial["seed"] if draw == 0 else derive("replication", draw, trial["seed"])
        training = RidgeTraining(TrialConfig.model_validate({**trial, "seed": seed}))
        return [training.step() for _ in range(training.epochs)]

    def truth(self, setting: Mapping[str, Any], kd_weights: Floats) -> Floats:
        """R² expected over the label noise, averaged over `TRUTH_SEEDS` subsets."""
        dataset = RidgeDataset.model_validate(setting["dataset"])
        fractions = setting["fraction"], setting["teacher_fraction"]
        return 1.0 - mean_error(dataset, *fractions, kd_weights, range(TRUTH_SEEDS))

    def temperatures(self, spec: SearchSpec) -> tuple[float, ...]:
        """None: they have no effect."""
        return ()


def untaught(spec: SearchSpec) -> SearchSpec:
    """The search without a question that does not arise where nobody is taught.

    How teachers' logits are got at the least cost would ask for the networks, which a table of
    recorded runs need not know.
    """
    return spec.model_copy(update={"soft_labels": "views"}) if spec.soft_labels == "auto" else spec


def settings(spec: SearchSpec) -> Iterator[tuple[Context, dict[str, Any]]]:
    """Every context with each combination of the tuned lists, as a `TrialConfig` in JSON.

    A tuned temperature stands at the middle of its range.
    """
    spec = untaught(spec)
    for context in spec.context_list:
        lists: dict[str, list[Any]] = {}
        for name in spec.tuned:
            if name != "kd_weight":
                domain = getattr(spec.tune, name)
                lists[name] = domain if isinstance(domain, list) else [domain.middle]
        for values in itertools.product(*lists.values()):
            chosen = {"kd_weight": 0.0, **dict(zip(lists, values, strict=True))}
            yield context, spec.trial_config(context, chosen, 0).model_dump(mode="json")

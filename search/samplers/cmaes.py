"""CMA-ES whose state follows from the trials of a study alone."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState


class ReplayedCmaEs(BaseSampler):
    """Optuna's `CmaEsSampler`, told all complete trials anew before it proposes one.

    Optuna keeps the state of CMA-ES in attributes of a study's trials. Here studies are derived
    from the record and may be made anew at any time, so the state is as well: complete trials
    make up the generations in the order of their numbers, whoever proposed them. Ranges
    are searched by CMA-ES, lists at random.

    Args:
        seed: of its random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The ranges that all complete trials have in common."""
        space = optuna.search_space.intersection_search_space(
            study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        )
        return {
            name: domain
            for name, domain in space.items()
            if isinstance(domain, FloatDistribution) and not domain.single()
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next individual of the generation under way."""
        if not search_space:
            return {}
        replay = optuna.create_study(
            sampler=CmaEsSampler(seed=self._seed, warn_independent_sampling=False),
            direction=study.direction,
        )
        for known in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            replay.enqueue_trial({name: known.params[name] for name in search_space})
            told = replay.ask(search_space)
            _ = told.relative_params  # what it would have proposed; this counts the generation
            replay.tell(told, known.value)
        return replay.ask(search_space).params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """What CMA-ES does not search: at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

"""What a search will cost, before anything is spent."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from search.designer import start_values
from search.space import SearchSpec
from trainables.config import Artifact, TeacherSpec, artifacts
from trainables.sizes import count_kept, describe


@dataclass(frozen=True)
class Plan:
    """Size of a search. Samples are counted as often as they are trained on."""

    contexts: int
    trials: int
    artifacts: tuple[Artifact, ...]
    """Teachers and scores, made once and shared."""
    trial_samples: int
    """Samples that all trials together train on, if none is stopped early."""
    artifact_samples: int
    """Samples that teachers and scores train on at most, if none is cached."""


def counted(needed: Sequence[Artifact]) -> str:
    """How many teachers and scores: `2 teachers, 1 score`."""
    teachers = sum(isinstance(artifact, TeacherSpec) for artifact in needed)
    return f"{_plural(teachers, 'teacher')}, {_plural(len(needed) - teachers, 'score')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def make_plan(spec: SearchSpec) -> Plan:
    """Count contexts, trials, shared parts and samples of a search."""
    train_samples = describe(spec.dataset).train_samples
    per_context = spec.budget.trials_per_context
    needed = shared_artifacts(spec)
    return Plan(
        contexts=len(spec.context_list),
        trials=spec.trials,
        artifacts=needed,
        trial_samples=sum(
            per_context * _samples(spec, spec.kept_samples(context))
            for context in spec.context_list
        ),
        artifact_samples=sum(
            _samples(spec, count_kept(train_samples, artifact.fraction))
            if isinstance(artifact, TeacherSpec)
            else artifact.seeds * _samples(spec, train_samples)
            for artifact in needed
        ),
    )


def _samples(spec: SearchSpec, kept: int) -> int:
    recipe = spec.recipe
    if recipe.epochs is not None:
        return recipe.epochs * kept
    return recipe.total_steps(kept) * min(recipe.batch_size, kept)


def shared_artifacts(spec: SearchSpec) -> tuple[Artifact, ...]:
    """Every teacher and every scoring that some trial of the search may need, once each."""
    tuned = {
        name: domain for name in spec.tuned if isinstance(domain := getattr(spec.tune, name), list)
    }
    found = {}
    for context in spec.context_list:
        for choice in itertools.product(*tuned.values()):
            values = start_values(spec, 1) | dict(zip(tuned, choice, strict=True))
            for seed in range(spec.seeds.teacher):
                for artifact in artifacts(spec.trial_config(context, values, seed)):
                    found[artifact.key] = artifact
    return tuple(found.values())

"""What a search will cost, before anything is spent."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.designer import start_values
from search.errors import UsageError
from search.space import Counted, SearchSpec
from trainables.config import (
    Artifact,
    DatasetSpec,
    RidgeDataset,
    ScoresSpec,
    SoftLabelsSpec,
    TeacherFile,
    TeacherSpec,
    TrialConfig,
    artifacts,
)
from trainables.sizes import count_kept

FORWARD_SHARE = 1 / 3
"""Cost of a forward pass as a share of a training step, which goes forward and back."""


@dataclass(frozen=True)
class Plan:
    """Size of a search. Samples are counted as often as they are trained on."""

    contexts: int
    trials: int | None
    """None if the budget does not limit their number."""
    artifacts: tuple[Artifact, ...]
    """What is made once and shared, in the order in which it is made."""
    trial_samples: float | None
    """Samples that all trials together train on, if none is stopped early; None: no limit."""
    artifact_samples: int
    """The same for what is shared, at most: if nothing is cached."""


_NOUNS = {TeacherSpec: "teacher", ScoresSpec: "score", SoftLabelsSpec: "table of soft labels"}


def counted(needed: Sequence[Artifact]) -> str:
    """How many there are of what is shared: `2 teachers, 1 score`."""
    counts: Counter[type] = Counter(type(artifact) for artifact in needed)
    parts = [_plural(counts[kind], noun) for kind, noun in _NOUNS.items() if counts[kind]]
    return ", ".join(parts) or "nothing"


def _plural(count: int, noun: str) -> str:
    head, _, tail = noun.partition(" ")
    return f"{count} {head}{'' if count == 1 else 's'}{' ' if tail else ''}{tail}"


def make_plan(spec: SearchSpec) -> Plan:
    """Count contexts, trials, shared parts and samples of a search."""
    budget = spec.budget
    limits: list[float] = [] if budget.epoch_samples is None else [budget.epoch_samples]
    if budget.trials_per_context is not None:
        once = sum(_samples(spec, spec.kept_samples(context)) for context in spec.context_list)
        limits.append(budget.trials_per_context * once)
    needed = shared_artifacts(spec)
    return Plan(
        contexts=len(spec.context_list),
        trials=spec.trials,
        artifacts=needed,
        trial_samples=min(limits, default=None),
        artifact_samples=sum(_cost(spec, artifact) for artifact in needed),
    )


def _cost(spec: SearchSpec, artifact: Artifact) -> int:
    samples = spec.info.train_samples
    match artifact:
        case DatasetSpec():
            return 0
        case TeacherSpec():
            kept = count_kept(samples, artifact.fraction)
            return 0 if artifact.file else _samples(spec, kept)
        case SoftLabelsSpec():
            return round(FORWARD_SHARE * spec.views(artifact.all_views) * samples)
        case ScoresSpec():
            return artifact.seeds * _samples(spec, samples)


def _samples(spec: SearchSpec, kept: int) -> int:
    recipe = spec.recipe
    if recipe.epochs is not None:
        return recipe.epochs * kept
    return recipe.total_steps(kept) * min(recipe.batch_size, kept)


def shared_artifacts(spec: SearchSpec) -> tuple[Artifact, ...]:
    """Everything shared that some trial of the search may need, once each, in order."""
    found = {
        artifact.key: artifact
        for config in _kinds_of_trials(spec)
        for artifact in artifacts(config)
    }
    order = (DatasetSpec, ScoresSpec, TeacherSpec, SoftLabelsSpec)
    return tuple(sorted(found.values(), key=lambda artifact: order.index(type(artifact))))


def stages(needed: Sequence[Artifact]) -> list[list[Artifact]]:
    """What is shared, grouped so that each group needs only those before it."""
    groups: tuple[tuple[type, ...], ...] = (
        (DatasetSpec,),
        (ScoresSpec, TeacherSpec),
        (SoftLabelsSpec,),
    )
    staged = [[each for each in needed if isinstance(each, kinds)] for kinds in groups]
    return [stage for stage in staged if stage]


def _kinds_of_trials(spec: SearchSpec) -> list[TrialConfig]:
    """A taught trial of every context, tuned choice and teacher's seed."""
    tuned = {
        name: domain for name in spec.tuned if isinstance(domain := getattr(spec.tune, name), list)
    }
    return [
        spec.trial_config(context, start_values(spec, 1) | dict(zip(tuned, choice, strict=True)), s)
        for context in spec.context_list
        for choice in itertools.product(*tuned.values())
        for s in range(spec.seeds.teacher)
    ]


def settle(spec: SearchSpec) -> SearchSpec:
    """The search with all that depends on this machine and moment written into it.

    How many samples there are, what `auto` came to, and which files were brought: a recorded
    search stays what it was.

    Raises:
        UsageError: a teacher's file cannot be read.
    """
    changes: dict[str, Any] = {}
    if not isinstance(spec.dataset, RidgeDataset):
        info = spec.info
        changes = {
            "counted": Counted(
                train_samples=info.train_samples, classes=info.classes, shape=info.shape
            ),
            "soft_labels": spec.soft_label_source,
            "teachers": {name: _stamped(name, file) for name, file in spec.teachers.items()},
        }
    fields = {name: getattr(spec, name) for name in SearchSpec.model_fields}
    return SearchSpec(**{**fields, **changes})


def _stamped(name: str, brought: TeacherFile) -> TeacherFile:
    path = Path(brought.file).expanduser().absolute()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"teachers.{name}: cannot read {path}: {error.strerror}") from error
    return TeacherFile(file=str(path), sha256=digest)

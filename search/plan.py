"""What a search will cost, before anything is spent."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.designer import start_values
from search.errors import UsageError
from search.samplers.layout import layout
from search.samplers.one_epoch import LOOK_EPOCHS
from search.space import STEP_PASSES, Context, Counted, SearchSpec
from trainables.config import (
    FILE,
    Artifact,
    DatasetSpec,
    RidgeDataset,
    ScoresFile,
    ScoresSpec,
    SoftLabelsSpec,
    TeacherFile,
    TeacherSpec,
    TrialConfig,
    artifacts,
)
from trainables.sizes import count_kept, early_epoch

_EARLY = {"el2n": 1 / STEP_PASSES, "grand": 3.5}
"""Methods that train to an early epoch alone, and what scoring a sample then takes, in training
steps (of grand as measured with a ResNet-20: gradients one by one are dear)."""


@dataclass(frozen=True)
class Plan:
    """Size of a search.

    Samples are counted as often as they are trained on, in training steps of the student: what a
    larger network trains on or looks at counts for more, by the FLOPs of its forward pass.
    """

    contexts: int
    trials: int | None
    """None if the budget does not limit their number."""
    artifacts: tuple[Artifact, ...]
    """What is made once and shared, in the order in which it is made."""
    trial_samples: float | None
    """Of all trials together, if none is stopped early, teachers that are asked included; None: no
    limit."""
    artifact_samples: int
    """The same for what is shared, at most: if nothing is cached."""

    @property
    def samples(self) -> float | None:
        """Of trials and of what is shared together; None: no limit."""
        return None if self.trial_samples is None else self.trial_samples + self.artifact_samples


def gpu_hours(spec: SearchSpec, samples: float, tflops: float) -> float:
    """Hours that one GPU takes, by the FLOPs of training alone.

    Args:
        spec: the search.
        samples: training steps of the student, in samples (see `Plan`).
        tflops: what a GPU sustains on such networks, in 10¹² FLOP/s, a multiplication and an
            addition counted as two.
    """
    return STEP_PASSES * spec.flops[spec.student] * samples / (tflops * 1e12) / 3600


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
    needed = shared_artifacts(spec)
    limits = [n for n in (spec.budget.epoch_samples, _all_trial_samples(spec)) if n is not None]
    online = spec.soft_label_source == "online" and not isinstance(spec.dataset, RidgeDataset)
    asking = round(spec.teaching.asking) if online else 0
    return Plan(
        contexts=len(spec.context_list),
        trials=spec.trials,
        artifacts=needed,
        trial_samples=min(limits) + asking if limits else None,
        artifact_samples=artifact_samples(spec, needed),
    )


def artifact_samples(spec: SearchSpec, needed: Iterable[Artifact]) -> int:
    """What making shared parts costs if nothing is cached, as `Plan.artifact_samples`."""
    return sum(_cost(spec, artifact) for artifact in needed)


def trial_samples(spec: SearchSpec, context: Context) -> int:
    """Samples that a trial of this context trains on in its full budget, again and again."""
    return _samples(spec, spec.kept_samples(context))


def _all_trial_samples(spec: SearchSpec) -> int | None:
    """Of all trials that the budget allows in number; None: it does not limit that."""
    if spec.trials is None or spec.budget.trials_per_context is None:
        return None
    kept = [spec.kept_samples(context) for context in spec.context_list]
    if spec.pooled:  # all trials may go to one context
        return spec.trials * max(_samples(spec, samples) for samples in kept)
    looks = layout(spec).looks
    full = spec.budget.trials_per_context - looks
    return sum(full * _samples(spec, n) + looks * LOOK_EPOCHS * n for n in kept)


def _cost(spec: SearchSpec, artifact: Artifact) -> int:
    samples = spec.info.train_samples
    match artifact:
        case DatasetSpec():
            return 0
        case TeacherSpec():
            kept = count_kept(samples, artifact.fraction)
            if artifact.file:
                return 0
            return round(spec.relative_cost(artifact.architecture) * _samples(spec, kept))
        case SoftLabelsSpec():
            passes = spec.views(artifact.all_views) * samples
            return round(spec.relative_cost(artifact.teacher.architecture) * passes / STEP_PASSES)
        case ScoresSpec():
            if artifact.method not in _EARLY:
                return artifact.seeds * _samples(spec, samples)
            epochs = early_epoch(spec.recipe.total_epochs(samples))
            return round(artifact.seeds * samples * (epochs + _EARLY[artifact.method]))


def _samples(spec: SearchSpec, kept: int) -> int:
    recipe = spec.recipe
    if recipe.epochs is not None:
        return recipe.epochs * kept
    return recipe.total_steps(kept) * min(recipe.batch_size, kept)


def shared_artifacts(spec: SearchSpec) -> tuple[Artifact, ...]:
    """Everything shared that some trial of the search may need, once each, in order."""
    return needed_by(_kinds_of_trials(spec))


def needed_by(configs: Iterable[TrialConfig]) -> tuple[Artifact, ...]:
    """Everything shared that some of these trials need, once each, in the order of making."""
    found = {artifact.key: artifact for config in configs for artifact in artifacts(config)}
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

    How many samples there are, what networks cost, what `auto` came to, and which files were
    brought: a recorded search stays what it was.

    Raises:
        UsageError: a file of weights or scores cannot be read, or a network cannot be built.
    """
    changes: dict[str, Any] = {}
    if not isinstance(spec.dataset, RidgeDataset):
        info = spec.info
        changes = {
            "counted": Counted(
                train_samples=info.train_samples, classes=info.classes, shape=info.shape
            ),
            "forward_flops": dict(spec.flops),
            "soft_labels": spec.soft_label_source,
            "teachers": {
                name: TeacherFile(**_stamped(f"teachers.{name}", brought.file))
                for name, brought in spec.teachers.items()
            },
            "score_files": {
                name: ScoresFile(**_stamped(f"method {name}", _scores_path(spec, name)))
                for name in (*(spec.contexts.method or ()), *(spec.tune.method or ()))
                if name.startswith(FILE)
            },
        }
    fields = {name: getattr(spec, name) for name in SearchSpec.model_fields}
    return SearchSpec(**{**fields, **changes})


def _scores_path(spec: SearchSpec, method: str) -> str:
    planned = spec.score_files.get(method)
    return planned.file if planned else method.removeprefix(FILE)


def _stamped(key: str, where: str) -> dict[str, str]:
    """Whole path and SHA-256 of a file; a relative path starts where the search does."""
    path = Path(where).expanduser().absolute()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{key}: cannot read {path}: {error.strerror}") from error
    return {"file": str(path), "sha256": digest}

"""One door to every kind of problem: what is prepared once, and a trial's training."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from trainables import cache, datasets, engine, models, teachers
from trainables.config import (
    Artifact,
    DatasetSpec,
    ImageDataset,
    RidgeDataset,
    ScoresSpec,
    SoftLabelsSpec,
    TeacherSpec,
    TrialConfig,
    teacher_spec,
)
from trainables.pruning import select
from trainables.pruning.scores import make_scores, score_seed
from trainables.ridge import RidgeTraining
from trainables.seeds import derive
from trainables.soft_labels import Online, SoftLabels, Table
from trainables.training import Trainable, Training

Progress = Callable[[int, int], None]
"""Called with the parts done and their total."""


def prepare(
    artifact: Artifact, cache_folder: Path, progress: Progress | None = None
) -> dict[str, str]:
    """Make sure that something shared is there; returns its metadata."""
    if isinstance(artifact, DatasetSpec):
        splits = datasets.load(artifact.dataset, cache_folder, progress)
        return {"samples": str(len(splits.labels)), "classes": str(splits.classes)}
    if isinstance(artifact, SoftLabelsSpec):
        return teachers.get_soft_labels(artifact, cache_folder, progress)[1]

    def make() -> cache.Entry:
        if isinstance(artifact, TeacherSpec):
            return teachers.make_teacher(artifact, cache_folder, progress)
        return make_scores(artifact, cache_folder, progress)

    return cache.get_or_make(cache_folder, artifact.key, make)[1]


def parts(artifact: Artifact) -> int:
    """Parts of something shared that can be made at a time, each cached; 0 if it is made whole."""
    match artifact:
        case ScoresSpec():
            return artifact.seeds
        case SoftLabelsSpec():
            count = len(teachers.shards(artifact))
            return count if count > 1 else 0
        case _:
            return 0


def prepare_part(
    artifact: Artifact, index: int, cache_folder: Path, progress: Progress | None = None
) -> None:
    """Make sure that one of the `parts` of something shared is there: a seed, or some views."""
    if isinstance(artifact, ScoresSpec):
        score_seed(artifact, index, cache_folder, progress)
    elif isinstance(artifact, SoftLabelsSpec):
        teachers.make_shard(artifact, index, cache_folder, progress)


def open_training(config: TrialConfig, cache_folder: Path) -> Trainable:
    """A trial's training before its first epoch.

    Whatever is shared is read from the cache; what is missing there is made first.

    Raises:
        ValueError: an unknown model or method; the message lists the known ones.
    """
    if isinstance(config.dataset, RidgeDataset):
        return RidgeTraining(config)
    return _image_training(config, config.dataset, cache_folder)


def _image_training(config: TrialConfig, dataset: ImageDataset, cache_folder: Path) -> Training:
    splits = datasets.load(dataset, cache_folder)
    # Built first: an unknown student must not wait for its teacher's training.
    model = models.build(
        config.student, splits.shape, splits.classes, derive("weights", config.seed)
    )
    kept = select.kept_samples(config, splits, cache_folder)
    return Training(
        model,
        datasets.training_samples(splits, kept),
        datasets.validation_samples(splits),
        config.recipe,
        config.seed,
        kd_weight=config.kd_weight,
        temperature=config.temperature,
        soft_labels=_soft_labels(config, kept, cache_folder) if config.kd_weight > 0 else None,
    )


def _soft_labels(config: TrialConfig, kept: Tensor, cache_folder: Path) -> SoftLabels:
    device = engine.default_device()
    teacher = teacher_spec(config)
    if config.soft_labels == "online":
        return Online(teachers.for_inference(teachers.load_teacher(teacher, cache_folder, device)))
    spec = SoftLabelsSpec(teacher=teacher, all_views=config.soft_labels == "views")
    return Table(teachers.load_soft_labels(spec, cache_folder), kept, device)

"""One door to every kind of problem: what is prepared once, and a trial's training."""

from pathlib import Path

from trainables import datasets, engine, models, teachers
from trainables.config import (
    Artifact,
    ImageDataset,
    RidgeDataset,
    ScoresSpec,
    TeacherSpec,
    TrialConfig,
    artifacts,
)
from trainables.pruning import random, scores
from trainables.pruning.methods import METHODS
from trainables.pruning.select import keep
from trainables.ridge import RidgeTraining
from trainables.seeds import derive


def prepare(artifact: Artifact, cache_folder: Path) -> dict[str, str]:
    """Make sure that a teacher or scores are cached; returns their metadata."""
    if isinstance(artifact, TeacherSpec):
        return teachers.prepare(artifact, cache_folder)
    return scores.prepare(artifact, cache_folder)


def open_training(config: TrialConfig, cache_folder: Path) -> engine.Trainable:
    """A trial's training before its first epoch.

    Teacher and scores are read from the cache; whatever is missing there is made first.

    Raises:
        ValueError: an unknown model or method; the message lists the known ones.
    """
    if isinstance(config.dataset, RidgeDataset):
        return RidgeTraining(config)
    return _image_training(config, config.dataset, cache_folder)


def _image_training(
    config: TrialConfig, dataset: ImageDataset, cache_folder: Path
) -> engine.Training:
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; known: {', '.join(METHODS)}")
    splits = datasets.load(dataset)
    # Built first: an unknown student must not wait for its teacher's training.
    model = models.build(
        config.student, splits.shape, splits.classes, derive("weights", config.seed)
    )
    teacher_logits = None
    ranking = random.draw_scores(len(splits.labels), config.seed)
    for artifact in artifacts(config):
        if isinstance(artifact, ScoresSpec):
            ranking = scores.load_scores(artifact, cache_folder)
        elif config.kd_weight > 0:
            teacher_logits = teachers.load_logits(artifact, cache_folder)
    return engine.Training(
        model,
        datasets.training_samples(splits, keep(ranking, config.fraction), teacher_logits),
        datasets.validation_samples(splits),
        config.recipe,
        config.seed,
        kd_weight=config.kd_weight,
        temperature=config.temperature,
    )

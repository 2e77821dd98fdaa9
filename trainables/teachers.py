"""Teachers: trained once, kept with their logits for every training sample."""

import json
from pathlib import Path

import torch
from torch import Tensor

from trainables import cache, datasets, engine, models, record
from trainables.config import ImageDataset, TeacherSpec
from trainables.seeds import derive
from trainables.sizes import count_kept

LOGITS = "logits"
"""Name of the logits among a teacher's tensors."""
WEIGHTS = "model."
"""Prefix of the state dict's names."""


def make_teacher(spec: TeacherSpec) -> cache.Entry:
    """Train a teacher on a stratified fraction of the training split.

    It sees the labels as given, noise included, like any student; the validation split
    only measures it. Its logits are those of the un-augmented images in evaluation mode.

    Returns:
        The state dict (names prefixed by `WEIGHTS`) and `LOGITS`, float32 `[n, classes]`
        for all n training samples, used for training or not; metadata
        `val_accuracy`, `val_loss`, `parameters` and `spec` (JSON).
    """
    if not isinstance(spec.dataset, ImageDataset):
        raise TypeError(f"the {spec.dataset.name} problem trains its own teachers")
    splits = datasets.load(spec.dataset)
    # A stream of its own: a teacher must not start from the weights of a student that
    # happens to have the same seed and architecture.
    seed = derive("teacher", spec.seed)
    kept = datasets.stratified(
        splits.labels,
        count_kept(len(splits.labels), spec.fraction),
        datasets.generator("teacher subset", spec.seed),
    )
    training = engine.Training(
        models.build(spec.architecture, splits.shape, splits.classes, derive("weights", seed)),
        datasets.training_samples(splits, kept),
        datasets.validation_samples(splits),
        spec.recipe,
        seed,
    )
    metrics = engine.train(training)
    everything = datasets.training_samples(splits).images
    with torch.no_grad():
        logits = engine.predict_logits(training.model, everything.to(training.device))
    state = training.model.state_dict()
    metadata = {
        record.VAL_ACCURACY: repr(metrics[record.VAL_ACCURACY]),
        record.VAL_LOSS: repr(metrics[record.VAL_LOSS]),
        "parameters": str(models.count_parameters(training.model)),
        "spec": json.dumps(spec.model_dump(mode="json")),
    }
    return {LOGITS: logits, **{WEIGHTS + name: value for name, value in state.items()}}, metadata


def prepare(spec: TeacherSpec, cache_folder: Path) -> dict[str, str]:
    """Make sure that a teacher is cached; returns its metadata."""
    return cache.get_or_make(cache_folder, spec.key, lambda: make_teacher(spec))[1]


def load_logits(spec: TeacherSpec, cache_folder: Path) -> Tensor:
    """A teacher's logits, float32 `[n, classes]`; it is trained if not cached."""
    return cache.get_or_make(cache_folder, spec.key, lambda: make_teacher(spec))[0][LOGITS]

"""Scores of a method: computed once, one ranking for every fraction."""

import json
from pathlib import Path

from torch import Tensor

from trainables import cache, datasets
from trainables.config import ImageDataset, ScoresSpec
from trainables.pruning.methods import METHODS
from trainables.pruning.proxies import Progress

SCORES = "scores"
"""Name of the scores in the cache, float32 `[n]`."""


def make_scores(
    spec: ScoresSpec, cache_folder: Path, progress: Progress | None = None
) -> cache.Entry:
    """Compute a method's scores of all n training samples.

    Raises:
        ValueError: the method is unknown or has no fixed scores.
    """
    if not isinstance(spec.dataset, ImageDataset):
        raise TypeError(f"the {spec.dataset.name} problem knows no scores")
    scoring = METHODS.get(spec.method)
    if scoring is None:
        known = ", ".join(name for name, function in METHODS.items() if function)
        raise ValueError(f"method {spec.method!r} has no fixed scores; those that have: {known}")
    splits = datasets.load(spec.dataset, cache_folder)
    scores = scoring(splits, spec.architecture, spec.recipe, spec.seeds, progress)
    metadata = {
        "samples": str(len(scores)),
        "mean": repr(scores.mean().item()),
        "maximum": repr(scores.max().item()),
        "spec": json.dumps(spec.model_dump(mode="json")),
    }
    return {SCORES: scores}, metadata


def load_scores(spec: ScoresSpec, cache_folder: Path) -> Tensor:
    """A method's scores, float32 `[n]`; they are computed if not cached."""
    entry = cache.get_or_make(cache_folder, spec.key, lambda: make_scores(spec, cache_folder))
    return entry[0][SCORES]

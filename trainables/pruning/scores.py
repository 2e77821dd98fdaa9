"""Scores of a method: computed once, one ranking for every fraction."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainables import cache, datasets
from trainables.config import ImageDataset, ScoresSpec
from trainables.pruning import methods
from trainables.pruning.proxies import Progress

SCORES = "scores"
"""Name of the scores in the cache, float32 `[n]`."""


def make_scores(
    spec: ScoresSpec, cache_folder: Path, progress: Progress | None = None
) -> cache.Entry:
    """A method's scores of all n training samples, over all seeds.

    Seeds that are cached are not scored again, so an interrupted scoring goes on.

    Args:
        spec: dataset, method, recipe and number of seeds.
        cache_folder: holds the seeds' own scores as well.
        progress: called with the epochs done and their total, over all seeds.

    Raises:
        ValueError: the method is unknown or has no fixed scores, or they are not what they
            should be.
        Diverged: a proxy's loss became NaN or infinite.
    """
    scores = combine(
        spec,
        [
            score_seed(spec, index, cache_folder, _over_seeds(progress, index, spec.seeds))
            for index in range(spec.seeds)
        ],
    )
    metadata = {
        "samples": str(len(scores)),
        "mean": repr(scores.mean().item()),
        "maximum": repr(scores.max().item()),
        "spec": json.dumps(spec.model_dump(mode="json")),
    }
    return {SCORES: scores}, metadata


def score_seed(
    spec: ScoresSpec, index: int, cache_folder: Path, progress: Progress | None = None
) -> Tensor:
    """One seed's scores, float32 `[n]`; they are computed if not cached.

    Args:
        spec: as for `make_scores`.
        index: of the seed, in [0, `spec.seeds`).
        cache_folder: where they are kept under `seed_key`.
        progress: called with this seed's epochs done and their total, unless it is cached.

    Raises:
        ValueError: as for `make_scores`.
        Diverged: the proxy's loss became NaN or infinite.
    """
    if not isinstance(spec.dataset, ImageDataset):
        raise TypeError(f"the {spec.dataset.name} problem knows no scores")
    scoring = methods.find(spec.method)
    splits = datasets.load(spec.dataset, cache_folder)

    def make() -> cache.Entry:
        scores = scoring(splits, spec.architecture, spec.recipe, index, spec.options, progress)
        return {SCORES: _checked(scores, len(splits.labels), spec.method)}, {"seed": str(index)}

    return cache.get_or_make(cache_folder, seed_key(spec, index), make)[0][SCORES]


def seed_key(spec: ScoresSpec, index: int) -> str:
    """Name of one seed's scores in the cache."""
    return f"{spec.key}-seed{index}"


def combine(spec: ScoresSpec, parts: Sequence[Tensor]) -> Tensor:
    """All seeds' scores as one, float32 `[n]`: their sum if the method counts, else their mean.

    Args:
        spec: of the scores.
        parts: float32 `[n]` of every seed.

    Raises:
        ValueError: not as many parts as seeds.
    """
    if len(parts) != spec.seeds:
        raise ValueError(f"{spec.label} need {spec.seeds} seeds, got {len(parts)}")
    stacked = torch.stack(list(parts))
    return stacked.sum(0) if spec.method in methods.SUMMED else stacked.mean(0)


def load_scores(spec: ScoresSpec, cache_folder: Path) -> Tensor:
    """A method's scores, float32 `[n]`; they are computed if not cached."""
    entry = cache.get_or_make(cache_folder, spec.key, lambda: make_scores(spec, cache_folder))
    return entry[0][SCORES]


def _over_seeds(progress: Progress | None, index: int, seeds: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, seeds * total)


def _checked(scores: object, samples: int, method: str) -> Tensor:
    """Scores as float32 on the CPU, if they are what `methods.Scoring` promises."""
    if not isinstance(scores, Tensor):
        raise ValueError(  # noqa: TRY004  (a user's part is at fault, like all below)
            f"the scores of {method} are a {type(scores).__name__}; allowed: a tensor [{samples}]"
        )
    if scores.shape != (samples,):
        raise ValueError(
            f"the scores of {method} are of shape {list(scores.shape)}; allowed: [{samples}], "
            "one per training sample"
        )
    if scores.is_complex():
        raise ValueError(f"the scores of {method} are {scores.dtype}; allowed: real numbers")
    scores = scores.detach().float().cpu()
    wrong = int((~torch.isfinite(scores)).sum())
    if wrong:
        raise ValueError(f"{wrong} of the {samples} scores of {method} are not finite")
    return scores

"""Which samples a search kept: exported for a training of the user's own."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.errors import known
from search.errors import KdcurveError
from search.places import Places
from search.space import SearchSpec
from trainables import datasets
from trainables.config import ImageDataset, RidgeDataset
from trainables.pruning.select import kept_samples, lost_classes


@dataclass(frozen=True)
class Subset:
    """The kept part of a training set."""

    positions: npt.NDArray[np.int64]
    """Where the kept samples stand in the published training set, `[k]`, ascending."""
    lost_classes: int
    """Classes without a kept sample."""


def require_samples(spec: SearchSpec) -> None:
    """Refuse the closed-form problem, which has neither samples to name nor weights."""
    if isinstance(spec.dataset, RidgeDataset):
        raise KdcurveError(f"{spec.name} is about the closed-form problem, which has no samples")


def export_subset(
    spec: SearchSpec, places: Places, method: str, fraction: float, seed: int = 0
) -> Subset:
    """The samples that trials of a method, fraction and seed are trained on.

    Scores come from the cache; what is missing there is made first.

    Args:
        spec: the search.
        places: where its cache is.
        method: one of the search's pruning methods.
        fraction: kept part of the training split, in (0, 1]; need not be one of the search's.
        seed: of the trials; it bears on `random` and `ccs` alone.

    Raises:
        KdcurveError: the search has no such method, or no samples that could be named.
    """
    require_samples(spec)
    methods = dict.fromkeys([*(spec.contexts.method or ()), *(spec.tune.method or ())])
    if method not in methods:
        raise KdcurveError(
            f"--method {method!r} is not one of {spec.name}'s; allowed: {known(methods)}"
        )
    if not 0.0 < fraction <= 1.0:
        raise KdcurveError(f"--fraction {fraction} is outside (0, 1]")
    context = spec.context_list[0]
    chosen = {"kd_weight": 0.0, "teacher": (spec.contexts.teacher or spec.tune.teacher or [""])[0]}
    config = spec.trial_config(context, {**chosen, "method": method, "fraction": fraction}, seed)
    assert isinstance(spec.dataset, ImageDataset)  # noqa: S101  (others were refused)
    splits = datasets.load(spec.dataset, places.cache)
    kept = kept_samples(config, splits, places.cache)
    assert splits.positions is not None  # noqa: S101  (`load` always says)
    return Subset(np.sort(splits.positions[kept].numpy()), lost_classes(kept, splits.labels))

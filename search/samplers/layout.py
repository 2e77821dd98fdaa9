"""How a search spreads its trials, for the plan; loads no sampler."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from search.designer import seeds_used
from search.samplers.grid import COMMON_POINTS, POINTS
from search.samplers.one_epoch import LOOK_EPOCHS, blocks
from search.samplers.planned import fixed_trials, other_values
from search.space import SearchSpec


@dataclass(frozen=True)
class Layout:
    """How the trials of a search are spread."""

    text: str
    """For people, e.g. `14 per context`."""
    seeds: int
    """Seeds that come into play."""
    looks: int = 0
    """Trials of every context that end after `one_epoch.LOOK_EPOCHS`."""


def _by_context(spec: SearchSpec) -> Layout:
    trials = spec.budget.trials_per_context
    text = "as many as the budget allows" if trials is None else f"{trials} per context"
    return Layout(text, seeds_used(spec))


def _curve(spec: SearchSpec) -> Layout:
    trials = spec.budget.trials_per_context
    many = "as many as the budget allows" if trials is None else f"{trials} per context on average"
    return Layout(f"{many}, where they teach most", spec.seeds.trials)


def _grid(spec: SearchSpec) -> Layout:
    trials = fixed_trials(spec)
    text = f"{trials} per context, {min(trials, POINTS)} KD weights in turn with a seed each"
    return Layout(text, min(trials, spec.seeds.trials))


def _grid_crn(spec: SearchSpec) -> Layout:
    trials = fixed_trials(spec)
    text = f"{trials} per context, {COMMON_POINTS} KD weights a seed"
    return Layout(text, _seeds(spec, math.ceil(trials / COMMON_POINTS)))


def _one_epoch_top_k(spec: SearchSpec) -> Layout:
    trials = fixed_trials(spec)
    made = blocks(trials)
    looks = sum(points for points, _ in made)
    text = (
        f"{trials} per context, {looks} of them for {LOOK_EPOCHS} epoch, {trials - looks} in full"
    )
    return Layout(text, _seeds(spec, len(made)), looks)


def _ray_stock(spec: SearchSpec) -> Layout:
    text = "one study and one comparison over all contexts"
    return Layout(text, min(len(spec.context_list) * fixed_trials(spec), spec.seeds.trials))


def _seeds(spec: SearchSpec, count: int) -> int:
    """Seeds of that many blocks."""
    return min(spec.seeds.trials, other_values(spec, count - 1)[1] + 1)


_LAYOUTS: dict[str, Callable[[SearchSpec], Layout]] = {
    "curve": _curve,
    "grid": _grid,
    "grid-crn": _grid_crn,
    "one-epoch-top-k": _one_epoch_top_k,
    "ray-stock": _ray_stock,
}


def layout(spec: SearchSpec) -> Layout:
    """How the trials of a search are spread."""
    return _LAYOUTS.get(spec.sampler, _by_context)(spec)

"""The grids that papers run: every KD weight in turn, with a seed of its own or a common one."""

import math

from search.designer import Known, Proposal, next_context
from search.faults import BLOCKS
from search.samplers.planned import other_values, spread
from search.space import SearchSpec

POINTS = BLOCKS["grid"]
COMMON_POINTS = BLOCKS["grid-crn"]


def grid(spec: SearchSpec, known: Known) -> Proposal | None:
    """Sweep after sweep over eleven KD weights, each trial with a seed of its own.

    Trials of a context have different seeds for as long as `seeds.trials` lasts (for the paper's
    grid, set it to the budget of a context); after that seeds take turns so that no KD
    weight meets one twice before it has met all.
    """
    context = next_context(spec, known)
    if context is None:
        return None
    block, point = divmod(len(known.get(context.key, ())), POINTS)
    values, sweep = other_values(spec, block)
    turn, seeds = sweep * POINTS + point, spec.seeds.trials
    seed = (turn + turn // math.lcm(POINTS, seeds)) % seeds
    return Proposal(context, {"kd_weight": spread(spec, POINTS)[point], **values}, seed)


def grid_crn(spec: SearchSpec, known: Known) -> Proposal | None:
    """Five KD weights under one seed (common random numbers), then under the next."""
    context = next_context(spec, known)
    if context is None:
        return None
    block, point = divmod(len(known.get(context.key, ())), COMMON_POINTS)
    values, seed = other_values(spec, block)
    weight = spread(spec, COMMON_POINTS)[point]
    return Proposal(context, {"kd_weight": weight, **values}, seed % spec.seeds.trials)

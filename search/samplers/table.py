"""Samplers by the name that a search file gives them."""

from collections.abc import Callable

from search.designer import Designer
from search.samplers.by_context import ByContext
from search.samplers.curve import Curve
from search.samplers.grid import grid, grid_crn
from search.samplers.one_epoch import one_epoch_top_k
from search.samplers.optuna_samplers import SAMPLERS
from search.samplers.planned import Choice, Planned
from search.samplers.presence import check_sampler
from search.samplers.ray_stock import RayStock
from search.space import SearchSpec
from search.studies import Studies

Factory = Callable[[SearchSpec, Studies], Designer]


def _planned(choose: Choice) -> Factory:
    return lambda spec, _: Planned(spec, choose)


DESIGNERS: dict[str, Factory] = {
    "curve": lambda spec, _: Curve(spec),
    **dict.fromkeys(SAMPLERS, ByContext),
    "grid": _planned(grid),
    "grid-crn": _planned(grid_crn),
    "one-epoch-top-k": _planned(one_epoch_top_k),
    "ray-stock": RayStock,
}


def make_designer(spec: SearchSpec, studies: Studies) -> Designer:
    """What chooses the trials of a search.

    Args:
        spec: the search; `spec.sampler` names it, or is `package.module:Class`.
        studies: Optuna's side of the search.

    Raises:
        UsageError: it needs what is not there.
    """
    check_sampler(spec.sampler)
    return DESIGNERS.get(spec.sampler, ByContext)(spec, studies)

"""Samplers by the name that a search file gives them."""

from collections.abc import Callable

from search.designer import Designer
from search.samplers.by_context import ByContext
from search.samplers.curve import Curve
from search.space import SearchSpec
from search.studies import Studies

DESIGNERS: dict[str, Callable[[SearchSpec, Studies], Designer]] = {
    "curve": lambda spec, _: Curve(spec),
    "tpe": ByContext,
    "random": ByContext,
}


def make_designer(spec: SearchSpec, studies: Studies) -> Designer:
    """What chooses the trials of a search.

    Args:
        spec: the search; `spec.sampler` names it.
        studies: Optuna's side of the search.
    """
    return DESIGNERS[spec.sampler](spec, studies)

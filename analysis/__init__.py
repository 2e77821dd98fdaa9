"""Recorded searches turned into answers: read, fit, predict, show.

The names below are loaded when first used, so that `import analysis` costs nothing and a
schedule can be applied without MLflow or pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.comparison import compare, compare_schedules
    from analysis.confirmation import with_test
    from analysis.curve import best, fit_curve
    from analysis.errors import AnalysisError
    from analysis.report import write_report
    from analysis.runs import load_runs
    from analysis.schedule import ExtrapolationWarning, Schedule, load_schedule
    from analysis.scheduling import fit_schedule
    from analysis.students import load_students

_HOMES = {
    "AnalysisError": "errors",
    "ExtrapolationWarning": "schedule",
    "Schedule": "schedule",
    "best": "curve",
    "compare": "comparison",
    "compare_schedules": "comparison",
    "fit_curve": "curve",
    "fit_schedule": "scheduling",
    "load_runs": "runs",
    "load_schedule": "schedule",
    "load_students": "students",
    "with_test": "confirmation",
    "write_report": "report",
}

__all__ = [
    "AnalysisError",
    "ExtrapolationWarning",
    "Schedule",
    "best",
    "compare",
    "compare_schedules",
    "fit_curve",
    "fit_schedule",
    "load_runs",
    "load_schedule",
    "load_students",
    "with_test",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Load a public name from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(f"analysis.{_HOMES[name]}"), name)

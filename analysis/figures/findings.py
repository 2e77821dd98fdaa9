"""What the figures are drawn from, and how contexts are told apart in them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.format import value_text

if TYPE_CHECKING:
    import pandas as pd

    from analysis.schedule import Schedule


@dataclass(frozen=True)
class Findings:
    """A search's trials and what was learned from them."""

    runs: "pd.DataFrame"
    """From `load_runs`."""
    curve: "pd.DataFrame"
    """From `fit_curve` of those runs."""
    lines: "pd.DataFrame"
    """From `fitted_lines` of both."""
    schedule: "Schedule | None" = None
    histories: "pd.DataFrame | None" = None
    """Learning curves of some trials: `trial`, `epoch`, `score`."""


def named(curve: "pd.DataFrame") -> "pd.DataFrame":
    """Add `panel` (the method) and `series` (the teacher, and what else tells rows apart)."""
    contexts = curve.attrs["contexts"]
    apart = [
        name
        for name in contexts
        if name not in ("method", "fraction") and (name == "teacher" or curve[name].nunique() > 1)
    ]
    series = [
        ", ".join(
            str(row[name]) if name == "teacher" else f"{name} {value_text(name, row[name])}"
            for name in apart
        )
        for row in curve.to_dict("records")
    ]
    panel = curve["method"] if "method" in contexts else "tuned"
    return curve.assign(panel=panel, series=[text or "tuned" for text in series])


def shown(attrs: dict[object, object]) -> dict[object, object]:
    """What a drawing has to know beside its frame: the objective and the intervals' level."""
    return {name: attrs[name] for name in ("objective", "level", "estimator")}

"""The answer: best KD weight against the data kept, with intervals and the fitted schedule."""

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.errors import AnalysisError
from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, named, shown
from analysis.figures.series import draw_points
from analysis.figures.style import fraction_axis, level_text, look, panels, styled
from analysis.format import fraction_text, with_interval

if TYPE_CHECKING:
    import pandas as pd

    from analysis.document import Law
    from analysis.schedule import Schedule

TITLE = "Best KD weight"
POINTS = 61
"""Fractions at which a schedule's line is drawn."""


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`kind`, `panel`, `series`, `fraction`, `kd_weight`, `low`, `high`).

    `kind` is `answer` (a row of the curve) or `schedule` (its line, over the range it was
    fitted on; `low` and `high` are its band where it has one).
    """
    import pandas as pd  # noqa: PLC0415

    curve = named(findings.curve)
    answers = curve[curve["kd_weight"].notna()].rename(
        columns={"kd_weight_low": "low", "kd_weight_high": "high"}
    )
    columns = ["panel", "series", "fraction", "kd_weight", "low", "high"]
    frames = [answers[columns].assign(kind="answer")]
    if findings.schedule is not None:
        frames += [_line(findings.schedule, law) for law in findings.schedule.laws]
    frame = pd.concat(frames, ignore_index=True)[["kind", *columns]]
    frame.attrs = shown(findings.curve.attrs)
    return frame


def _line(schedule: "Schedule", law: "Law") -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    fractions = np.geomspace(*law.range, POINTS)
    which = {"method": law.method, "teacher": law.teacher}
    low, high = _band(schedule, fractions, which)
    line = {"fraction": fractions, "kd_weight": schedule(fractions, **which), "low": low}
    line |= {"high": high, "panel": law.method, "series": law.teacher, "kind": "schedule"}
    return pd.DataFrame(line)


def _band(schedule: "Schedule", fractions: Any, which: dict[str, str]) -> tuple[Any, Any]:
    """Low and high of a schedule's band; missing where it has none."""
    try:
        return schedule.band(fractions, **which)
    except AnalysisError:  # a schedule of an earlier format
        return np.nan, np.nan


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    fitted = frame[frame["kind"] == "schedule"]
    band = ", shaded its band" if fitted["low"].notna().any() else ""
    lines = f" Lines are the fitted schedule{band}." if len(fitted) else ""
    return (
        "The KD weight to use against the training data kept, a panel per pruning method. Points "
        f"are the answers with {level_text(frame.attrs['level'])} intervals.{lines}"
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A panel per method, a colour, marker and line style per teacher."""
    answers = frame[frame["kind"] == "answer"]
    figure, placed = panels(dict.fromkeys(answers["panel"]), "best KD weight")
    drawing = Drawing(figure)
    order = sorted(answers["series"].unique())
    entries: dict[str, tuple[Any, int]] = {}
    for panel, axes in placed.items():
        rows = frame[frame["panel"] == panel]
        fraction_axis(axes, sorted(answers["fraction"].unique()))
        axes.set_ylim(-0.04, 1.04)
        for k, series in enumerate(order):
            mine = rows[rows["series"] == series]
            points = mine[mine["kind"] == "answer"]
            if len(points):
                texts = [
                    f"{panel}, {series}, {fraction_text(row['fraction'])} kept\n"
                    f"KD weight {with_interval(row['kd_weight'], row['low'], row['high'])}"
                    for row in points.to_dict("records")
                ]
                entries[series] = draw_points(drawing, axes, points, "kd_weight", k, texts), k
            line = mine[mine["kind"] == "schedule"]
            style = look(k) | {"marker": "", "lw": 1.6}
            if line["low"].notna().any():
                shade = {"color": style["color"], "alpha": 0.12, "lw": 0}
                band = axes.fill_between(line["fraction"], line["low"], line["high"], **shade)
                drawing.assign([band], k)
            drawing.assign(axes.plot(line["fraction"], line["kd_weight"], **style), k)
    drawing.legend(entries)
    lines = ", schedule (lines)" if (frame["kind"] == "schedule").any() else ""
    level = level_text(frame.attrs["level"])
    figure.suptitle(f"Best KD weight with {level} intervals{lines}", fontsize=10)
    return drawing

"""A claim's picture: accuracy on test, or the best KD weight, against what the study varied."""

from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.claims import LEVEL, Claim, Evidence, means, size
from analysis.figures.drawing import Drawing
from analysis.figures.series import SHIFT, draw_intervals
from analysis.figures.style import fraction_axis, level_text, panels, styled
from analysis.format import fraction_text, with_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Layout(NamedTuple):
    """Which column of a context stands where."""

    panel: str
    series: str
    x: str
    title: str


LAYOUTS: dict[str, Layout] = {
    "gain": Layout("method", "arm", "fraction", "Accuracy with and without distillation"),
    "random": Layout("arm", "method", "fraction", "Random pruning beside pruning by scores"),
    "kd-weight": Layout("method", "label_noise", "fraction", "Best KD weight and label noise"),
    "teacher": Layout("fraction", "arm", "teacher", "Teachers of different size"),
    "teacher-fraction": Layout(
        "fraction", "arm", "teacher_fraction", "Teachers trained on a part of the data"
    ),
    "temperature": Layout(
        "fraction", "arm", "temperature", "Temperatures, each with its best KD weight"
    ),
}
"""By claim."""
X_LABELS = {
    "fraction": "training data kept",
    "teacher": "teacher",
    "teacher_fraction": "training data of the teacher",
    "temperature": "temperature τ",
}


def tidy(name: str, claim: Claim, evidence: Evidence) -> "pd.DataFrame":
    """Rows (`panel`, `series`, `x`, `value`, `low`, `high`): percent of accuracy, or KD weights.

    `attrs` holds what is said of the axes.
    """
    layout = LAYOUTS[name]
    if claim.tested:
        found = means(evidence.scores).rename(columns={"score": "value"})
        found[["value", "low", "high"]] *= 100.0
        ylabel = "test accuracy (%)"
    else:
        found = evidence.curve(LEVEL).rename(
            columns={"kd_weight": "value", "kd_weight_low": "low", "kd_weight_high": "high"}
        )
        found = found[found["value"].notna()]
        ylabel = "best KD weight"
    frame = found.assign(
        panel=[_text(layout.panel, value) for value in found[layout.panel]],
        series=[_text(layout.series, value) for value in found[layout.series]],
        x=found[layout.x],
    )[["panel", "series", "x", "value", "low", "high"]]
    frame.attrs = {"x": layout.x, "ylabel": ylabel, "title": layout.title}
    return frame


def _text(column: str, value: Any) -> str:
    if column == "fraction":
        return f"{fraction_text(value)} kept"
    return f"label noise {fraction_text(value)}" if column == "label_noise" else str(value)


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A panel, and in it a colour, marker and line style, for what the layout says."""
    figure, placed = panels(dict.fromkeys(frame["panel"]), frame.attrs["ylabel"], sharey=False)
    drawing = Drawing(figure)
    entries: dict[str, tuple[Any, int]] = {}
    for panel, axes in placed.items():
        rows = frame[frame["panel"] == panel]
        place = _axis(axes, frame)
        for k, series in enumerate(dict.fromkeys(frame["series"])):
            mine = rows[rows["series"] == series].sort_values("x", key=lambda x: x.map(place))
            if mine.empty:
                continue
            x = mine["x"].map(place).to_numpy(dtype=float)
            x = x + 0.04 * k if frame.attrs["x"] == "teacher" else x * SHIFT**k
            values = [mine[name].to_numpy() for name in ("value", "low", "high")]
            label = f"{panel}, {series}, {X_LABELS[frame.attrs['x']]}"
            texts = [
                f"{label} {row['x']}\n{with_interval(row['value'], row['low'], row['high'])}"
                for row in mine.to_dict("records")
            ]
            entries[series] = draw_intervals(drawing, axes, x, values, k, texts), k
    drawing.legend(entries)
    level = level_text(LEVEL)
    figure.suptitle(f"{frame.attrs['title']}, with {level} intervals", fontsize=10)
    return drawing


def _axis(axes: "Axes", frame: "pd.DataFrame") -> dict[Any, float]:
    """Prepare the horizontal axis; where each value stands on it."""
    name, values = frame.attrs["x"], list(frame["x"].unique())
    if name == "teacher":
        ordered = sorted(values, key=size)
        axes.set_xticks(range(len(ordered)), [f"{each}\n{size(each):,}" for each in ordered])
        axes.margins(x=0.15)
        axes.set_xlabel("teacher and its parameters")
        return {value: float(k) for k, value in enumerate(ordered)}
    ordered = sorted(values)
    fraction_axis(axes, ordered, label=False)
    if name == "temperature":
        axes.set_xticks(ordered, [f"{value:g}" for value in ordered])
    axes.set_xlabel(X_LABELS[name])
    return {value: float(value) for value in ordered}

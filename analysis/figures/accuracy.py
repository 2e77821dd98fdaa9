"""Score against the data kept, with the best KD weight and without distillation."""

from typing import TYPE_CHECKING, Any

from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, named, shown
from analysis.figures.series import draw_points
from analysis.figures.style import GREY, fraction_axis, level_text, panels, styled
from analysis.format import fraction_text, score_scale, score_text, score_title

if TYPE_CHECKING:
    import pandas as pd

TITLE = "With and without distillation"
WITHOUT = "no distillation"


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`panel`, `series`, `fraction`, `score`, `low`, `high`) in the objective's unit.

    Without distillation the teacher plays no part: `series` is then `WITHOUT`, and the score the
    mean of the teachers' estimates.
    """
    import pandas as pd  # noqa: PLC0415

    curve = named(findings.curve)
    answers = curve[curve["score"].notna()]
    columns = ["panel", "series", "fraction", "score", "low", "high"]
    best = answers.rename(columns={"score_low": "low", "score_high": "high"})[columns]
    without = (
        answers.groupby(["panel", "fraction"], sort=False)["score_without_kd"]
        .mean()
        .dropna()
        .rename("score")
        .reset_index()
        .assign(series=WITHOUT, low=float("nan"), high=float("nan"))
    )
    frame = pd.concat([best, without[columns]], ignore_index=True)
    frame.attrs = shown(findings.curve.attrs)
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    return (
        "The estimated score at the best KD weight, and without distillation (the mean over "
        "teachers, which play no part there). Each panel has its own scale."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A panel per method, a line per teacher and one without."""
    objective = frame.attrs["objective"]
    scale = score_scale(objective)
    figure, placed = panels(dict.fromkeys(frame["panel"]), score_title(objective), sharey=False)
    drawing = Drawing(figure)
    order = sorted(set(frame["series"]) - {WITHOUT})
    entries = {}
    for panel, axes in placed.items():
        rows = frame[frame["panel"] == panel]
        fraction_axis(axes, sorted(frame["fraction"].unique()))
        for k, series in enumerate(order):
            mine = rows[rows["series"] == series]
            texts = [
                f"{panel}, {series}, {fraction_text(row['fraction'])} kept\n"
                f"{score_text(objective, row['score'], row['low'], row['high'])}"
                for row in mine.to_dict("records")
            ]
            if len(mine):
                bars = draw_points(drawing, axes, mine, "score", k, texts, scale=scale, line=True)
                entries[series] = bars, k
        without = rows[rows["series"] == WITHOUT].sort_values("fraction")
        style: dict[str, Any] = {"color": GREY, "marker": "x", "ls": ":", "lw": 1.4, "ms": 5}
        (line,) = axes.plot(without["fraction"], scale * without["score"], **style)
        drawing.assign([line], len(order))
        for row in without.to_dict("records"):
            text = f"{panel}, {WITHOUT}, {fraction_text(row['fraction'])} kept\n"
            text += score_text(objective, row["score"])
            drawing.mark(axes, row["fraction"], scale * row["score"], text, len(order))
        last = line
    drawing.legend({**entries, WITHOUT: (last, len(order))})
    level = level_text(frame.attrs["level"])
    figure.suptitle(f"Score at the best KD weight with {level} intervals", fontsize=10)
    return drawing

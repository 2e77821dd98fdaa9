"""Teacher capacity against the score: what a larger teacher is worth at each fraction."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, shown
from analysis.figures.style import LINES, MARKERS, panels, shades, styled
from analysis.format import fraction_text, score_scale, score_text, score_title
from trainables.costs import parameters

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Teachers"
IMAGES = {
    "digits": (1, 10),
    "fashion_mnist": (1, 10),
    "cifar10": (3, 10),
    "cifar100": (3, 100),
    "svhn": (3, 10),
}
"""Channels and classes of the published data sets, by which a network's size is known."""


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`panel`, `teacher`, `parameters`, `fraction`, `score`, `low`, `high`).

    `parameters` is missing where the teacher is no network of ours. Empty where one teacher was
    used, or the search chose it. Where contexts differ in more than method, teacher and fraction,
    the best of them stands.
    """
    curve = findings.curve
    if "teacher" not in curve.attrs["contexts"] or curve["teacher"].nunique() < 2:  # noqa: PLR2004
        curve = curve.iloc[:0]
    curve = curve[curve["score"].notna()].sort_values("score", ascending=False)
    panel = curve["method"] if "method" in curve.attrs["contexts"] else "tuned"
    frame = curve.assign(
        panel=panel,
        parameters=[
            _size(teacher, dataset)
            for teacher, dataset in zip(curve["teacher"], curve["dataset"], strict=True)
        ],
        low=curve["score_low"],
        high=curve["score_high"],
    ).drop_duplicates(["panel", "teacher", "fraction"])
    # Teachers of unknown size in the order in which the search took them up.
    seen = {teacher: i for i, teacher in enumerate(findings.runs["teacher"].drop_duplicates())}
    frame = frame.sort_values(
        ["panel", "fraction", "parameters", "teacher"],
        key=lambda column: column.map(seen) if column.name == "teacher" else column,
        ignore_index=True,
    )
    columns = ["panel", "teacher", "parameters", "fraction", "score", "low", "high"]
    frame = frame[columns]
    frame.attrs = shown(findings.curve.attrs)
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    axis = (
        "the teacher's number of parameters"
        if frame["parameters"].notna().all()
        else "the teacher, in the order in which the search took them up"
    )
    return f"The estimated score at the best KD weight against {axis}, a line per fraction kept."


def _size(teacher: str, dataset: str) -> float:
    known = parameters(teacher, *IMAGES[dataset]) if dataset in IMAGES else None
    return np.nan if known is None else float(known)


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A panel per method, a line per fraction."""
    objective = frame.attrs["objective"]
    scale = score_scale(objective)
    figure, placed = panels(dict.fromkeys(frame["panel"]), score_title(objective))
    drawing = Drawing(figure)
    sized = bool(frame["parameters"].notna().all())
    teachers = list(dict.fromkeys(frame["teacher"]))
    place = dict(
        zip(frame["teacher"], frame["parameters"], strict=True)
        if sized
        else zip(teachers, range(len(teachers)), strict=True)
    )
    fractions = sorted(frame["fraction"].unique())
    entries = {}
    for panel, axes in placed.items():
        for k, (fraction, color) in enumerate(zip(fractions, shades(len(fractions)), strict=True)):
            mine = frame[(frame["panel"] == panel) & (frame["fraction"] == fraction)]
            x = np.array([place[teacher] for teacher in mine["teacher"]], dtype=float)
            x *= 1.0 if not sized else 1.02 ** (k - len(fractions) / 2)
            value, low, high = (scale * mine[name].to_numpy() for name in ("score", "low", "high"))
            bars = axes.errorbar(
                x,
                value,
                yerr=np.nan_to_num([value - low, high - value]),
                color=color,
                marker=MARKERS[k % len(MARKERS)],
                ls=LINES[k % len(LINES)],
                ms=5,
                lw=1.4,
                elinewidth=0.9,
                capsize=2.5,
            )
            drawing.assign(bars.get_children(), k)
            entries[f"{fraction_text(fraction)} kept"] = bars, k
            for at, row in zip(x, mine.to_dict("records"), strict=True):
                size = f" ({row['parameters']:,.0f} parameters)" if sized else ""
                text = f"{panel}, {row['teacher']}{size}, {fraction_text(fraction)} kept\n"
                text += score_text(objective, row["score"], row["low"], row["high"])
                drawing.mark(axes, at, scale * row["score"], text, k)
        if sized:
            axes.set_xscale("log")
            axes.minorticks_off()
        names = [f"{t}\n{place[t]:,.0f}" if sized else t for t in place]
        axes.set_xticks(list(place.values()), names)
        axes.margins(x=0.2)
        axes.set_xlabel("teacher and its parameters" if sized else "teacher")
    drawing.legend(entries)
    return drawing

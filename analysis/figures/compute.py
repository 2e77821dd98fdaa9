"""Compute spent per context, against what the full grid would have cost."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, named, shown
from analysis.figures.style import GREY, fraction_axis, look, panels, styled
from analysis.format import fraction_text

if TYPE_CHECKING:
    import pandas as pd

TITLE = "What it cost"
GRID_WEIGHTS = 11
"""KD weights of the full grid: 0 to 1 in steps of 0.1, as in the paper."""
GRID = "full grid"


def tidy(findings: Findings) -> "pd.DataFrame":
    """A row per context: `spent` and `grid` in epochs × samples, and `trials`.

    The grid is 11 KD weights under each of the search's seeds, all trained for the full budget.
    """
    runs = findings.runs
    kept, seeds = runs["kept_samples"].astype(float), runs["seed"].nunique()
    costs = runs.assign(
        spent=runs["epoch"].astype(float).fillna(0.0) * kept,
        grid=GRID_WEIGHTS * seeds * runs["budget_epochs"].astype(float) * kept,
    ).groupby("context")
    sums = costs.agg(spent=("spent", "sum"), grid=("grid", "max"), trials=("trial", "size"))
    frame = named(findings.curve)[["context", "panel", "series", "fraction"]]
    frame = frame.merge(sums, left_on="context", right_index=True)
    frame = frame[frame["grid"].notna()].reset_index(drop=True)  # what was kept is recorded
    frame.attrs = {**shown(findings.curve.attrs), "seeds": int(seeds)}
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    seeds = frame.attrs["seeds"]
    share = frame["spent"].sum() / frame["grid"].sum()
    return (
        f"Compute of every context, in epochs × samples. The full grid is {GRID_WEIGHTS} KD "
        f"weights under {'each of ' if seeds > 1 else ''}{seeds} seed{'s' * (seeds > 1)}, trained "
        f"to the end; the search took {share:.0%} of it. Teachers and scores are shared and not "
        "counted."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A panel per method, points per teacher, the grid as a line."""
    figure, placed = panels(dict.fromkeys(frame["panel"]), "epochs × samples")
    drawing = Drawing(figure)
    order = sorted(frame["series"].unique())
    entries = {}
    for panel, axes in placed.items():
        rows = frame[frame["panel"] == panel].sort_values("fraction")
        fraction_axis(axes, sorted(frame["fraction"].unique()))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_minor_locator(NullLocator())
        grid = rows.drop_duplicates("fraction")
        style: dict[str, Any] = {"color": GREY, "ls": ":", "marker": "_", "ms": 12, "lw": 1.4}
        (line,) = axes.plot(grid["fraction"], grid["grid"], **style)
        drawing.assign([line], len(order))
        for k, series in enumerate(order):
            mine = rows[rows["series"] == series]
            (points,) = axes.plot(
                mine["fraction"] * 1.035**k, mine["spent"], **look(k), ms=5, lw=1.3
            )
            drawing.assign([points], k)
            entries[series] = points, k
            for row in mine.to_dict("records"):
                text = (
                    f"{panel}, {series}, {fraction_text(row['fraction'])} kept\n{row['trials']} "
                    f"trials: {row['spent']:,.0f}, {row['spent'] / row['grid']:.0%} of the grid's "
                    f"{row['grid']:,.0f}"
                )
                drawing.mark(axes, row["fraction"] * 1.035**k, row["spent"], text, k)
        axes.set_ylim(*_decades(frame))
    drawing.legend({**entries, GRID: (line, len(order))})
    return drawing


def _decades(frame: "pd.DataFrame") -> tuple[float, float]:
    """Limits that leave room above and below."""
    spent = frame["spent"][frame["spent"] > 0]
    return float(spent.min()) / 2, float(np.max(frame["grid"])) * 2

"""Score over KD weight and data kept: a heat map with the ridge of best values."""

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, named, shown
from analysis.figures.style import SHADES, fraction_axis, styled
from analysis.format import fraction_text, score_scale, score_text, score_title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TITLE = "The landscape"
LEVELS = 8
"""Lines of equal score."""
MARKED = 5
"""Every so many-th KD weight can be pointed at."""
_HALO = [patheffects.withStroke(linewidth=2.6, foreground="white")]


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`kind`, `panel`, `series`, `fraction`, `kd_weight`, `score`, `low`, `high`).

    `kind` is `fit` (the fitted mean score) or `best` (the recommended KD weight; `low` and
    `high` enclose the KD weights that are as good). Empty unless some method and teacher has
    answers at two or more fractions.
    """
    import pandas as pd  # noqa: PLC0415

    curve = named(findings.curve)
    curve = curve[curve["context"].isin(findings.lines["context"])]
    enough = curve.groupby(["panel", "series"])["fraction"].transform("nunique") > 1
    curve = curve[enough]
    where = curve[["context", "panel", "series", "fraction"]]
    lines = where.merge(findings.lines[["context", "kd_weight", "mean"]], on="context")
    best = curve.rename(columns={"flat_low": "low", "flat_high": "high"})
    columns = ["kind", "panel", "series", "fraction", "kd_weight", "score", "low", "high"]
    fits = lines.rename(columns={"mean": "score"}).assign(low=np.nan, high=np.nan, kind="fit")
    frame = pd.concat([fits[columns], best.assign(kind="best")[columns]], ignore_index=True)
    frame.attrs = shown(findings.curve.attrs)
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    return (
        "The fitted mean score over KD weight and training data kept; lines join equal scores. "
        "Dots are the recommended KD weights, the ridge; between the dashed lines KD weights "
        "are as good. Where a line of equal score bends to the left at the ridge, distillation "
        "replaces data. Steps of the shading double downwards from the best. Between the fractions "
        "that were run it is interpolated."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A column per method, a row per teacher, one scale for all."""
    objective = frame.attrs["objective"]
    scale = score_scale(objective)
    columns = list(dict.fromkeys(frame["panel"]))
    rows = sorted(frame["series"].unique())
    size = (max(1.6 + 2.6 * len(columns), 5.0), 0.9 + 2.2 * len(rows))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))
    grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    drawing = Drawing(figure)
    scores = scale * frame.loc[frame["kind"] == "fit", "score"]
    levels = _levels(float(scores.min()), float(scores.max()))
    drawn = None
    for (i, j), axes in np.ndenumerate(grid):
        mine = frame[(frame["panel"] == columns[j]) & (frame["series"] == rows[i])]
        if mine.empty:
            axes.set_visible(False)
            continue
        drawn = _panel(drawing, axes, mine, levels, objective)
        fraction_axis(axes, sorted(frame["fraction"].unique()), label=i == len(rows) - 1)
        fractions = sorted(mine["fraction"].unique())
        axes.set_xlim(fractions[0], fractions[-1])
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, visible=True)
    for axes, row in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(f"{row}\nKD weight")
    assert drawn is not None  # noqa: S101  (a frame has a panel)
    bar = figure.colorbar(
        drawn, ax=grid, label=score_title(objective), aspect=30, spacing="uniform", format="%g"
    )
    bar.outline.set_visible(False)
    return drawing


def _levels(low: float, high: float) -> Any:
    """Scores at distances from the best that double: near the ridge small differences count."""
    finest = max(high - low, 1e-6) / 2**LEVELS
    magnitude = 10.0 ** np.floor(np.log10(finest))
    step = magnitude * next(each for each in (1, 2, 5, 10) if each * magnitude >= finest)
    top = step * np.ceil(high / step)
    return np.round([*(top - step * 2.0 ** np.arange(LEVELS)[::-1]), top], 10)


def _panel(
    drawing: Drawing, axes: "Axes", rows: "pd.DataFrame", levels: Any, objective: str
) -> Any:
    scale = score_scale(objective)
    fits = rows[rows["kind"] == "fit"]
    table = fits.pivot_table(index="kd_weight", columns="fraction", values="score")
    x, y, z = table.columns.to_numpy(), table.index.to_numpy(), scale * table.to_numpy()
    axes.grid(visible=False)
    norm = BoundaryNorm(levels, mpl.colormaps[SHADES].N, extend="min")
    drawn = axes.contourf(x, y, z, levels, cmap=SHADES, norm=norm, extend="min")
    # White lines on dark shades, dark ones on light shades.
    ink = ["white"] * (LEVELS // 2 + 1) + ["black"] * (LEVELS - LEVELS // 2)
    lines = axes.contour(x, y, z, levels, colors=ink, linewidths=0.7)
    axes.clabel(lines, fontsize=6.5, fmt="%g", inline_spacing=2)
    best = rows[rows["kind"] == "best"].sort_values("fraction")
    for edge in ("low", "high"):
        axes.plot(best["fraction"], best[edge], "--", color="black", lw=1.0, path_effects=_HALO)
    axes.plot(
        best["fraction"],
        best["kd_weight"],
        "-o",
        color="black",
        ms=4.5,
        lw=1.5,
        path_effects=_HALO,
        clip_on=False,
        zorder=5,
    )
    axes.set_ylim(0, 1)
    title = f"{rows['panel'].iloc[0]}, {rows['series'].iloc[0]}"
    marked = sorted(fits["kd_weight"].unique())[::MARKED]
    for row in [*fits[fits["kd_weight"].isin(marked)].to_dict("records"), *best.to_dict("records")]:
        what = "best KD weight" if row["kind"] == "best" else "KD weight"
        text = f"{title}, {fraction_text(row['fraction'])} kept\n{what} {row['kd_weight']:.2f}: "
        text += score_text(objective, row["score"])
        drawing.mark(axes, row["fraction"], row["kd_weight"], text)
    return drawn

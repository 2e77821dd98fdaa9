"""Parallel coordinates: what the best trials of every context have in common."""

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.curve import usable
from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, shown
from analysis.figures.style import INK, SHADES, styled
from analysis.format import heading, score_text, value_text

if TYPE_CHECKING:
    import pandas as pd

TITLE = "All settings at a glance"
MOST = 400
"""Trials drawn; of more, evenly chosen ones."""
AXES = ("method", "teacher", "teacher_fraction", "temperature", "fraction", "kd_weight")
RANK = "rank"
JITTER = 0.03
"""How far lines are spread at a category, as a part of the axis: one line would hide the rest."""


def tidy(findings: Findings) -> "pd.DataFrame":
    """A row per complete trial: what varies between trials, `score` and `rank`.

    `rank` is the place of a score among those of its context, from 0 (worst) to 1 (best).
    Contexts differ by far more than settings do: only ranks can be compared across them.
    """
    whole = findings.runs[usable(findings.runs)]
    groups = whole.groupby("context")["score"]
    others = np.maximum(groups.transform("size") - 1, 1)
    runs = whole.assign(rank=(groups.rank() - 1) / others)
    if len(runs) > MOST:
        runs = runs.iloc[np.linspace(0, len(runs) - 1, MOST).round().astype(int)]
    varying = [name for name in AXES if runs[name].nunique() > 1]
    frame = runs[["trial", *varying, "score", RANK]].reset_index(drop=True)
    frame.attrs = {**shown(findings.curve.attrs), "of": len(whole)}
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    of = frame.attrs["of"]
    which = "Every complete trial" if len(frame) == of else f"{len(frame)} of {of} complete trials"
    return (
        f"{which} as a line through its settings, shaded by its rank among those of its context, "
        "from the worst (dark) to the best (light, drawn last): with the score itself the data "
        "kept would decide all."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """An axis per setting, a line per trial."""
    objective = frame.attrs["objective"]
    names = [name for name in frame.columns if name not in ("trial", "score")]
    figure = Figure(figsize=(1.6 + 1.7 * len(names), 3.9), layout="constrained")
    axes = figure.subplots()
    drawing = Drawing(figure)
    rng = np.random.default_rng(0)
    heights = np.column_stack([_height(axes, i, name, frame, rng) for i, name in enumerate(names)])
    order = np.argsort(frame[RANK].to_numpy())
    lines = [np.column_stack([range(len(names)), heights[i]]) for i in order]
    ranks = frame[RANK].to_numpy()[order]
    drawn = LineCollection(lines, cmap=SHADES, lw=0.6 + 0.6 * ranks, alpha=0.35 + 0.5 * ranks)
    drawn.set_array(ranks)
    axes.add_collection(drawn)
    for i in order:
        row = frame.iloc[i]
        settings = ", ".join(f"{heading(n)} {_text(n, row[n])}" for n in names if n != RANK)
        text = f"trial {row['trial']}: {settings}\n{score_text(objective, row['score'])}, "
        text += f"better than {row[RANK]:.0%} of its context"
        drawing.mark(axes, len(names) - 1, heights[i][-1], text)
    axes.set_xlim(-0.35, len(names) - 0.65)
    axes.set_ylim(-0.06, 1.06)
    titles = {RANK: "rank in its context"}
    axes.set_xticks(range(len(names)), [titles.get(name, heading(name)) for name in names])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return drawing


def _height(
    axes: "mpl.axes.Axes", place: int, name: str, frame: "pd.DataFrame", rng: np.random.Generator
) -> np.ndarray:
    """Where the trials cross an axis, in 0 to 1, and the axis with its labels."""
    axes.axvline(place, color=INK, lw=0.8, zorder=3)
    column = frame[name]
    jitter = np.zeros(len(frame))
    if column.dtype.kind == "f" and name != "fraction":
        low, high = (0.0, 1.0) if name in ("kd_weight", RANK) else (column.min(), column.max())
        ticks = {value: _text(name, value) for value in np.linspace(low, high, 5)}
        heights = (column.to_numpy() - low) / max(high - low, 1e-12)
        at = (np.array(list(ticks)) - low) / max(high - low, 1e-12)
    else:
        values = sorted(column.unique())
        ticks = {value: _text(name, value) for value in values}
        at = np.linspace(0.04, 0.96, len(values))
        heights = at[column.map(values.index).to_numpy()]
        jitter = rng.uniform(-JITTER, JITTER, len(frame))
    for y, text in zip(at, ticks.values(), strict=True):
        axes.text(
            place - 0.04, y, text, ha="right", va="center", fontsize=8, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip
    return heights + jitter


def _text(name: str, value: Any) -> str:
    if name == RANK:
        return {0.0: "worst", 0.5: "median", 1.0: "best"}.get(float(value), "")
    return f"{value:.2f}" if name == "kd_weight" else value_text(name, value)

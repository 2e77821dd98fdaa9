"""The trials of every context and the fit through them."""

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from analysis.curve import usable
from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, named, shown
from analysis.figures.style import COLORS, GREY, styled
from analysis.format import (
    fraction_text,
    score_scale,
    score_text,
    score_title,
    with_interval,
)
from trainables.record import Outcome

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TITLE = "The trials behind each answer"
SIZE = (2.5, 1.9)
"""Of a panel with its gap, in inches."""
MARGINS = (0.95, 0.1, 0.55, 0.3)
"""Left, right, below and above the panels, in inches."""


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows of three kinds, each with `context`, `panel`, `series`, `fraction` and `kd_weight`.

    `kind` is `trial` (`trial`, `seed`, `outcome`, `score`), `fit` (`score` is the fitted mean,
    with `low` and `high`) or `answer` (one per context; missing values where there is none).
    """
    import pandas as pd  # noqa: PLC0415

    curve = named(findings.curve)
    where = curve[["context", "panel", "series", "fraction"]]
    runs = findings.runs
    outcomes = runs["outcome"].where(usable(runs) | (runs["outcome"] != Outcome.COMPLETE), "failed")
    trials = runs.assign(kind="trial", outcome=outcomes)
    columns = ["kind", "context", "trial", "kd_weight", "seed", "outcome", "score"]
    lines = findings.lines.rename(columns={"mean": "score"}).assign(kind="fit")
    answers = curve.rename(columns={"kd_weight_low": "low", "kd_weight_high": "high"})
    answers = answers.assign(kind="answer")[
        ["kind", "context", "kd_weight", "low", "high", "score"]
    ]
    frame = pd.concat([trials[columns], lines, answers], ignore_index=True)
    frame = where.merge(frame, on="context", how="left")
    frame.attrs = shown(findings.curve.attrs)
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    return (
        "Every trial behind the answers. Dots are complete trials, shaded by seed; crosses at the "
        "foot are trials stopped early (×) or failed (+). The line is the fitted mean with its "
        "interval, the vertical line the recommended KD weight. Each panel has its own scale."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A row per method and teacher, a column per fraction."""
    objective = frame.attrs["objective"]
    keys = list(dict.fromkeys(zip(frame["panel"], frame["series"], strict=True)))
    fractions = sorted(frame["fraction"].unique())
    figure, grid = _grid(len(keys), len(fractions))
    drawing = Drawing(figure)
    for axes in grid.flat:
        axes.set_visible(False)
    seeds = sorted(frame["seed"].dropna().unique())
    for _, rows in frame.groupby("context", sort=False):
        first = rows.iloc[0]
        place = keys.index((first["panel"], first["series"])), fractions.index(first["fraction"])
        axes = grid[place]
        axes.set_visible(True)
        # The name under which the report finds the panel of a context.
        axes.set_label(str(first["context"]))
        _panel(drawing, axes, rows, seeds, objective)
    for axes, fraction in zip(grid[0], fractions, strict=True):
        axes.set_title(f"{fraction_text(fraction)} kept", visible=True)
    for axes, (panel, series) in zip(grid[:, 0], keys, strict=True):
        axes.set_ylabel(f"{panel}\n{series}", fontsize=8)
    figure.supxlabel("KD weight", fontsize=9, y=0.06 / figure.get_figheight())
    figure.supylabel(score_title(objective), fontsize=9, x=0.06 / figure.get_figwidth())
    return drawing


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    """Panels by rule: a layout fitted to so many of them would take seconds."""
    left, right, below, above = MARGINS
    width, height = left + SIZE[0] * columns + right, below + SIZE[1] * rows + above
    figure = Figure(figsize=(width, height))
    edges = {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": below / height,
        "top": 1 - above / height,
    }
    gaps = {"wspace": 0.22, "hspace": 0.22}
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw={**edges, **gaps})


def _panel(
    drawing: Drawing, axes: "Axes", rows: "pd.DataFrame", seeds: list[Any], objective: str
) -> None:
    scale = score_scale(objective)
    trials = rows[rows["kind"] == "trial"]
    complete = trials[trials["outcome"] == Outcome.COMPLETE]
    shade = [0.1 + 0.55 * seeds.index(seed) / max(1, len(seeds) - 1) for seed in complete["seed"]]
    axes.scatter(
        complete["kd_weight"],
        scale * complete["score"],
        c=[str(grey) for grey in shade],
        s=14,
        zorder=3,
        linewidths=0,
    )
    for trial in complete.to_dict("records"):
        score = score_text(objective, trial["score"])
        text = f"trial {trial['trial']}, seed {trial['seed']}\nKD weight {trial['kd_weight']:.2f}: "
        drawing.mark(axes, trial["kd_weight"], scale * trial["score"], text + score)
    line = rows[rows["kind"] == "fit"]
    if len(line):
        _fit(drawing, axes, line, rows[rows["kind"] == "answer"].iloc[0].to_dict(), objective)
    else:
        axes.text(0.5, 0.9, "no answer", transform=axes.transAxes, ha="center", color=GREY)
    _foot(axes, trials)
    axes.set_xlim(-0.05, 1.05)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.tick_params(labelsize=7.5)
    axes.locator_params(axis="y", nbins=4)


def _fit(
    drawing: Drawing,
    axes: "Axes",
    line: "pd.DataFrame",
    answer: Mapping[Hashable, Any],
    objective: str,
) -> None:
    scale = score_scale(objective)
    axes.plot(line["kd_weight"], scale * line["score"], color=COLORS[0], lw=1.5)
    # The scale is the trials'; a band that few trials leave wide may run out of the panel.
    limits = axes.get_ylim()
    low, high = scale * line["low"].astype(float), scale * line["high"].astype(float)
    axes.fill_between(line["kd_weight"], low, high, color=COLORS[0], alpha=0.18, lw=0)
    span = limits[1] - limits[0]
    axes.set_ylim(limits[0] - 0.25 * span, limits[1] + 0.1 * span)
    if np.isfinite(answer["kd_weight"]):
        axes.axvline(answer["kd_weight"], color=COLORS[1], lw=1.3, ls="--")
        best = with_interval(answer["kd_weight"], answer["low"], answer["high"])
        text = f"best KD weight {best}: {score_text(objective, answer['score'])}"
        drawing.mark(axes, answer["kd_weight"], scale * answer["score"], text)


def _foot(axes: "Axes", trials: "pd.DataFrame") -> None:
    """Trials without a final score, as crosses."""
    foot = axes.get_xaxis_transform()
    stopped = trials["outcome"] == Outcome.STOPPED_EARLY
    failed = trials["outcome"].isin([Outcome.FAILED, Outcome.TIMEOUT])
    for marker, which, color in (("x", stopped, GREY), ("+", failed, COLORS[1])):
        where = trials.loc[which, "kd_weight"]
        axes.plot(where, [0.05] * len(where), marker, color=color, ms=5, transform=foot)

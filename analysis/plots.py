"""The figures: best KD weight and score against the data kept, and the fits behind them.

Figures are made as objects, without pyplot and its global state. Colours are Okabe and Ito's,
told apart by the colour-blind; markers and line styles repeat what colour says, for grey.
"""

from collections.abc import Hashable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curve import fitted_lines, usable
from analysis.format import fraction_text, score_scale, score_title
from trainables.record import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from analysis.schedule import Schedule

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
LINES = ("-", "--", "-.", ":")
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, readable aloud
    "svg.hashsalt": "kdcurve",  # the same figure gives the same file
}
LABEL_GAP = 0.12
"""Smallest distance of two tick labels, as a part of the axis."""


@mpl.rc_context(STYLE)
def plot_kd_weight(curve: "pd.DataFrame", schedule: "Schedule | None" = None) -> Figure:
    """Best KD weight against the data kept: a panel per method, a colour per teacher.

    Args:
        curve: from `fit_curve`.
        schedule: its line and band are drawn over the range it was fitted on.
    """
    figure, panels = _panels(curve, "best KD weight")
    for title, axes, rows in panels:
        for k, (teacher, series) in enumerate(rows.groupby("_series", sort=True)):
            _points(axes, series, "kd_weight", k, str(teacher))
            for law in schedule.laws if schedule else ():
                if schedule and (law.method, law.teacher) == (title, teacher):
                    fractions = np.geomspace(*law.range, 101)
                    named = {"method": law.method, "teacher": law.teacher}
                    color, style = COLORS[k % len(COLORS)], LINES[k % len(LINES)]
                    axes.plot(fractions, schedule(fractions, **named), style, color=color, lw=1.6)
                    if law.band is not None:
                        band = schedule.band(fractions, **named)
                        axes.fill_between(fractions, *band, color=color, alpha=0.12, lw=0)
        axes.set_ylim(-0.04, 1.04)
    lines = ", schedule (lines) and its bands" if schedule else ""
    figure.suptitle(f"Best KD weight with {_level(curve)} intervals{lines}")
    return _finished(figure, panels)


@mpl.rc_context(STYLE)
def plot_accuracy(curve: "pd.DataFrame") -> Figure:
    """Score against the data kept, with the best KD weight and without KD, a panel per method.

    Args:
        curve: from `fit_curve`.
    """
    objective = curve.attrs["objective"]
    scale = score_scale(objective)
    figure, panels = _panels(curve, score_title(objective))
    for _, axes, rows in panels:
        for k, (teacher, series) in enumerate(rows.groupby("_series", sort=True)):
            _points(axes, series, "score", k, str(teacher), scale=scale, line="-")
        # Without KD the teacher plays no part: one line, the mean of its estimates.
        without = rows.groupby("fraction")["score_without_kd"].mean().dropna()
        axes.plot(
            without.index, scale * without, "--x", color=GREY, lw=1.4, ms=5, label="no distillation"
        )
    figure.suptitle(f"Score at the best KD weight with {_level(curve)} intervals")
    return _finished(figure, panels)


@mpl.rc_context(STYLE)
def plot_fits(runs: "pd.DataFrame", curve: "pd.DataFrame") -> Figure:
    """The trials of every context and the parabola through them.

    Rows are methods and teachers, columns the data kept. Dots are complete trials, shaded by
    seed; crosses at the foot are trials stopped early, red ones failures; the line is the fitted
    mean with its band, the vertical line the recommended KD weight.

    Args:
        runs: from `load_runs`.
        curve: from `fit_curve` of those runs.
    """
    scale = score_scale(curve.attrs["objective"])
    named = _named(curve)
    keys = list(dict.fromkeys(zip(named["_panel"], named["_series"], strict=True)))
    fractions = sorted(named["fraction"].unique())
    lines = dict(iter(fitted_lines(runs, curve).groupby("context")))
    trials = dict(iter(runs.groupby("context")))
    seeds = {seed: k for k, seed in enumerate(sorted(runs["seed"].dropna().unique()))}
    size = (1.2 + 1.55 * len(fractions), 1.0 + 1.35 * len(keys))
    figure = Figure(figsize=(max(size[0], 4.5), max(size[1], 3.0)), layout="constrained")
    grid = figure.subplots(len(keys), len(fractions), sharex=True, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for row in named.to_dict("records"):
        place = keys.index((row["_panel"], row["_series"])), fractions.index(row["fraction"])
        axes = grid[place]
        axes.set_visible(True)
        _fit_panel(axes, trials[row["context"]], lines.get(row["context"]), row, seeds, scale)
    for axes, fraction in zip(grid[0], fractions, strict=True):
        axes.set_title(f"{fraction_text(fraction)} kept", visible=True)
    for axes, (panel, series) in zip(grid[:, 0], keys, strict=True):
        axes.set_ylabel(f"{panel}\n{series}", fontsize=8)
    figure.supxlabel("KD weight", fontsize=9)
    figure.supylabel(score_title(curve.attrs["objective"]), fontsize=9)
    figure.suptitle("Complete trials (dots, shaded by seed) and fits; × stopped early, + failed")
    return figure


def save_figures(
    folder: str | Path,
    runs: "pd.DataFrame",
    curve: "pd.DataFrame",
    schedule: "Schedule | None" = None,
) -> list[Path]:
    """Write all figures as SVG and PNG.

    Args:
        folder: made if need be.
        runs: from `load_runs`.
        curve: from `fit_curve`.
        schedule: drawn into the first figure.

    Returns:
        The files: `kd_weight`, `accuracy` and `fits`, each as `.svg` and `.png`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in all_figures(runs, curve, schedule).items():
        (folder / f"{name}.svg").write_text(svg(figure), encoding="utf-8")
        figure.savefig(folder / f"{name}.png", dpi=150)
        paths += [folder / f"{name}.svg", folder / f"{name}.png"]
    return paths


def all_figures(
    runs: "pd.DataFrame", curve: "pd.DataFrame", schedule: "Schedule | None" = None
) -> dict[str, Figure]:
    """The figures by name, in the order to be read."""
    return {
        "kd_weight": plot_kd_weight(curve, schedule),
        "accuracy": plot_accuracy(curve),
        "fits": plot_fits(runs, curve),
    }


def svg(figure: Figure) -> str:
    """A figure as SVG text, the same for the same figure."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


Panels = list[tuple[str, Axes, "pd.DataFrame"]]


def _named(curve: "pd.DataFrame") -> "pd.DataFrame":
    """Add `_panel` (the method) and `_series` (the teacher, and what else tells rows apart)."""
    contexts = curve.attrs["contexts"]
    apart = [
        name
        for name in contexts
        if name not in ("method", "fraction") and (name == "teacher" or curve[name].nunique() > 1)
    ]
    series = [
        ", ".join(str(row[name]) if name == "teacher" else f"{name} {row[name]}" for name in apart)
        for row in curve.to_dict("records")
    ]
    panel = curve["method"] if "method" in contexts else "tuned"
    return curve.assign(_panel=panel, _series=[text or "tuned" for text in series])


def _panels(curve: "pd.DataFrame", ylabel: str) -> tuple[Figure, Panels]:
    named = _named(curve)
    methods = list(dict.fromkeys(named["_panel"]))
    columns = min(len(methods), 4)
    rows = -(-len(methods) // columns)
    size = (max(1.0 + 2.9 * columns, 5.0), 0.9 + 2.7 * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    panels = []
    for axes, method in zip(grid.flat, methods, strict=False):
        axes.set_title(str(method))
        _fraction_axis(axes, sorted(named["fraction"].unique()))
        panels.append((str(method), axes, named[named["_panel"] == method]))
    return figure, panels


def _fraction_axis(axes: Axes, fractions: list[float]) -> None:
    """Logarithmic, with the fractions that were run as plain percentages."""
    axes.set_xscale("log")
    gap = LABEL_GAP * np.log(fractions[-1] / fractions[0])
    labels, last = [], -np.inf
    for fraction in fractions:
        clear = np.log(fraction) - last >= gap
        labels.append(fraction_text(fraction) if clear else "")
        last = np.log(fraction) if clear else last
    axes.set_xticks(fractions, labels)
    axes.minorticks_off()
    axes.set_xlim(fractions[0] / 1.25, fractions[-1] * 1.25)
    axes.set_xlabel("training data kept")


def _points(
    axes: Axes,
    rows: "pd.DataFrame",
    name: str,
    k: int,
    label: str,
    *,
    scale: float = 1.0,
    line: str = "",
) -> None:
    answered = rows[rows[name].notna()].sort_values("fraction")
    value, low, high = (scale * answered[name + end].to_numpy() for end in ("", "_low", "_high"))
    # Shifted a little, so that the teachers' intervals stand beside each other.
    fraction = answered["fraction"].to_numpy() * 1.035**k
    axes.errorbar(
        fraction,
        value,
        yerr=np.nan_to_num([value - low, high - value]),
        fmt=MARKERS[k % len(MARKERS)] + line,
        color=COLORS[k % len(COLORS)],
        ms=5,
        lw=1.2,
        elinewidth=1.0,
        capsize=2.5,
        label=label,
    )


def _fit_panel(
    axes: Axes,
    trials: "pd.DataFrame",
    line: "pd.DataFrame | None",
    row: Mapping[Hashable, Any],
    seeds: dict[int, int],
    scale: float,
) -> None:
    complete = trials[usable(trials)]
    shade = [0.15 + 0.6 * seeds[seed] / max(1, len(seeds) - 1) for seed in complete["seed"]]
    axes.scatter(
        complete["kd_weight"],
        scale * complete["score"],
        c=[str(grey) for grey in shade],
        s=13,
        zorder=3,
        linewidths=0,
    )
    if line is not None:
        axes.plot(line["kd_weight"], scale * line["mean"], color=COLORS[0], lw=1.3)
        low, high = scale * line["low"].astype(float), scale * line["high"].astype(float)
        # The scale is the trials'; a band that few trials leave wide may run out of the panel.
        limits = axes.get_ylim()
        axes.fill_between(line["kd_weight"], low, high, color=COLORS[0], alpha=0.18, lw=0)
        span = limits[1] - limits[0]
        axes.set_ylim(limits[0] - 0.25 * span, limits[1] + 0.1 * span)
        axes.axvline(row["kd_weight"], color=COLORS[1], lw=1.2, ls="--")
    else:
        axes.text(0.5, 0.9, "no answer", transform=axes.transAxes, ha="center", color=GREY)
    foot = axes.get_xaxis_transform()
    stopped = trials.loc[trials["outcome"] == Outcome.STOPPED_EARLY, "kd_weight"]
    failed = trials.loc[
        trials["outcome"].notna() & ~usable(trials) & ~trials.index.isin(stopped.index), "kd_weight"
    ]
    marks = {"x": (stopped, GREY), "+": (failed, COLORS[1])}
    for marker, (where, color) in marks.items():
        axes.plot(where, [0.05] * len(where), marker, color=color, ms=5, transform=foot)
    axes.set_xlim(-0.05, 1.05)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="y", nbins=4)


def _level(curve: "pd.DataFrame") -> str:
    return f"{100 * curve.attrs['level']:.0f}%"


def _finished(figure: Figure, panels: Panels) -> Figure:
    """One legend for all panels, under them."""
    entries = {
        label: handle
        for _, axes, _ in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=len(entries)
    )
    return figure

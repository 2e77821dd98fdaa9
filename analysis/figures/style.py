"""The look that all figures share.

Figures are made as objects, without pyplot and its global state. Colours are Okabe and Ito's,
told apart by the colour-blind; markers and line styles repeat what colour says, for grey. What
grows (accuracy, a share) is shaded by `SHADES`, whose lightness alone tells it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.format import fraction_text

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), ":", (0, (7, 2)))
SHADES = "cividis"
INK, GREY, RULE = "#1d2329", "#666e76", "#e3e4e6"
"""Text, what is said quietly, and the grid."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, readable aloud
    "svg.hashsalt": "kdcurve",  # the same figure gives the same file
}
styled = mpl.rc_context(STYLE)
LABEL_GAP = 0.12
"""Smallest distance of two tick labels, as a part of the axis."""
COLUMNS = 3
"""Panels side by side: more would be too small on a page."""


def look(k: int, *, line: bool = True) -> dict[str, Any]:
    """Colour, marker and line style of the k-th series, the same in all figures."""
    dashes = {"linestyle": LINES[k % len(LINES)]} if line else {"linestyle": "none"}
    return {"color": COLORS[k % len(COLORS)], "marker": MARKERS[k % len(MARKERS)], **dashes}


def shades(count: int) -> list[Any]:
    """So many colours from dark to light, none too light for lines on white."""
    return list(mpl.colormaps[SHADES](np.linspace(0.0, 0.85, count)))


def panels(
    names: Iterable[str],
    ylabel: str,
    *,
    size: tuple[float, float] = (2.9, 2.7),
    sharey: bool = True,
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each name.

    Args:
        names: titles of the panels.
        ylabel: written beside the first panel of a row.
        size: of a panel in inches.
        sharey: whether the panels share a vertical scale.
    """
    names = list(names)
    rows = -(-len(names) // COLUMNS)
    columns = -(-len(names) // rows)
    figure = Figure(
        figsize=(max(1.0 + size[0] * columns, 5.0), 0.9 + size[1] * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    placed = dict(zip(names, grid.flat, strict=False))
    for name, axes in placed.items():
        axes.set_title(name)
    return figure, placed


def fraction_axis(axes: Axes, fractions: Sequence[float], *, label: bool = True) -> None:
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
    if label:
        axes.set_xlabel("training data kept")


def level_text(level: float) -> str:
    """The probability inside an interval: `90%`."""
    return f"{100 * level:.0f}%"

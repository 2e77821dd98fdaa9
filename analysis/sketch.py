"""The curve as text: KD weight against the data kept, for a terminal."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from plotille import Canvas

from analysis.figures.findings import named
from analysis.format import fraction_text

if TYPE_CHECKING:
    import pandas as pd

MARKERS = "ox+*#@%&"
"""A character per method: what is told apart is so without colour."""
SEVERAL = "="
"""Stands where several methods have the same place."""
EMPTY = "\u2800"
"""Braille without dots, which some fonts draw."""
COLORS = ("blue", "red", "green", "magenta", "yellow", "cyan")
WIDTH, HEIGHT = 80, 11
LABEL = 6
"""Columns of a panel's scale."""
GAP = 2
NARROWEST = 34
"""Columns below which a panel tells little."""
LOW, HIGH = -0.05, 1.05
"""What a panel shows: KD weights at the ends stand clear of its edge."""


def sketch(curve: "pd.DataFrame", width: int = WIDTH) -> str:
    """Draw the curve: a panel per teacher, a line per method.

    Args:
        curve: from `fit_curve`.
        width: columns there are.

    Returns:
        Lines with ANSI colours, or nothing where no method and teacher has answers at two
        fractions: there is no line to draw then.
    """
    answered = named(curve[curve["kd_weight"].notna()])
    counts = answered.groupby(["panel", "series"])["fraction"].nunique()
    if counts.empty or counts.max() < 2 or width < NARROWEST:  # noqa: PLR2004
        return ""
    methods = list(dict.fromkeys(answered["panel"]))
    teachers = sorted(answered["series"].unique())
    columns = max(1, min(len(teachers), (width + GAP) // (NARROWEST + GAP)))
    each = min((width - GAP * (columns - 1)) // columns, WIDTH)
    drawn = [_panel(answered, teacher, methods, each) for teacher in teachers]
    lines = []
    for first in range(0, len(drawn), columns):
        row = drawn[first : first + columns]
        lines += [(" " * GAP).join(parts).rstrip() for parts in zip(*row, strict=True)]
    legend = "   ".join(f"{_marker(k)} {method}" for k, method in enumerate(methods))
    several = f"   {SEVERAL} several" if len(methods) > 1 else ""
    return "\n".join([*lines, f"{'':{LABEL}}{legend}{several}"])


def _panel(answered: "pd.DataFrame", teacher: str, methods: list[str], width: int) -> list[str]:
    """Lines of equal width: title, plot with its scale, fractions."""
    fractions = sorted(answered["fraction"].unique())
    ends = np.log(fractions[0]), np.log(fractions[-1])
    margin = 0.06 * (ends[1] - ends[0])
    left, right = ends[0] - margin, ends[1] + margin
    inside = width - LABEL
    canvas = Canvas(inside, HEIGHT, left, LOW, right, HIGH)
    mine = answered[answered["series"] == teacher]
    for k, method in enumerate(methods):
        rows = mine[mine["panel"] == method].sort_values("fraction")
        points = list(zip(np.log(rows["fraction"]), rows["kd_weight"], strict=True))
        for start, end in pairwise(points):
            canvas.line(*start, *end, color=COLORS[k % len(COLORS)])
    cells: dict[tuple[float, int], list[int]] = {}
    for method, fraction, weight in zip(
        mine["panel"], mine["fraction"], mine["kd_weight"], strict=True
    ):
        cells.setdefault((fraction, _row(weight)), []).append(methods.index(method))
    for (fraction, row), there in cells.items():  # after all lines, which would hide them
        k, alone = there[0], len(there) == 1
        color = COLORS[k % len(COLORS)] if alone else None
        height = LOW + (HEIGHT - row - 0.5) / HEIGHT * (HIGH - LOW)
        canvas.text(np.log(fraction), height, _marker(k) if alone else SEVERAL, color=color)
    scale = {_row(value): f"{value:.1f}" for value in (0.0, 0.5, 1.0)}
    plot = canvas.plot(linesep="\n").replace(EMPTY, " ").split("\n")
    framed = [
        f"{scale.get(i, ''):>{LABEL - 2}} {'┤' if i in scale else '│'}{line}"
        for i, line in enumerate(plot)
    ]
    places = {
        fraction: int((np.log(fraction) - left) / (right - left) * inside) for fraction in fractions
    }
    title = f"{'':{LABEL}}teacher {teacher}" if teacher != "tuned" else ""
    foot = f"{'':{LABEL - 1}}└{'─' * inside}"
    return [f"{title:<{width}.{width}}", *framed, foot, f"{'':{LABEL}}{_ticks(places, inside)}"]


def _row(weight: float) -> int:
    """The line of a panel, from its top, in which a KD weight stands."""
    return HEIGHT - 1 - int((weight - LOW) / (HIGH - LOW) * HEIGHT)


def _ticks(places: dict[float, int], width: int) -> str:
    """Fractions under their places, those left out that would touch another."""
    line, end = "", -1
    for fraction, place in places.items():
        text = fraction_text(fraction)
        start = min(max(place - len(text) // 2, 0), width - len(text))
        if start > end:
            line += " " * (start - len(line)) + text
            end = start + len(text)
    return f"{line:<{width}}"


def _marker(k: int) -> str:
    return MARKERS[k % len(MARKERS)]

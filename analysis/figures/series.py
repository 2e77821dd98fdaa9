"""Points with intervals, as several figures have them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures.style import look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from analysis.figures.drawing import Drawing

SHIFT = 1.035
"""Factor between the places of two series, so that their intervals stand beside each other."""


def draw_points(
    drawing: "Drawing",
    axes: "Axes",
    rows: "pd.DataFrame",
    name: str,
    k: int,
    texts: Sequence[str],
    *,
    scale: float = 1.0,
    line: bool = False,
) -> Any:
    """Points of a series with `low` and `high`, and what each says.

    Args:
        drawing: gets the marks.
        axes: where.
        rows: with `fraction`, `name`, `low` and `high`.
        name: of the column with the values.
        k: which series it is.
        texts: one for each row.
        scale: what values are multiplied with.
        line: connect the points.
    """
    order = np.argsort(rows["fraction"].to_numpy())
    values = [scale * rows[column].to_numpy()[order] for column in (name, "low", "high")]
    fraction = rows["fraction"].to_numpy()[order] * SHIFT**k
    return draw_intervals(drawing, axes, fraction, values, k, [texts[i] for i in order], line=line)


def draw_intervals(
    drawing: "Drawing",
    axes: "Axes",
    x: Any,
    intervals: Sequence[Any],
    k: int,
    texts: Sequence[str],
    *,
    line: bool = True,
) -> Any:
    """Values with their intervals, and what each says.

    Args:
        drawing: gets the marks.
        axes: where.
        x: places on the horizontal axis, [n].
        intervals: values, lower and upper ends, each [n].
        k: which series it is.
        texts: one for each value.
        line: connect the points.
    """
    value, low, high = intervals
    bars = axes.errorbar(
        x,
        value,
        yerr=np.nan_to_num([value - low, high - value]),
        **look(k, line=line),
        ms=5,
        lw=1.3,
        elinewidth=1.0,
        capsize=2.5,
    )
    drawing.assign(bars.get_children(), k)
    for at, y, text in zip(x, value, texts, strict=True):
        drawing.mark(axes, at, y, text, k)
    return bars

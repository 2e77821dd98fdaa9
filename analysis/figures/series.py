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
    value, low, high = (scale * rows[column].to_numpy()[order] for column in (name, "low", "high"))
    fraction = rows["fraction"].to_numpy()[order] * SHIFT**k
    bars = axes.errorbar(
        fraction,
        value,
        yerr=np.nan_to_num([value - low, high - value]),
        **look(k, line=line),
        ms=5,
        lw=1.3,
        elinewidth=1.0,
        capsize=2.5,
    )
    drawing.assign(bars.get_children(), k)
    for x, y, i in zip(fraction, value, order, strict=True):
        drawing.mark(axes, x, y, texts[i], k)
    return bars

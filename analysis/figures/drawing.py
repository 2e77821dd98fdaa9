"""A figure, and what in it can be pointed at or switched off."""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from analysis.figures.style import styled

POINTS_PER_INCH = 72
"""SVG is written in points, which are its user units."""


class Mark(NamedTuple):
    """A place in a figure and what it says there."""

    axes: Axes
    x: float
    y: float
    text: str
    series: int | None


@dataclass
class Drawing:
    """A matplotlib figure with its marks.

    What belongs to a series is named in the SVG, so that a page can switch it off by its entry
    in the legend.
    """

    figure: Figure
    marks: list[Mark] = field(default_factory=list)
    _named: int = 0

    def mark(self, axes: Axes, x: float, y: float, text: str, series: int | None = None) -> None:
        """Say what stands at a place, in data coordinates of some axes; nowhere is passed over."""
        if math.isfinite(x) and math.isfinite(y):
            self.marks.append(Mark(axes, float(x), float(y), text, series))

    def assign(self, artists: Iterable[Artist], series: int) -> None:
        """Let artists belong to a series."""
        for artist in artists:
            self._named += 1
            artist.set_gid(f"series-{series}-{self._named}")

    def legend(self, entries: Mapping[str, tuple[Any, int]], **more: Any) -> None:
        """One legend under all panels.

        Args:
            entries: by label, the artist that shows it and the series that it switches.
            more: passed on to matplotlib.
        """
        if not entries:
            return
        handles = [handle for handle, _ in entries.values()]
        options = {"loc": "outside lower center", "ncols": min(len(entries), 6), **more}
        legend: Legend = self.figure.legend(handles, list(entries), **options)
        for text, (_, series) in zip(legend.get_texts(), entries.values(), strict=True):
            self._named += 1
            text.set_gid(f"legend-{series}-{self._named}")

    @styled
    def save(self, target: Any, format: str) -> None:
        """Write it as `svg` or `png`; the layout is computed once."""
        if (engine := self.figure.get_layout_engine()) is not None:
            engine.execute(self.figure)
            self.figure.set_layout_engine(None)  # a placeholder would have it drawn twice
        metadata = {"metadata": {"Date": None}} if format == "svg" else {"dpi": 150}
        self.figure.savefig(target, format=format, **metadata)

    def svg(self) -> str:
        """As SVG text, the same for the same figure."""
        buffer = BytesIO()
        self.save(buffer, "svg")
        return buffer.getvalue().decode()

    def inline(self, name: str, title: str) -> str:
        """As SVG to stand in a page, with `data-marks` for its script.

        No prolog or metadata, and ids that no other figure has. `data-marks` lists
        `[x, y, series, text]` in user units of the SVG.
        """
        text = self.svg()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
        text = re.sub(rf'<g id="{name}-series-(\d+)-\d+">', r'<g data-series="\1">', text)
        text = re.sub(
            rf'<g id="{name}-legend-(\d+)-\d+">', r'<g class="entry" data-entry="\1">', text
        )
        marks = html.escape(json.dumps(self._positions(), separators=(",", ":")))
        size = POINTS_PER_INCH * self.figure.get_figwidth()
        style = f"max-width: {1.1 * size:.0f}pt; min-width: min(42rem, {size:.0f}pt)"
        label = f'<svg role="img" aria-label="{html.escape(title)}" style="{style}"'
        label += f' data-marks="{marks}"'
        return text.replace("<svg", label, 1)

    def box(self, axes: Axes) -> tuple[float, float, float, float]:
        """Left, top, width and height of axes with their labels, in user units of the SVG."""
        scale = POINTS_PER_INCH / self.figure.dpi
        bounds = axes.get_tightbbox()
        assert bounds is not None  # noqa: S101  (of visible axes)
        bounds = bounds.padded(2.0)
        height = self.figure.get_figheight() * POINTS_PER_INCH
        return (
            round(bounds.x0 * scale, 1),
            round(height - bounds.y1 * scale, 1),
            round(bounds.width * scale, 1),
            round(bounds.height * scale, 1),
        )

    def _positions(self) -> list[list[Any]]:
        scale = POINTS_PER_INCH / self.figure.dpi
        height = self.figure.get_figheight() * POINTS_PER_INCH
        placed = []
        for mark in self.marks:
            x, y = scale * mark.axes.transData.transform((mark.x, mark.y))
            placed.append([round(x, 1), round(height - y, 1), mark.series, mark.text])
        return placed

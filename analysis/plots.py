"""The figures of a search: which there are, and how they become files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from matplotlib.figure import Figure

from analysis.curve import fitted_lines
from analysis.figures import (
    accuracy,
    capacity,
    compute,
    failures,
    fits,
    importance,
    kd_weight,
    landscape,
    learning_curves,
    parallel,
)
from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings

if TYPE_CHECKING:
    import pandas as pd

    from analysis.schedule import Schedule


class Kind(Protocol):
    """What a module of `analysis.figures` offers."""

    TITLE: str

    def tidy(self, findings: Findings) -> "pd.DataFrame":
        """What is drawn, as a tidy frame; empty if there is nothing to draw."""
        ...

    def draw(self, frame: "pd.DataFrame") -> Drawing:
        """The drawing of it."""
        ...

    def caption(self, frame: "pd.DataFrame") -> str:
        """A sentence or two to stand under it."""
        ...


FIGURES: dict[str, Kind] = {
    "kd_weight": kd_weight,
    "accuracy": accuracy,
    "fits": fits,
    "landscape": landscape,
    "capacity": capacity,
    "importance": importance,
    "parallel": parallel,
    "learning_curves": learning_curves,
    "compute": compute,
    "failures": failures,
}
"""By the name of their files, in the order to be read."""


@dataclass(frozen=True)
class Picture:
    """A figure, drawn."""

    title: str
    caption: str
    frame: "pd.DataFrame"
    """What is drawn."""
    drawing: Drawing


def all_figures(
    runs: "pd.DataFrame",
    curve: "pd.DataFrame",
    schedule: "Schedule | None" = None,
    *,
    lines: "pd.DataFrame | None" = None,
    histories: "pd.DataFrame | None" = None,
) -> dict[str, Picture]:
    """Draw every figure that there is something to draw for.

    Args:
        runs: from `load_runs`.
        curve: from `fit_curve` of those runs.
        schedule: from `fit_schedule`; its lines go into the first figure.
        lines: from `fit_curve_and_lines`; fitted again if left out.
        histories: of the trials that `learning_curves.chosen` names; without them there are no
            learning curves.

    Returns:
        By the names of `FIGURES`, in their order.
    """
    lines = fitted_lines(runs, curve) if lines is None else lines
    findings = Findings(runs, curve, lines, schedule, histories)
    pictures = {}
    for name, kind in FIGURES.items():
        frame = kind.tidy(findings)
        if len(frame):
            pictures[name] = Picture(kind.TITLE, kind.caption(frame), frame, kind.draw(frame))
    return pictures


def plot_kd_weight(curve: "pd.DataFrame", schedule: "Schedule | None" = None) -> Figure:
    """Best KD weight against the data kept: a panel per method, a colour per teacher.

    Args:
        curve: from `fit_curve`.
        schedule: its line and band are drawn over the range it was fitted on.
    """
    findings = Findings(curve.iloc[:0], curve, curve.iloc[:0], schedule)
    return kd_weight.draw(kd_weight.tidy(findings)).figure


def save_figures(folder: str | Path, pictures: dict[str, Picture]) -> list[Path]:
    """Write figures as SVG and PNG, and remove those of an earlier answer.

    Args:
        folder: made if need be.
        pictures: from `all_figures`.

    Returns:
        The files, two for each picture.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in set(FIGURES) - set(pictures):
        for ending in ("svg", "png"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    paths = []
    for name, picture in pictures.items():
        for ending in ("svg", "png"):
            path = folder / f"{name}.{ending}"
            picture.drawing.save(path, ending)
            paths.append(path)
    return paths

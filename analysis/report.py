"""One self-contained HTML file: the answers, the evidence and where they come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.confirmation import confirmation_section
from analysis.format import (
    curve_table,
    family_table,
    heading,
    outcome_table,
    schedule_table,
    score_title,
    value_text,
)
from analysis.headline import headline
from analysis.plots import Picture, all_figures

if TYPE_CHECKING:
    import pandas as pd

    from analysis.schedule import Schedule

CONDITIONS = {
    "surface": (
        "One smooth surface is fitted to all contexts, so that fractions, methods and teachers "
        "inform each other as far as they agree. Intervals are for the mean over seeds and were "
        "widened until they held in simulations."
    ),
    "quadratic": (
        "The mean score is taken as quadratic in the KD weight; seeds shift it up or down alike. "
        "Where the truth bends otherwise, the intervals are too narrow."
    ),
    "grid": (
        "Only KD weights that were run are compared. The best mean of several is biased upwards "
        "a little, and so is its gain."
    ),
}

GAINS = {
    "surface": "those of the fitted surface between the recommended KD weight and 0",
    "quadratic": "those of the fitted curve between the recommended KD weight and 0",
    "grid": "mean differences between the recommended KD weight and 0, over the seeds run at both",
}


def write_report(
    path: str | Path,
    runs: "pd.DataFrame",
    curve: "pd.DataFrame",
    schedule: "Schedule | None" = None,
    provenance: Mapping[str, object] | None = None,
    pictures: Mapping[str, Picture] | None = None,
) -> Path:
    """Write the report; it opens without a network, and can be read without its script.

    Its figures are those of `plots`, drawn once, as SVG: a script lets one point at what they show.

    Args:
        path: the HTML file; its folder is made if need be.
        runs: from `load_runs`.
        curve: from `fit_curve` of those runs.
        schedule: from `fit_schedule`, if one could be fitted.
        provenance: what to name beside the search and its store, e.g. versions, a git commit.
        pictures: from `all_figures`; drawn here if left out.

    Returns:
        The path written.
    """
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    if pictures is None:
        pictures = all_figures(runs, curve, schedule)
    text = environment.get_template("report.html").render(
        headline=headline(curve),
        search=curve.attrs["search"],
        state=curve.attrs["state"] or "unknown",
        ended_by=curve.attrs.get("ended_by"),
        early_stopping=curve.attrs.get("early_stopping"),
        objective=score_title(curve.attrs["objective"]),
        level=f"{100 * curve.attrs['level']:.0f}%",
        estimator=curve.attrs["estimator"],
        condition=CONDITIONS[curve.attrs["estimator"]],
        gains=GAINS[curve.attrs["estimator"]],
        signal=curve.attrs["signal"],
        fixed=_fixed(curve),
        tuned=", ".join(heading(name) for name in curve.attrs["tuned"]),
        answered=int(curve["kd_weight"].notna().sum()),
        contexts=list(curve["context"]),
        contexts_named=list(zip(curve["context"], curve["label"], strict=True)),
        answers=curve_table(curve),
        confirmation=confirmation_section(curve),
        outcomes=outcome_table(runs),
        trials=len(runs),
        schedule=schedule_table(schedule) if schedule else None,
        families=family_table(schedule) if schedule and schedule.held_out else None,
        choice=schedule.choice if schedule else "",
        left_out=schedule.left_out if schedule else (),
        figures={name: _placed(name, picture) for name, picture in pictures.items()},
        boxes=_boxes(pictures["fits"]) if "fits" in pictures else {},
        provenance=_provenance(runs, curve, provenance or {}),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _fixed(curve: "pd.DataFrame") -> dict[str, str]:
    """What all contexts have in common."""
    return {
        heading(name): value_text(name, curve[name].iloc[0])
        for name in curve.attrs["contexts"]
        if curve[name].nunique() == 1 and name not in ("method", "fraction", "teacher")
    }


def _provenance(
    runs: "pd.DataFrame", curve: "pd.DataFrame", more: Mapping[str, object]
) -> dict[str, str]:
    hours = float(runs["seconds"].sum()) / 3600
    rows = {
        "search": curve.attrs["search"],
        "MLflow": curve.attrs["tracking_uri"],
        "parent run": curve.attrs["parent_run_id"],
        "started": runs["start_time"].min(),
        "last trial ended": runs["end_time"].max(),
        "training time, all trials": f"{hours:.2f} hours",
        **more,
    }
    known = {name: value for name, value in rows.items() if value is not None}
    return {name: str(value) for name, value in known.items() if value == value}  # noqa: PLR0124  (NaT)


def _placed(name: str, picture: Picture) -> dict[str, str]:
    """A figure as the template sets it."""
    data = picture.frame.to_json(orient="split", index=False)
    return {
        "title": picture.title,
        "caption": picture.caption,
        # Our own figure: labels are escaped by matplotlib, what is pointed at by `inline`.
        "svg": Markup(picture.drawing.inline(name, picture.title)),  # noqa: S704
        "data": Markup(data.replace("<", "\\u003c")),  # noqa: S704  (JSON in a script)
    }


def _boxes(fits: Picture) -> dict[str, str]:
    """Where the panel of each context lies in the figure of all fits, as an SVG view box."""
    drawing = fits.drawing
    return {
        str(axes.get_label()): " ".join(f"{number:g}" for number in drawing.box(axes))
        for axes in drawing.figure.axes
        if axes.get_visible() and axes.get_label()
    }

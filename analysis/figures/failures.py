"""Trials that failed, by reason."""

from textwrap import shorten, wrap
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.curve import usable
from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, shown
from analysis.figures.style import COLORS, INK, styled
from trainables.record import Outcome

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Failures"
MOST = 12
"""Reasons shown; what is rarer is counted together."""
NO_SCORE = "trained to the end, but its score is no number"
WIDTH = 44
"""Characters of a line of a reason, of which there are two."""


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`reason`, `outcome`, `trials`), most frequent first; empty if none failed."""
    runs = findings.runs
    failed = runs["outcome"].notna() & ~usable(runs) & (runs["outcome"] != Outcome.STOPPED_EARLY)
    reasons = runs["reason"].fillna("unknown").where(runs["outcome"] != Outcome.COMPLETE, NO_SCORE)
    outcomes = runs["outcome"].where(runs["outcome"] != Outcome.COMPLETE, str(Outcome.FAILED))
    frame = (
        runs.assign(reason=reasons, outcome=outcomes)[failed]
        .groupby(["reason", "outcome"])
        .size()
        .rename("trials")
        .reset_index()
        .sort_values(["trials", "reason"], ascending=[False, True], ignore_index=True)
    )
    if len(frame) > MOST:
        import pandas as pd  # noqa: PLC0415

        rest = frame.iloc[MOST - 1 :]
        name = f"{len(rest)} other reasons"
        last = pd.DataFrame(
            {"reason": [name], "outcome": [str(Outcome.FAILED)], "trials": [rest["trials"].sum()]}
        )
        frame = pd.concat([frame.iloc[: MOST - 1], last], ignore_index=True)
    frame.attrs = {**shown(findings.curve.attrs), "of": len(runs)}
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    count = int(frame["trials"].sum())
    return f"Why {count} of {frame.attrs['of']} trials failed. None of them enters a fit."


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A bar per reason, hatched where a trial had stopped reporting."""
    figure = Figure(figsize=(7.0, 0.8 + 0.42 * len(frame)), layout="constrained")
    axes = figure.subplots()
    drawing = Drawing(figure)
    labels = ["\n".join(wrap(shorten(text, 2 * WIDTH), WIDTH)) for text in frame["reason"]]
    late = [outcome == Outcome.TIMEOUT for outcome in frame["outcome"]]
    bars = axes.barh(
        range(len(frame)),
        frame["trials"],
        height=0.6,
        color=[COLORS[5] if each else COLORS[1] for each in late],
        hatch=["//" if each else "" for each in late],
        edgecolor=INK,
        lw=0.6,
    )
    axes.bar_label(bars, padding=3)
    axes.set_yticks(range(len(frame)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08)
    axes.set_xlabel("trials that failed (hatched: timed out)" if any(late) else "trials")
    for i, row in enumerate(frame.to_dict("records")):
        text = f"{row['trials']} × {row['outcome']}\n{row['reason']}"
        drawing.mark(axes, row["trials"] / 2, i, text)
    return drawing

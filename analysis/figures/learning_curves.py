"""Learning curves: how trials got there, and where early stopping ended them."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, shown
from analysis.figures.style import COLORS, GREY, panels, shades, styled
from analysis.format import fraction_text, score_scale, score_text, score_title
from trainables.record import Outcome

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Learning curves"
MOST_FRACTIONS = 6
MOST_TRIALS = 30
"""Curves per context: more could not be told apart."""
HIDDEN = 0.1
"""Share of the scores, those of the first epochs, that lie below a panel."""
_STEPS = 5


def chosen(runs: "pd.DataFrame") -> "pd.DataFrame":
    """The trials whose learning curves are shown: of one context per fraction.

    The method and teacher are those with most trials stopped early (of equal ones the first); at
    most `MOST_FRACTIONS` fractions, evenly spaced, and the first `MOST_TRIALS` trials each.

    Args:
        runs: from `load_runs`.
    """
    keys = ["method", "teacher"]
    stopped = (runs["outcome"] == Outcome.STOPPED_EARLY).groupby(
        [runs[key] for key in keys], sort=False
    )
    counts = stopped.sum()
    if counts.empty:
        return runs.iloc[:0]
    method, teacher = counts.index[int(counts.argmax())]
    mine = runs[(runs["method"] == method) & (runs["teacher"] == teacher)]
    first = mine.drop_duplicates("fraction").sort_values("fraction")
    step = (len(first) - 1) / max(1, min(MOST_FRACTIONS, len(first)) - 1)
    places = sorted({round(i * step) for i in range(min(MOST_FRACTIONS, len(first)))})
    contexts = first["context"].iloc[places]
    few = mine["context"].isin(contexts) & (mine.groupby("context").cumcount() < MOST_TRIALS)
    trials: pd.DataFrame = mine[few]
    return trials


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`label`, `fraction`, `trial`, `kd_weight`, `outcome`, `epoch`, `score`).

    Empty where no histories were read.
    """
    columns = ["label", "fraction", "trial", "kd_weight", "outcome", "epoch", "score"]
    trials = chosen(findings.runs)
    labels = (trials["method"] + ", " + trials["teacher"]).fillna("")
    trials = trials.assign(label=labels)[columns[:-2]]
    histories = findings.histories
    if histories is None:
        frame = trials.iloc[:0].assign(epoch=0, score=0.0)
    else:
        finite = histories[np.isfinite(histories["score"])]
        frame = trials.merge(finite, on="trial").sort_values(["fraction", "trial", "epoch"])
    frame = frame.reset_index(drop=True)[columns]
    frame.attrs = shown(findings.curve.attrs)
    return frame


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    return (
        f"Validation score after every epoch, in one context per fraction ({_label(frame)}, where "
        f"most trials were stopped early), up to {MOST_TRIALS} trials each; the first epochs lie "
        "below. Light lines are high KD weights, dark ones low; × marks where a trial was stopped "
        "early, and dotted lines the rungs at which that happened."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A panel per fraction."""
    objective = frame.attrs["objective"]
    scale = score_scale(objective)
    fractions = sorted(frame["fraction"].unique())
    names = {f"{fraction_text(fraction)} kept": fraction for fraction in fractions}
    figure, placed = panels(names, score_title(objective), sharey=False)
    drawing = Drawing(figure)
    palette = shades(_STEPS)
    entries = {}
    for name, fraction in names.items():
        axes = placed[name]
        rows = frame[frame["fraction"] == fraction]
        for rung in sorted(
            rows[rows["outcome"] == Outcome.STOPPED_EARLY].groupby("trial")["epoch"].max().unique()
        ):
            axes.axvline(rung, color=GREY, ls=":", lw=1.0)
        for trial, curve in rows.groupby("trial"):
            last = curve.iloc[-1]
            step = min(int(last["kd_weight"] * _STEPS), _STEPS - 1)
            (line,) = axes.plot(curve["epoch"], scale * curve["score"], color=palette[step], lw=1.0)
            drawing.assign([line], step)
            entries[step] = line
            if last["outcome"] == Outcome.STOPPED_EARLY:
                end = axes.plot(
                    last["epoch"],
                    scale * last["score"],
                    "x",
                    color=COLORS[1],
                    ms=7,
                    mew=2,
                    zorder=5,
                )
                drawing.assign(end, step)
            how = str(last["outcome"]).replace("_", " ")
            text = f"trial {trial}, KD weight {last['kd_weight']:.2f}\n{how} after epoch "
            text += f"{last['epoch']}: {score_text(objective, last['score'])}"
            drawing.mark(axes, last["epoch"], scale * last["score"], text, step)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=scale * float(rows["score"].quantile(HIDDEN)))
    width = 1 / _STEPS
    drawing.legend(
        {
            f"KD weight {k * width:.1f} to {(k + 1) * width:.1f}": (entries[k], k)
            for k in sorted(entries)
        },
        ncols=3,
    )
    figure.suptitle(_label(frame), fontsize=10)
    return drawing


def _label(frame: "pd.DataFrame") -> str:
    return str(frame["label"].iloc[0])

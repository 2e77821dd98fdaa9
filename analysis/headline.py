"""The answer in words: how much the student should listen to the teacher."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.format import (
    MISSING,
    fraction_text,
    gain_text,
    is_share,
    score_title,
    with_interval,
)

if TYPE_CHECKING:
    import pandas as pd

SAME = 0.005
"""KD weights nearer than this are written alike."""
TREND = 0.05
"""Change of the median KD weight over the fractions that is called one."""


@dataclass(frozen=True)
class Headline:
    """The answer in a sentence, and what it means in a few more."""

    answer: str
    sentences: tuple[str, ...]


def headline(curve: "pd.DataFrame") -> Headline:
    """Say what a curve answers, from the smallest and the largest fraction with an answer.

    Args:
        curve: from `fit_curve`.
    """
    answered = curve[curve["kd_weight"].notna()]
    fractions = sorted(answered["fraction"].unique())
    if not fractions:
        return Headline("No answer yet: no context has enough complete trials", ())
    ends = [fractions[0], fractions[-1]] if len(fractions) > 1 else fractions
    rows = {end: answered[answered["fraction"] == end] for end in ends}
    parts = [f"{_weights(rows[end])} with {fraction_text(end)}" for end in ends]
    parts[0] += " of the data"
    answer = f"Listen to the teacher with a KD weight of {', and of '.join(parts)}"
    sentences = [_trend(rows), _gains(curve.attrs["objective"], rows)]
    return Headline(answer, tuple(filter(None, sentences)))


def _weights(rows: "pd.DataFrame") -> str:
    """The KD weight with its interval, or between what the contexts' KD weights lie."""
    low, high = float(rows["kd_weight"].min()), float(rows["kd_weight"].max())
    if len(rows) == 1:
        row = rows.iloc[0]
        return with_interval(low, row["kd_weight_low"], row["kd_weight_high"])
    return f"{low:.2f}" if high - low < SAME else f"{low:.2f} to {high:.2f}"


def _trend(rows: "dict[float, pd.DataFrame]") -> str:
    if len(rows) == 1:
        return ""
    few, many = (float(each["kd_weight"].median()) for each in rows.values())
    if few - many > TREND:
        return "The less data is kept, the more the student should listen."
    if many - few > TREND:
        return "The more data is kept, the more the student should listen."
    return "How much data is kept makes little difference to that."


def _gains(objective: str, rows: "dict[float, pd.DataFrame]") -> str:
    parts = []
    for fraction, each in rows.items():
        texts = [gain_text(objective, float(each["gain"].agg(end))) for end in ("min", "max")]
        if MISSING not in texts:
            span = texts[0] if texts[0] == texts[1] else " to ".join(texts)
            parts.append(f"{span} with {fraction_text(fraction)} of the data")
    if not parts:
        return ""
    unit = "points of accuracy" if is_share(objective) else score_title(objective)
    return f"Compared with no distillation that is worth, in {unit}, {' and '.join(parts)}."

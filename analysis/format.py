"""How numbers are written, in the terminal and in the report alike."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.choice import compare
from trainables.record import VAL_ACCURACY, VAL_R2, Outcome

if TYPE_CHECKING:
    import pandas as pd

    from analysis.document import KnotsLaw, LineLaw
    from analysis.schedule import Schedule

MISSING = "–"
MINUS = "−"
TUNED_BESIDES = ("method", "teacher", "teacher_fraction", "temperature")
"""What may be tuned beside the KD weight."""


ALIKE = ("label_noise", "budget_epochs")
"""What scores of several searches depend on, beside the names of contexts."""


@dataclass(frozen=True)
class Column:
    """A column's heading and how it is set."""

    title: str
    justify: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, for `rich` and HTML alike."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


_Cell = tuple[Column, Callable[[Mapping[Hashable, Any]], str]]
"""A column, with its text for a row of a curve."""


def fraction_text(fraction: float) -> str:
    """A kept fraction as a percentage: 0.05 → `5%`, 0.125 → `12.5%`."""
    return f"{100 * fraction:.4g}%"


def with_interval(value: float, low: float, high: float, spec: str = ".2f") -> str:
    """A number with its interval: `0.42 [0.30, 0.55]`; without one if it is not known."""
    if not np.isfinite(value):
        return MISSING
    numbers = [format(number, spec) for number in (value, low, high)]
    # An interval is read beside its value, whose sign says enough unless they differ.
    text = f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" if np.isfinite(low) else numbers[0]
    return text.replace("-", MINUS)


def is_share(objective: str) -> bool:
    """Whether the objective is a share, shown in percent and its differences in points."""
    return objective == VAL_ACCURACY


def score_scale(objective: str) -> float:
    """What a score is multiplied with to be shown."""
    return 100.0 if is_share(objective) else 1.0


def score_title(objective: str) -> str:
    """The objective's name with its unit, for headings and axes."""
    names = {VAL_ACCURACY: "validation accuracy (%)", VAL_R2: "validation R²"}
    return names.get(objective, objective)


def tested_title(objective: str) -> str:
    """What the objective is on the test set, with its unit."""
    names = {VAL_ACCURACY: "test accuracy (%)", VAL_R2: "population R²"}
    return names.get(objective, f"test {objective}")


def count_text(count: float | None) -> str:
    """A number of things; missing if it is not known."""
    # What is missing may be None, NaN or pandas' own NA.
    return f"{count:.0f}" if isinstance(count, int | float) and count >= 0 else MISSING


def score_text(objective: str, value: float, low: float = np.nan, high: float = np.nan) -> str:
    """A score with its interval: accuracies in percent, others as they are."""
    scale = score_scale(objective)
    spec = ".1f" if is_share(objective) else ".4f"
    return with_interval(scale * value, scale * low, scale * high, spec)


def gain_text(
    objective: str, value: float, low: float = np.nan, high: float = np.nan, *, digits: int = 1
) -> str:
    """A difference of scores with its interval and sign: accuracies in points."""
    scale = score_scale(objective)
    spec = f"+.{digits}f" if is_share(objective) else "+.4f"
    return with_interval(scale * value, scale * low, scale * high, spec)


def loss_text(objective: str, value: float) -> str:
    """What a score may be short of: accuracies in points."""
    return with_interval(
        score_scale(objective) * value, np.nan, np.nan, ".2f" if is_share(objective) else ".4f"
    )


def span_text(low: float, high: float) -> str:
    """A range of KD weights: `0.30 to 0.55`; missing if it is not known."""
    return f"{low:.2f} to {high:.2f}" if np.isfinite(low) else MISSING


def curve_table(curve: "pd.DataFrame", *, compact: bool = False) -> Table:
    """The answers as text: what varies between contexts, the best setting, the evidence.

    Args:
        curve: from `analysis.curve.fit_curve`.
        compact: leave out how flat the optimum is, what 1 would lose, the expected loss, the
            numbers of trials and seeds and the score's interval, for a terminal of 80 columns.
    """
    objective = curve.attrs["objective"]
    unit = " (points)" if is_share(objective) else ""
    score = score_title(objective)
    answer: tuple[_Cell, ...] = (
        *context_cells(curve),
        (Column("best KD weight"), lambda row: with_interval(*_estimate(row, "kd_weight"))),
        *(_value(name, "best ") for name in TUNED_BESIDES if name in curve.attrs["tuned"]),
    )
    without: tuple[_Cell, ...] = (
        (Column("without KD"), lambda row: score_text(objective, row["measured_without_kd"])),
        (
            Column(f"gain over no KD{unit}"),
            lambda row: gain_text(objective, *_estimate(row, "gain")),
        ),
    )
    brief: tuple[_Cell, ...] = (
        (
            Column(score.removeprefix("validation ")),
            lambda row: score_text(objective, row["score"]),
        ),
        *without,
    )
    evidence: tuple[_Cell, ...] = (
        (Column("as good"), lambda row: span_text(row["flat_low"], row["flat_high"])),
        (Column(score), lambda row: score_text(objective, *_estimate(row, "score"))),
        *without,
        (
            Column(f"gain over 1{unit}"),
            lambda row: gain_text(objective, *_estimate(row, "gain_over_1")),
        ),
        (
            Column(f"expected loss{unit}"),
            lambda row: loss_text(objective, row["expected_loss"]),
        ),
        (
            Column("complete / stopped / failed"),
            lambda row: f"{row['n_complete']} / {row['n_stopped']} / {row['n_failed']}",
        ),
        (Column("seeds"), lambda row: str(row["n_seeds"])),
        *(_test_cells(objective) if "test_score" in curve else ()),
    )
    if "n_compared" in curve:
        evidence = (*evidence, (Column("best of"), lambda row: str(row["n_compared"])))
    noted = curve["reason"].notna().any() or curve["n_running"].any()
    if not compact and "test_note" in curve:
        noted = noted or curve["test_note"].notna().any()
    note: tuple[_Cell, ...] = ((Column("note", "left"), _note),) if noted else ()
    shown = (*answer, *(brief if compact else evidence), *note)
    return Table(
        tuple(column for column, _ in shown),
        tuple(tuple(text(row) for _, text in shown) for row in curve.to_dict("records")),
    )


def _test_cells(objective: str) -> tuple[_Cell, ...]:
    """What the test set says, where an answer was confirmed."""
    unit = " (points)" if is_share(objective) else ""

    def gain(over: float, name: str) -> _Cell:
        title = f"test gain over {name}{unit}"
        return Column(title), lambda row: tested_gain_text(objective, row, over)

    return (
        (Column(tested_title(objective)), lambda row: score_text(objective, row["test_score"])),
        gain(0.0, "no KD"),
        gain(1.0, "1"),
        (Column("test seeds"), lambda row: count_text(row["test_seeds"])),
    )


def tested_gain_text(objective: str, row: Mapping[Hashable, Any], over: float) -> str:
    """A gain on test over KD weight 0 or 1, unless that is the confirmed one."""
    if row["test_kd_weight"] == over:
        return f"is {over:.0f}"
    return gain_text(objective, *_estimate(row, "test_gain_over_1" if over else "test_gain"))


def context_cells(curve: "pd.DataFrame") -> tuple[_Cell, ...]:
    """Columns that tell the rows of a curve apart."""
    return tuple(_value(name) for name in _told_apart(curve))


def _value(name: str, prefix: str = "") -> _Cell:
    return Column(prefix + heading(name), _side(name)), lambda row: value_text(name, row[name])


def _told_apart(curve: "pd.DataFrame") -> list[str]:
    """What tells contexts apart, with the fraction last: it is read as the axis."""
    contexts = curve.attrs["contexts"]
    shown = [n for n in contexts if n in ("method", "teacher") or curve[n].nunique() > 1]
    if "search" in curve:
        # Of one search these are the same in every row, or follow from the fraction.
        shown = ["search", *shown, *(n for n in ALIKE if _differs(curve, n))]
    return [name for name in shown if name != "fraction"] + ["fraction"]


def _differs(curve: "pd.DataFrame", name: str) -> bool:
    """Whether a column tells searches apart at some fraction."""
    return bool((curve.groupby("fraction")[name].nunique() > 1).any())


def pivot_table(curve: "pd.DataFrame") -> Table:
    """The curve alone as text: a row per method and teacher, a column per fraction."""
    names = [name for name in _told_apart(curve) if name != "fraction"]
    fractions = sorted(curve["fraction"].unique())
    rows: dict[tuple[str, ...], dict[float, str]] = {}
    for row in curve.to_dict("records"):
        key = tuple(value_text(name, row[name]) for name in names)
        rows.setdefault(key, {})[row["fraction"]] = with_interval(*_estimate(row, "kd_weight"))
    columns = (
        *(Column(heading(name), _side(name)) for name in names),
        *(Column(fraction_text(fraction)) for fraction in fractions),
    )
    return Table(
        columns,
        tuple((*key, *(cells.get(f, MISSING) for f in fractions)) for key, cells in rows.items()),
    )


def outcome_table(runs: "pd.DataFrame") -> Table:
    """How many trials ended how, with the reasons of those that failed, most frequent first."""
    rows: list[tuple[str, str, str]] = []
    for outcome in Outcome:
        ended = runs[runs["outcome"] == outcome]
        plain = str(outcome).replace("_", " ")
        reasons = ended["reason"].fillna("").value_counts()
        rows += [(plain, str(count), str(reason)) for reason, count in reasons.items()]
    if running := int(runs["outcome"].isna().sum()):
        rows.append(("running", str(running), ""))
    columns = (Column("outcome", "left"), Column("trials"), Column("reason", "left"))
    return Table(columns, tuple(rows))


def schedule_table(schedule: "Schedule") -> Table:
    """The laws of a schedule with the range each was fitted on."""
    columns = (
        Column("method", "left"),
        Column("teacher", "left"),
        Column("KD weight at kept fraction f", "left"),
        Column("fitted on"),
        Column("answers"),
    )
    rows = []
    for law in schedule.laws:
        low, high = law.range
        span = f"{fraction_text(low)} to {fraction_text(high)}"
        rows.append((law.method, law.teacher, law_text(law), span, str(len(law.points))))
    return Table(columns, tuple(rows))


def prediction_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """KD weights with their bands, what is extrapolated marked.

    Args:
        rows: from `Schedule.table`.
    """
    columns = (Column("data kept"), Column("KD weight"), Column("", "left"))
    texts = []
    for row in rows:
        low, high = (np.nan if row[end] is None else row[end] for end in ("low", "high"))
        weight = with_interval(row["kd_weight"], low, high, ".3f")
        texts.append((fraction_text(row["fraction"]), weight, "extrapolated" * row["extrapolated"]))
    return Table(columns, tuple(texts))


def family_table(schedule: "Schedule") -> Table:
    """What each family lost at fractions that it was not shown; no rows if none was compared."""
    objective = str(schedule.provenance.get("objective"))
    unit = " (points)" if is_share(objective) else ""
    compared = compare(schedule.held_out)
    columns = (
        Column("family", "left"),
        Column(f"lost inside{unit}"),
        Column("against the simplest"),
        Column(f"lost past the ends{unit}"),
        Column("", "left"),
    )
    used = {law.family for law in schedule.laws}
    rows = []
    for each in compared:
        error = f" ± {loss_text(objective, each.error)}" if np.isfinite(each.error) else ""
        simplest = each is compared[0]
        rows.append(
            (
                each.family,
                loss_text(objective, each.inside),
                "" if simplest else gain_text(objective, each.difference, digits=2) + error,
                loss_text(objective, each.ends),
                "used" if each.family in used else "",
            )
        )
    return Table(columns, tuple(rows))


def law_text(law: "LineLaw | KnotsLaw") -> str:
    """A schedule's formula in f, the kept fraction: `clip(0.12 − 0.31 ln f, 0, 1)`."""
    if law.family == "isotonic":
        knots = zip(law.parameters.fractions, law.parameters.values, strict=True)
        return "between " + ", ".join(f"{w:.2f} at {fraction_text(f)}" for f, w in knots)
    if law.family == "surface":
        return "the maximum of the surface"
    slope = law.parameters.slope
    intercept = f"{law.parameters.intercept:.3f}".replace("-", MINUS)
    line = f"{intercept} {MINUS if slope < 0 else '+'} {abs(slope):.3f} ln f"
    return f"clip({line}, 0, 1)" if law.family == "clipped-log-linear" else f"logistic({line})"


def _estimate(row: Mapping[Hashable, Any], name: str) -> tuple[float, float, float]:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


_VALUES: dict[str, Callable[[float], str]] = {
    "fraction": fraction_text,
    "teacher_fraction": fraction_text,
    "temperature": lambda value: f"{value:.2g}",
    "label_noise": fraction_text,
    "budget_epochs": lambda value: f"{value:.0f}",
}


def value_text(name: str, value: float | str | None) -> str:
    """A parameter's value with its unit."""
    if value is None or value != value:  # noqa: PLR0124  (NaN: had no effect, so none is named)
        return MISSING
    return _VALUES[name](float(value)) if name in _VALUES else str(value)


def heading(name: str) -> str:
    """A parameter as people read it."""
    titles = {
        "kd_weight": "KD weight",
        "fraction": "data kept",
        "teacher_fraction": "teacher's data",
        "label_noise": "label noise",
        "budget_epochs": "epochs",
    }
    return titles.get(name, name)


def _side(name: str) -> Literal["left", "right"]:
    return "right" if name in _VALUES else "left"


def _note(row: Mapping[Hashable, Any]) -> str:
    running = f"{row['n_running']} running" if row["n_running"] else ""
    said = (row["reason"], running, row.get("test_note"))
    return "; ".join(text for text in said if isinstance(text, str) and text)

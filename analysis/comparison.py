"""Two searches' or schedules' answers side by side, context by context."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.errors import AnalysisError, known
from analysis.format import (
    Column,
    Table,
    gain_text,
    heading,
    is_share,
    score_text,
    score_title,
    value_text,
    with_interval,
)

if TYPE_CHECKING:
    import pandas as pd

    from analysis.schedule import Schedule

GRID = 9
"""Fractions at which two schedules are compared, evenly in their logarithm."""
SLACK = 1e-9
_ALWAYS = ("method", "teacher", "fraction")
_MAYBE = ("dataset", "student", "label_noise", "teacher_fraction", "temperature")
"""Part of a context where they vary inside a side; else what differs is said once for all."""
_SCORED = ("objective", "dataset", "label_noise")
"""Where these differ, a difference of scores would mean nothing."""
_TAKEN = ("kd_weight", "kd_weight_low", "kd_weight_high", "score", "score_low", "score_high")


def compare(a: "pd.DataFrame", b: "pd.DataFrame", names: tuple[str, str]) -> "pd.DataFrame":
    """Put the answers of two curves side by side.

    Args:
        a: from `fit_curve` of one search, or `schedule_curve`.
        b: likewise.
        names: what to call them.

    Returns:
        One row per context of either: what tells contexts apart; `kd_weight_a`,
        `kd_weight_low_a`, `kd_weight_high_a` and the same of b; `difference` (b - a); `overlap`
        (whether the intervals do; missing without intervals); `score_a` and `score_b` with theirs
        and `score_difference` (missing where data sets, label noise or objectives differ);
        `only_in` (the one that has the context, or missing) and `note` (why one has no answer).
        `attrs` holds `names`, `keys`, `objective` (None if they differ) and `remarks` (what differs
        for all contexts, in words).

    Raises:
        AnalysisError: what is a context of one was tuned in the other.
    """
    import pandas as pd  # noqa: PLC0415  (kept out of the import of this package)

    tuned = [{*side.attrs.get("tuned", ())} for side in (a, b)]
    for name in _ALWAYS:
        if (name in tuned[0]) != (name in tuned[1]):
            chosen, apart = names if name in tuned[0] else names[::-1]
            raise AnalysisError(
                f"{name} was tuned in {chosen!r} and tells contexts of {apart!r} apart: "
                "their answers are about different things"
            )
    both = {*a.columns} & {*b.columns} - tuned[0] - tuned[1]
    varying = [n for n in _MAYBE if n in both and max(a[n].nunique(), b[n].nunique()) > 1]
    keys = [n for n in (*varying, *_ALWAYS) if n in both]
    merged = pd.merge(
        _side(a, keys), _side(b, keys), on=keys, how="outer", suffixes=("_a", "_b"), indicator=True
    )
    merged = merged.sort_values(keys, ignore_index=True)
    remarks, comparable = _remarks(a, b, names, [n for n in _MAYBE if n not in varying])
    merged["difference"] = merged["kd_weight_b"] - merged["kd_weight_a"]
    merged["overlap"] = _overlap(merged)
    difference = merged["score_b"] - merged["score_a"]
    merged["score_difference"] = difference if comparable else np.nan
    which = merged.pop("_merge").astype("str")
    merged["only_in"] = which.map({"left_only": names[0], "right_only": names[1]}).astype("str")
    notes = [
        "; ".join(
            f"{name}: {reason}"
            for name, reason in zip(names, reasons, strict=True)
            if isinstance(reason, str)
        )
        for reasons in zip(merged.pop("reason_a"), merged.pop("reason_b"), strict=True)
    ]
    merged["note"] = pd.Series(notes, dtype="str").replace("", None)
    objectives = {side.attrs["objective"] for side in (a, b) if "objective" in side.attrs}
    objective = objectives.pop() if len(objectives) == 1 else None
    merged.attrs = {"names": names, "keys": keys, "objective": objective, "remarks": remarks}
    return merged


def compare_schedules(
    a: "Schedule", b: "Schedule", names: tuple[str, str], points: int = GRID
) -> "pd.DataFrame":
    """Put two schedules side by side, over the range of fractions that both were fitted on.

    Args:
        a: one schedule.
        b: another.
        names: what to call them.
        points: fractions for each method and teacher.

    Returns:
        As `compare`; a method and teacher that only one knows, or without a common range, stand
        with the ends of the ranges.
    """
    ranges = [{(law.method, law.teacher): law.range for law in each.laws} for each in (a, b)]
    asked: list[dict[tuple[str, str], list[float]]] = [{}, {}]
    for key in dict.fromkeys([*ranges[0], *ranges[1]]):
        there = [each[key] for each in ranges if key in each]
        low, high = max(low for low, _ in there), min(high for _, high in there)
        if len(there) > 1 and low <= high:
            grid = np.geomspace(low, high, points if low < high else 1).tolist()
            asked[0][key] = asked[1][key] = grid
            continue
        for mine, each in zip(asked, ranges, strict=True):
            if key in each:
                mine[key] = list(each[key])
    return compare(schedule_curve(a, asked[0]), schedule_curve(b, asked[1]), names)


def at_contexts(schedule: "Schedule", curve: "pd.DataFrame") -> "pd.DataFrame":
    """What a schedule says in the contexts of a search, as a curve to `compare` with its own.

    Only inside the range that it was fitted on.

    Args:
        schedule: any.
        curve: from `fit_curve`.
    """
    asked = {}
    for law in schedule.laws:
        mine = (curve["method"] == law.method) & (curve["teacher"] == law.teacher)
        low, high = law.range
        fractions = curve.loc[mine, "fraction"]
        # 0.1 that went through text and back is still 0.1.
        inside = fractions.between(low * (1 - SLACK), high * (1 + SLACK))
        asked[law.method, law.teacher] = sorted(fractions[inside].unique().tolist())
    return schedule_curve(schedule, asked)


def schedule_curve(
    schedule: "Schedule", fractions: Mapping[tuple[str, str], Iterable[float]]
) -> "pd.DataFrame":
    """What a schedule says at some fractions, as a curve of KD weights alone.

    Args:
        schedule: any.
        fractions: in (0, 1], by method and teacher.
    """
    import pandas as pd  # noqa: PLC0415

    rows = [
        {
            "method": method,
            "teacher": teacher,
            "fraction": fraction,
            "kd_weight": schedule(fraction, method=method, teacher=teacher),
        }
        for (method, teacher), asked in fractions.items()
        for fraction in asked
    ]
    return pd.DataFrame(rows, columns=["method", "teacher", "fraction", "kd_weight"]).astype(
        {"method": "str", "teacher": "str", "fraction": "float64", "kd_weight": "float64"}
    )


def _side(curve: "pd.DataFrame", keys: list[str]) -> "pd.DataFrame":
    side = curve.reindex(columns=[*keys, *_TAKEN, "reason"])
    # Fractions went through text and back: what is equal to nine digits is the same.
    side["fraction"] = side["fraction"].round(9)
    side.attrs = {}
    return side


def _overlap(merged: "pd.DataFrame") -> "pd.Series[Any]":
    a_low, a_high = merged["kd_weight_low_a"], merged["kd_weight_high_a"]
    b_low, b_high = merged["kd_weight_low_b"], merged["kd_weight_high_b"]
    overlap = ((a_low <= b_high) & (b_low <= a_high)).astype("boolean")
    known_all = a_low.notna() & a_high.notna() & b_low.notna() & b_high.notna()
    return overlap.where(known_all)


def _remarks(
    a: "pd.DataFrame", b: "pd.DataFrame", names: tuple[str, str], fixed: list[str]
) -> tuple[list[str], bool]:
    """What differs between the sides as a whole, and whether their scores can be compared."""

    def values(side: "pd.DataFrame", name: str) -> list[str]:
        if name == "objective":
            return [str(side.attrs[name])] if name in side.attrs else []
        if name not in side.columns:
            return []
        return [value_text(name, value) for value in sorted(side[name].dropna().unique())]

    remarks, comparable = [], True
    for name in ("objective", *fixed, "budget_epochs"):
        mine, theirs = values(a, name), values(b, name)
        if mine and theirs and {*mine} != {*theirs}:
            said = "; ".join(
                f"{who} {known(what)}" for who, what in zip(names, (mine, theirs), strict=True)
            )
            lost = name in _SCORED
            comparable &= not lost
            end = "; scores are not compared" if lost else ""
            remarks.append(f"{heading(name)} differs: {said}{end}.")
    return remarks, comparable


def comparison_table(compared: "pd.DataFrame") -> Table:
    """A comparison as text."""
    a, b = compared.attrs["names"]
    keys: list[str] = compared.attrs["keys"]
    scored = bool(compared[["score_a", "score_b"]].notna().any().all())
    bounded = bool(compared["overlap"].notna().any())
    noted = compared[["only_in", "note"]].notna().any().any()
    objective = compared.attrs["objective"] or ""
    unit = " (points)" if is_share(objective) else ""
    columns = [Column(heading(n), "left" if n in ("method", "teacher") else "right") for n in keys]
    columns += [Column(f"KD weight of {a}"), Column(f"KD weight of {b}")]
    columns += [Column("difference"), *[Column("intervals", "left")] * bounded]
    if scored:
        columns += [Column(f"{score_title(objective) or 'score'} of {each}") for each in (a, b)]
        columns += [Column(f"difference{unit}")]
    columns += [Column("note", "left")] * bool(noted)

    def cells(row: Mapping[Hashable, Any]) -> Iterator[str]:
        yield from (value_text(name, row[name]) for name in keys)
        for side in "ab":
            yield with_interval(*(row[f"kd_weight{end}_{side}"] for end in ("", "_low", "_high")))
        yield with_interval(row["difference"], np.nan, np.nan, "+.2f")
        if bounded:
            yield {True: "overlap", False: "apart"}.get(row["overlap"], "")
        if scored:
            yield from (score_text(objective, row[f"score_{side}"]) for side in "ab")
            yield gain_text(objective, row["score_difference"])
        if noted:
            only = row["only_in"]
            told = [f"only in {only}" if isinstance(only, str) else None, row["note"]]
            yield "; ".join(each for each in told if isinstance(each, str))

    rows = tuple(tuple(cells(row)) for row in compared.to_dict("records"))
    return Table(tuple(columns), rows)

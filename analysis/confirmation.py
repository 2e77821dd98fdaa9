"""What the test set says of the answers, by students trained afresh: chosen KD weight, 0 and 1."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.format import (
    Column,
    Table,
    context_cells,
    count_text,
    gain_text,
    is_share,
    score_text,
    tested_gain_text,
    tested_title,
    with_interval,
)
from analysis.paired import Paired, holm, paired_t
from trainables import record
from trainables.record import CONTEXT_PARAMS, TEACHING_PARAMS, Outcome

if TYPE_CHECKING:
    import pandas as pd

_ENDS = {"test_gain": 0.0, "test_gain_over_1": 1.0}
_SAME = 1e-6
"""KD weights nearer than this are one: a fit repeated elsewhere may differ in the last digits."""


def with_test(curve: "pd.DataFrame", students: "pd.DataFrame") -> "pd.DataFrame":
    """Add to each answer what the test set says of it, where it was confirmed.

    Args:
        curve: from `fit_curve`, of one search.
        students: from `load_students`.

    Returns:
        The curve, and if there are students: `test_kd_weight` (the one that was confirmed, which is
        not `kd_weight` if the answer has changed since), `test_score` (mean over `test_seeds` fresh
        seeds), `test_gain` (over KD weight 0) and `test_gain_over_1`, each with `_low` and `_high`
        (paired t intervals over seeds at the curve's level) and `_p` (two-sided, after Holm over
        all contexts), `test_failed` (students of the context that failed) and `test_note`.
    """
    import pandas as pd  # noqa: PLC0415

    plain = curve.drop(columns=[name for name in curve if str(name).startswith("test_")])
    plain.attrs = curve.attrs
    if students.empty:
        return plain
    fixed = _fixed(curve.attrs["tuned"])
    found = _Students(students, fixed)
    columns = [_columns(found, row, curve.attrs) for row in plain.to_dict("records")]
    added = pd.DataFrame(columns, index=plain.index)
    for name in _ENDS:
        added[f"{name}_p"] = holm(added[f"{name}_p"])
    added = added.astype(
        dict.fromkeys(["test_seeds", "test_failed"], "Int64") | {"test_note": "str"}
    )
    tested = pd.concat([plain, added], axis=1)
    tested.attrs = curve.attrs
    return tested


class _Students:
    """Students by what tells contexts apart."""

    def __init__(self, students: "pd.DataFrame", fixed: list[str]) -> None:
        self._fixed = fixed
        rows = students.astype(object).where(students.notna(), None).to_dict("records")
        self._by_context: defaultdict[tuple[Any, ...], list[dict[Hashable, Any]]] = defaultdict(
            list
        )
        for row in rows:
            self._by_context[self._key(row, taught=row["kd_weight"] > 0.0)].append(row)

    def of(self, context: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Those of one context; at KD weight 0 it shares them with others."""
        keys = {self._key(context, taught=True), self._key(context, taught=False)}
        return [row for key in keys for row in self._by_context.get(key, [])]

    def _key(self, row: Mapping[Hashable, Any], *, taught: bool) -> tuple[Any, ...]:
        values = (
            row[name] if taught or name not in TEACHING_PARAMS else None for name in self._fixed
        )
        # Numbers went through text and back.
        return (taught, *(round(v, 9) if isinstance(v, float) else v for v in values))


def confirmed_students(
    answer: Mapping[Any, Any], students: "pd.DataFrame", tuned: Collection[str]
) -> list[dict[Hashable, Any]]:
    """The complete students of a context at the setting that was confirmed, by seed.

    Args:
        answer: row of a curve.
        students: from `load_students`.
        tuned: parameters chosen within each context.
    """
    mine = _Students(students, _fixed(tuned)).of(answer)
    chosen = _confirmed(mine, answer, _others(tuned))
    if chosen is None:
        return []
    alike = _at(mine, chosen["kd_weight"], {name: chosen[name] for name in _others(tuned)})
    complete = (row for row in alike if row["outcome"] == Outcome.COMPLETE)
    return sorted(complete, key=lambda row: int(row["seed"]))


def _fixed(tuned: Collection[str]) -> list[str]:
    """What tells contexts apart."""
    return [name for name in CONTEXT_PARAMS if name not in tuned]


def _others(tuned: Collection[str]) -> list[str]:
    """What is chosen within each context beside the KD weight."""
    return [name for name in CONTEXT_PARAMS if name in tuned]


def _columns(
    found: _Students, answer: Mapping[Hashable, Any], attrs: Mapping[Hashable, Any]
) -> dict[str, Any]:
    mine = found.of(answer)
    others = _others(attrs["tuned"])
    chosen = _confirmed(mine, answer, others)
    if chosen is None:
        names = [f"{name}{end}" for name in _ENDS for end in ("", "_low", "_high", "_p")]
        empty = dict.fromkeys(["test_kd_weight", "test_score", *names], np.nan)
        return {**empty, "test_seeds": None, "test_failed": None, "test_note": None}
    setting = {name: chosen[name] for name in others}
    students = {w: _at(mine, w, setting) for w in dict.fromkeys((chosen["kd_weight"], 0.0, 1.0))}
    scores = {w: _scores(rows) for w, rows in students.items()}
    best = scores[chosen["kd_weight"]]
    gains: dict[str, Any] = {}
    for name, end in _ENDS.items():
        gain = _gain(best, scores[end], attrs["level"], same=end == chosen["kd_weight"])
        gains |= dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_p"), gain, strict=False))
    failed = [r for rows in students.values() for r in rows if r["outcome"] != Outcome.COMPLETE]
    return {
        "test_kd_weight": chosen["kd_weight"],
        "test_score": float(np.mean([*best.values()])) if best else np.nan,
        **gains,
        "test_seeds": len(best),
        "test_failed": len(failed),
        "test_note": _note(answer, chosen, setting, failed),
    }


def _confirmed(
    mine: list[dict[Hashable, Any]], answer: Mapping[Hashable, Any], others: list[str]
) -> dict[Hashable, Any] | None:
    """A student of the confirmed setting: that of the answer, or else of the newest before it."""
    setting = {name: answer[name] for name in others}
    if answer["kd_weight"] == answer["kd_weight"]:
        present = _at(mine, answer["kd_weight"], setting)
        if present:
            return present[0]
    earlier = [row for row in mine if answer["context"] in (row["chosen"] or "").split(",")]
    return max(earlier, key=lambda row: row["end_time"], default=None)


def _at(
    mine: list[dict[Hashable, Any]], kd_weight: float, setting: Mapping[str, Any]
) -> list[dict[Hashable, Any]]:
    """Students at a KD weight, all else that was tuned being equal."""
    return [
        row
        for row in mine
        if abs(row["kd_weight"] - kd_weight) < _SAME
        and all(row[name] is None or _equal(row[name], setting[name]) for name in setting)
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _SAME * max(1.0, abs(other))
    return bool(one == other)


def _scores(rows: list[dict[Hashable, Any]]) -> dict[int, float]:
    """Test scores by seed."""
    complete = (row for row in rows if row["outcome"] == Outcome.COMPLETE)
    return {row["seed"]: row["test_score"] for row in complete}


def _gain(
    best: Mapping[int, float], end: Mapping[int, float], level: float, *, same: bool
) -> Paired:
    if same:  # nothing is gained over itself, which is no finding
        return Paired(0.0, np.nan, np.nan, np.nan, len(best))
    seeds = sorted(best.keys() & end.keys())
    return paired_t([best[seed] - end[seed] for seed in seeds], level)


def _note(
    answer: Mapping[Hashable, Any],
    chosen: Mapping[Hashable, Any],
    setting: Mapping[str, Any],
    failed: list[dict[Hashable, Any]],
) -> str | None:
    now = {"kd_weight": answer["kd_weight"], **{name: answer[name] for name in setting}}
    notes = []
    if any(chosen[name] is not None and not _equal(chosen[name], now[name]) for name in now):
        notes.append(f"test: an older answer, KD weight {chosen['kd_weight']:.2f}")
    if failed:
        reasons = dict.fromkeys(str(row["reason"]) for row in failed)
        notes.append(f"test: {len(failed)} failed ({'; '.join(reasons)})")
    return "; ".join(notes) or None


def is_confirmed(curve: "pd.DataFrame") -> bool:
    """Whether the test set says something of some answer."""
    return "test_score" in curve and bool(curve["test_seeds"].notna().any())


def confirmed_points(
    rows: Iterable[Mapping[str, Any]], tuned: Iterable[str]
) -> Iterator[tuple[str, float, int]]:
    """Confirmed gains as MLflow plots them: metric name, gain, step."""
    tuned = set(tuned)
    for row in rows:
        names = ["tuned" if key in tuned else row[key] for key in ("method", "teacher")]
        for name, end in _ENDS.items():
            gain = row.get(name)
            if gain is not None and np.isfinite(gain):
                metric = record.confirmed_metric(names[0], names[1], int(end))
                yield metric, gain, record.curve_step(row["fraction"])


def confirmation_table(curve: "pd.DataFrame") -> Table:
    """What the test set says, beside what validation had said."""
    objective = curve.attrs["objective"]
    unit = " (points)" if is_share(objective) else ""
    cells = context_cells(curve)
    noted = curve["test_note"].notna().any()
    columns = (
        *(column for column, _ in cells),
        Column("confirmed KD weight"),
        Column(tested_title(objective)),
        Column(f"gain over no KD{unit}"),
        Column("on validation"),
        Column(f"gain over 1{unit}"),
        Column("on validation"),
        Column("seeds"),
        *([Column("note", "left")] if noted else []),
    )

    def text(row: Mapping[Hashable, Any]) -> Iterator[str]:
        yield from (cell(row) for _, cell in cells)
        yield with_interval(row["test_kd_weight"], np.nan, np.nan)
        yield score_text(objective, row["test_score"])
        for over, validation in ((0.0, "gain"), (1.0, "gain_over_1")):
            yield tested_gain_text(objective, row, over)
            yield gain_text(objective, row[validation])
        yield count_text(row["test_seeds"])
        if noted:
            yield row["test_note"] if isinstance(row["test_note"], str) else ""

    shown = curve[curve["test_seeds"].notna()].to_dict("records")
    return Table(columns, tuple(tuple(text(row)) for row in shown))


class Section(NamedTuple):
    """What a report says of a confirmation."""

    table: Table
    text: list[str]


def confirmation_section(curve: "pd.DataFrame") -> Section | None:
    """Table and sentences; None if nothing was confirmed."""
    if not is_confirmed(curve):
        return None
    return Section(confirmation_table(curve), confirmation_text(curve))


def confirmation_text(curve: "pd.DataFrame") -> list[str]:
    """How to read a confirmation, in sentences: the intervals, and what their number does."""
    level = curve.attrs["level"]
    confirmed = curve[curve["test_seeds"].notna()]
    seeds = sorted({int(n) for n in confirmed["test_seeds"]})
    many = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    lines = [
        f"Test: students trained afresh under {many} seeds that the search never used, judged on "
        f"the test set once. [low, high]: paired {level:.0%} t intervals over seeds; they are "
        "conditional on the teacher, the pruning scores and this test set."
    ]
    for name, over in (("test_gain", "KD weight 0"), ("test_gain_over_1", "KD weight 1")):
        tested = confirmed[confirmed[f"{name}_p"].notna()]
        if tested.empty:
            continue
        found = tested[tested[f"{name}_p"] <= 1.0 - level + 1e-12]
        up = int((found[name] > 0).sum())
        worse = f", {len(found) - up} losses" if up < len(found) else ""
        lines.append(
            f"Of {len(tested)} gains over {over}, {up} are significant at {1.0 - level:.0%} after "
            f"Holm's correction for all contexts that were confirmed{worse}."
        )
    return lines

"""Schedules fitted: a family chosen by its regret at unseen fractions, a law for each context."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.bands import fit_band
from analysis.choice import choose, compare
from analysis.curve import fitted_lines, trials_of
from analysis.document import MIN_FRACTIONS, HeldOut, LeftOut
from analysis.errors import AnalysisError, known
from analysis.estimators import DEFAULT, Trials
from analysis.families import FAMILIES, Evidence
from analysis.joint import pool
from analysis.laws import LAWS
from analysis.schedule import Schedule
from analysis.settings import Floats
from analysis.unseen import PartSurface, fit_without

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import JsonValue

AUTO = "auto"
TUNED = "tuned"
"""Stands for the method or teacher where the search chose it instead of keeping it apart."""
KNOTS = 25
"""Of bands and of the surface's law, evenly in ln f."""
BEYOND = 10.0
"""They reach from so much less than the smallest fraction fitted on to 1."""


@dataclass(frozen=True, eq=False)
class _Group:
    """The answers for one method and teacher, by ascending fraction."""

    method: str
    teacher: str
    contexts: tuple[Hashable, ...]
    table: Floats
    """Rows (fraction, kd_weight, low, high)."""

    @property
    def names(self) -> dict[str, str]:
        return {"method": self.method, "teacher": self.teacher}

    @property
    def grid(self) -> Floats:
        """Fractions of knots: those fitted on, and others between and beyond."""
        fractions = self.table[:, 0]
        even = np.geomspace(fractions[0] / BEYOND, 1.0, KNOTS)
        # A knot that nearly coincides with a fraction fitted on would say the same twice.
        apart = np.abs(np.log(even[:, None] / fractions)).min(axis=1) > 0.02  # noqa: PLR2004
        return np.union1d(np.round(even[apart], 6), fractions)


def fit_schedule(
    curve: "pd.DataFrame",
    runs: "pd.DataFrame | None" = None,
    family: str = AUTO,
    *,
    provenance: "dict[str, JsonValue] | None" = None,
) -> Schedule:
    """Fit the KD weight as a function of the kept fraction, per method and teacher.

    Families of laws, `FAMILIES`: `clipped-log-linear`, clip(a + b ln f, 0, 1); `logistic` in ln
    f; `isotonic`, monotone through the answers; `surface`, the maximum of the response surface at
    any f. All but the last are least squares with each answer weighted by the inverse width of
    its interval. With `auto` each fraction is held out in turn: its trials are left out, one
    surface is fitted to the rest and answers for it, every family is fitted to these answers and
    loses something at the held-out fraction, in accuracy by the estimate from all trials. The
    simplest family is taken unless another loses less beyond noise, at the fractions inside the
    range (`choice`).

    Args:
        curve: from `fit_curve`; rows without an answer are passed over.
        runs: the trials behind the curve. Without them nothing is compared, and `auto` is the
            simplest family.
        family: a name of `FAMILIES`, or `auto`.
        provenance: what to record beside the search, objective, estimator, number of trials,
            version and git commit.

    Raises:
        AnalysisError: an unknown family, one that needs the trials or more fractions, no method
            and teacher with answers at two fractions, or contexts that differ in something
            else too (a temperature, say) that a schedule does not take.
    """
    if family not in (AUTO, *FAMILIES):
        raise AnalysisError(f"family {family!r} is unknown; known: {known((AUTO, *FAMILIES))}")
    if family == "surface" and runs is None:
        raise AnalysisError("family 'surface' needs the trials: pass runs to fit_schedule")
    _require_one_value(curve)
    groups, left_out = _grouped(curve)
    if not groups:
        why = "; ".join(f"{each.method}, {each.teacher}: {each.reason}" for each in left_out)
        raise AnalysisError(
            f"no schedule: it needs answers at {MIN_FRACTIONS} or more fractions for one method "
            f"and teacher ({why})"
        )
    asked = None if runs is None else _Surfaces(curve, runs)
    held_out: tuple[HeldOut, ...] = ()
    if family == AUTO:
        held_out = tuple(_held_out(groups, asked)) if asked else ()
        chosen, choice = choose(compare(held_out))
    else:
        chosen, choice = family, f"{family}: as asked for, nothing was compared"
    whole = asked.without(None) if asked and chosen == "surface" else None
    laws = []
    for group in groups:
        evidence = _evidence(group, group.table, group.grid, asked, whole)
        parameters = FAMILIES[chosen](evidence)
        columns = ("fraction", "kd_weight", "low", "high")
        laws.append(
            {
                **group.names,
                "family": chosen,
                "parameters": parameters,
                "points": [dict(zip(columns, row, strict=True)) for row in group.table.tolist()],
                "band": fit_band(chosen, parameters, evidence, curve.attrs["level"]),
            }
        )
    return Schedule.model_validate(
        {
            "laws": laws,
            "choice": choice,
            "held_out": held_out,
            "left_out": left_out,
            "provenance": {**_provenance(curve), **(provenance or {})},
        }
    )


def _grouped(curve: "pd.DataFrame") -> tuple[list[_Group], list[LeftOut]]:
    """The methods and teachers with enough answers, and those without."""
    contexts = curve.attrs["contexts"]
    # The method and teacher were either kept apart, or one of the tuned values.
    keys = [curve[name] if name in contexts else TUNED for name in ("method", "teacher")]
    keyed = curve.assign(_method=keys[0], _teacher=keys[1])
    groups, left_out = [], []
    for (method, teacher), rows in keyed.groupby(["_method", "_teacher"], sort=True):
        answers = rows[rows["kd_weight"].notna()].sort_values("fraction")
        if len(answers) < MIN_FRACTIONS:
            has = f"{len(answers)} of {len(rows)} fractions answered"
            reason = f"{has}, needs {MIN_FRACTIONS}"
            left_out.append(LeftOut(method=str(method), teacher=str(teacher), reason=reason))
            continue
        columns = ["fraction", "kd_weight", "kd_weight_low", "kd_weight_high"]
        table = answers[columns].to_numpy(dtype=np.float64)
        groups.append(_Group(str(method), str(teacher), tuple(answers["context"]), table))
    return groups, left_out


class _Surfaces:
    """Surfaces fitted to the trials, some fraction left out, and what all trials say of scores."""

    def __init__(self, curve: "pd.DataFrame", runs: "pd.DataFrame") -> None:
        self._curve, self._runs = curve, runs
        by_context = trials_of(runs)
        self.position: dict[Hashable, int] = {key: i for i, key in enumerate(by_context)}
        self.contexts: Sequence[Trials] = list(by_context.values())
        self.own_answers: bool = curve.attrs["estimator"] == DEFAULT
        """Whether answers come from the surface, so that leaving trials out changes the others."""
        self.level: float = curve.attrs["level"]
        self._pooled = pool(self.contexts)

    @cached_property
    def _lines(self) -> "dict[Any, pd.DataFrame]":
        """The estimate from all trials, by context: the curve's own if its estimator has one."""
        lines = fitted_lines(self._runs, self._curve)
        if lines.empty:
            by_surface = self._curve.copy()
            by_surface.attrs = {**self._curve.attrs, "estimator": DEFAULT}
            lines = fitted_lines(self._runs, by_surface)
        return dict(iter(lines.groupby("context")))

    def without(self, fraction: float | None) -> PartSurface:
        """One fit for all contexts."""
        return fit_without(self.contexts, self._pooled, fraction)

    def lost(self, context: Hashable, kd_weight: float) -> float | None:
        """Score lost by a KD weight against the best one, None without an estimate."""
        line = self._lines.get(context)
        if line is None:
            return None
        low, high = self.contexts[self.position[context]].kd_weight_range
        inside = line["kd_weight"].between(low - 1e-9, high + 1e-9)
        at, mean = line["kd_weight"].to_numpy(), line["mean"].to_numpy(dtype=np.float64)
        return max(0.0, float(mean[inside].max() - np.interp(kd_weight, at, mean)))


def _held_out(groups: Sequence[_Group], asked: _Surfaces) -> Iterator[HeldOut]:
    """Every fraction in turn, its trials left out: what each family loses there."""
    enough = [group for group in groups if len(group.table) > MIN_FRACTIONS]
    for fraction in sorted({f for group in enough for f in group.table[:, 0]}):
        part = asked.without(fraction)
        for group in enough:
            at = np.flatnonzero(np.isclose(group.table[:, 0], fraction))
            if not len(at):
                continue
            held, context = int(at[0]), group.contexts[int(at[0])]
            positions = [asked.position[key] for key in group.contexts]
            narrow = part.narrowed(positions)
            rest = np.delete(group.table, held, axis=0)
            if asked.own_answers:
                kept = np.delete(positions, held).tolist()
                rest[:, 1:] = [narrow.answer(i, asked.level) for i in kept]
            evidence = _evidence(group, rest, np.array([fraction]), asked, narrow)
            weights = {
                name: float(LAWS[name](np.array([fraction]), **fit(evidence))[0])
                for name, fit in FAMILIES.items()
            }
            lost = {name: asked.lost(context, weight) for name, weight in weights.items()}
            if None not in lost.values():
                yield HeldOut(
                    **group.names,
                    fraction=fraction,
                    inside=0 < held < len(group.table) - 1,
                    kd_weight=weights,
                    lost=lost,
                )


def _evidence(
    group: _Group,
    table: Floats,
    grid: Floats,
    asked: _Surfaces | None,
    part: PartSurface | None,
) -> Evidence:
    fraction, weight, low, high = table.T
    if asked is None or part is None:
        return Evidence(fraction, weight, low, high, grid)
    positions = [asked.position[key] for key in group.contexts]
    narrow, like, level = part.narrowed(positions), positions[0], asked.level
    # A law and its band ask for the same.
    predict = cache(lambda fraction: narrow.predict(like, fraction, level))
    return Evidence(fraction, weight, low, high, grid, predict)


def _require_one_value(curve: "pd.DataFrame") -> None:
    free = ("method", "teacher", "fraction")
    for name in curve.attrs["contexts"]:
        values = sorted(curve[name].dropna().unique())
        if name not in free and len(values) > 1:
            raise AnalysisError(
                f"a schedule answers per method and teacher, but the contexts differ in {name} "
                f"too: {known(values)}; keep one of them"
            )


def _provenance(curve: "pd.DataFrame") -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        kdcurve: str | None = version("kdcurve")
    except PackageNotFoundError:
        kdcurve = None  # used from a source folder
    names = ("search", "objective", "estimator", "level", "parent_run_id", "git_commit")
    return {
        "kdcurve": kdcurve,
        **{name: curve.attrs.get(name) for name in names},
        "complete_trials": int(curve["n_complete"].sum()),
    }

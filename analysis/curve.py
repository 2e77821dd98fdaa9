"""The answer per context: the best KD weight, its interval and what it gains."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.confirmation import with_test
from analysis.errors import AnalysisError, known
from analysis.estimators import DEFAULT, ESTIMATORS, LEVEL, Answer, Estimate, Trials
from analysis.recorded import current, typed
from analysis.runs import find_parent, load_runs, parent_attrs, together
from analysis.server import one_line_errors, require_store
from analysis.students import load_students
from trainables.record import CONTEXT_PARAMS, VAL_NLL_SCALED, Outcome, curve_metric, curve_step

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ESTIMATORS",
    "best",
    "context_columns",
    "curve_points",
    "fit_curve",
    "fit_curve_and_lines",
    "fitted_lines",
]

ORDER = ("dataset", "student", "method", "teacher", "teacher_fraction", "temperature", "fraction")
"""How the rows of a curve are sorted."""
SEARCH = "search"
PROBLEM = ("dataset", "label_noise", "student", "budget_epochs")
"""What makes scores comparable: they are never chosen from across these."""
LINE_POINTS = 51
"""KD weights at which a fitted line is drawn."""


def best(  # noqa: PLR0913  (all that may be asked, most of it by keyword)
    name: str | Sequence[str],
    tracking_uri: str,
    method: str | None = None,
    fraction: float | None = None,
    teacher: str | None = None,
    *,
    by: Sequence[str] = (),
    estimator: str = DEFAULT,
    level: float = LEVEL,
    fresh: bool = False,
    cache: bool | Path = True,
) -> "pd.DataFrame":
    """Answer from MLflow which setting is best in each context.

    A complete search has its answers recorded; they are given as long as no trial came after
    them. They equal those computed afresh.

    Args:
        name: the search, or several.
        tracking_uri: where MLflow keeps it.
        method: only this pruning method.
        fraction: only this kept fraction, in (0, 1].
        teacher: only this teacher.
        by: see `select`.
        estimator: a name of `ESTIMATORS`.
        level: probability inside an interval, in (0, 1).
        fresh: compute, whatever is recorded.
        cache: as for `load_runs`.

    Returns:
        See `fit_curve`, and `with_test` where answers were confirmed; `attrs["recorded"]` is when
        recorded answers were made (ISO 8601), None for those computed now.

    Raises:
        AnalysisError: as `load_runs` and `fit_curve`, or a filter that matches nothing.
    """
    names = [name] if isinstance(name, str) else list(name)
    wanted = {"method": method, "fraction": fraction, "teacher": teacher}
    asked = wanted if len(names) == 1 else {}
    curves = {
        each: find_curve(
            each, tracking_uri, asked, estimator=estimator, level=level, fresh=fresh, cache=cache
        )
        for each in names
    }
    return select(curves[name] if isinstance(name, str) else together(curves), wanted, by)


def find_curve(
    name: str,
    tracking_uri: str,
    wanted: Mapping[str, str | float | None],
    *,
    estimator: str = DEFAULT,
    level: float = LEVEL,
    fresh: bool = False,
    cache: bool | Path = True,
) -> "pd.DataFrame":
    """All answers of one search, recorded or computed.

    Args:
        name: the search.
        tracking_uri: where MLflow keeps it.
        wanted: what will be looked for: if it is not there, that is said before a long fit.
        estimator: as for `best`.
        level: as for `best`.
        fresh: as for `best`.
        cache: as for `load_runs`.

    Raises:
        AnalysisError: as `best`.
    """
    curve = None
    if not fresh and (estimator, level) == (DEFAULT, LEVEL):
        curve = _recorded_curve(name, tracking_uri)
    if curve is None:
        runs = load_runs(name, tracking_uri, cache=cache)
        _only(runs, wanted)
        curve = fit_curve(runs, estimator, level)
    return with_test(curve, load_students(name, tracking_uri))


def _recorded_curve(name: str, tracking_uri: str) -> "pd.DataFrame | None":
    """The answers that a complete search uploaded, if they are still current."""
    require_store(tracking_uri)
    with one_line_errors(tracking_uri):
        from mlflow.tracking import MlflowClient  # noqa: PLC0415  (takes seconds)

        client = MlflowClient(tracking_uri=tracking_uri)
        _, parent = find_parent(client, name)
        return current(client, parent, parent_attrs(name, parent, tracking_uri))


def select(
    curve: "pd.DataFrame", wanted: Mapping[str, str | float | None], by: Sequence[str] = ()
) -> "pd.DataFrame":
    """Some rows of a curve.

    Contexts inform each other, so that this comes after a fit, not before.

    Args:
        curve: from `fit_curve`, or several `together`.
        wanted: a value by column; None for all.
        by: columns of contexts, or `search`. For each of their values, and each fraction, the row
            of the highest score is left: with `method` the best teacher and search. The column
            `n_compared` says of how many contexts with an answer. Never compared are scores of
            another data set, label noise, student or length of training: each has rows of
            its own.

    Raises:
        AnalysisError: a value or a column that the curve does not have.
    """
    found = _only(curve, wanted)
    if by:
        found = _best_by(found, by)
    return found.reset_index(drop=True)


def _best_by(curve: "pd.DataFrame", by: Sequence[str]) -> "pd.DataFrame":
    tuned = curve.attrs["tuned"]
    allowed = [n for n in (SEARCH, *ORDER) if n in curve.columns and n not in tuned]
    for name in by:
        if name not in allowed:
            raise AnalysisError(
                f"answers cannot be told apart by {name!r}; known: {known(allowed)}"
            )
    keys = list(dict.fromkeys([*by, "fraction", *PROBLEM]))
    groups = curve.groupby(keys, dropna=False, sort=False)
    # Where no context of a group has an answer, the first one's reason stands.
    kept = [
        part["score"].idxmax() if part["score"].notna().any() else part.index[0]
        for _, part in groups
    ]
    compared = groups["score"].transform("count")
    best_rows = curve.assign(n_compared=compared.astype("int64")).loc[kept].sort_values(keys)
    best_rows.attrs = {**curve.attrs, "by": tuple(by)}
    return best_rows


def fit_curve(
    runs: "pd.DataFrame", estimator: str = DEFAULT, level: float = LEVEL
) -> "pd.DataFrame":
    """Estimate the best setting of every context from its complete trials.

    Trials that were stopped early, failed or are still running are counted, never fitted. The
    recommended KD weight lies inside the range that was tuned, `attrs["kd_weight_range"]`. The
    intervals are conditional on the estimator's model, and on the teacher and the pruning scores
    that all trials of a context share; those of `quadratic` and `grid` also on the seeds that were
    run, while `surface` speaks of the mean over all seeds (see `estimators`, `joint`).

    Args:
        runs: from `load_runs`. With `surface` contexts left out change the answers of the rest.
        estimator: a name of `ESTIMATORS`.
        level: probability inside an interval, in (0, 1).

    Returns:
        One row per context: `context` (hash), `label`, the names of `record.CONTEXT_PARAMS`
        (recommended values where they were tuned), `label_noise`, `budget_epochs` (full length
        of the trials, which are never mixed), `kd_weight`, `score` and `gain` (score
        minus that at KD weight 0) and `gain_over_1` (the same for 1) each with `_low` and `_high`,
        `flat_low` and `flat_high` (between them KD weights score less than 0.001 below the
        best), `expected_loss` (expected lack of the recommended setting against the best
        one), `score_without_kd` (estimated at KD weight 0), `measured_without_kd` (plain mean of
        the `n_without_kd` complete trials there), `n_complete`, `n_stopped`, `n_failed`,
        `n_running`, `n_seeds`, and `reason` where there is no answer (its numbers are then
        missing). Scores are in the objective's own unit. `attrs` adds `contexts` (names),
        `estimator`, `level` and `signal` (what `surface` learned the KD weights from, in words;
        None with other estimators) to those of `runs`. Several searches are fitted each by itself;
        the column `search` tells their rows apart.

    Raises:
        AnalysisError: unknown estimator, a level outside (0, 1), or no complete trial at all.
    """
    if "searches" in runs.attrs:
        parts = _apart(runs)
        return together({name: fit_curve(part, estimator, level) for name, part in parts.items()})
    return _curve(runs, _answers(runs, estimator, level), estimator, level)


def fit_curve_and_lines(
    runs: "pd.DataFrame", estimator: str = DEFAULT, level: float = LEVEL
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """What `fit_curve` and `fitted_lines` return for one search, from one fit.

    Raises:
        AnalysisError: as `fit_curve`.
    """
    answers = _answers(runs, estimator, level)
    return _curve(runs, answers, estimator, level), _lines(answers)


def _curve(
    runs: "pd.DataFrame", answers: Mapping[Hashable, Answer], estimator: str, level: float
) -> "pd.DataFrame":
    rows = [
        {"context": context, **_context_row(trials, runs.attrs, answers[context])}
        for context, trials in runs.groupby("context", sort=False)
    ]
    contexts = context_columns(runs)
    order = [name for name in ORDER if name in contexts]
    curve = typed(rows).sort_values(order, ignore_index=True)
    curve.attrs = {
        **runs.attrs,
        "contexts": contexts,
        "estimator": estimator,
        "level": level,
        "signal": next((answer.signal for answer in answers.values() if answer.signal), None),
        "recorded": None,
    }
    return curve


def fitted_lines(
    runs: "pd.DataFrame", curve: "pd.DataFrame", points: int = LINE_POINTS
) -> "pd.DataFrame":
    """The fitted mean over the KD weight, for pictures.

    Args:
        runs: the trials behind the curve.
        curve: from `fit_curve`.
        points: KD weights per context, evenly over [0, 1].

    Returns:
        Rows (`context`, `kd_weight`, `mean`, `low`, `high`), the other tuned values held at
        the recommended ones; none for contexts without an answer or an estimator without line.
    """
    return _lines(_answers(runs, curve.attrs["estimator"], curve.attrs["level"]), points)


def _lines(answers: Mapping[Hashable, Answer], points: int = LINE_POINTS) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    kd_weight = np.linspace(0.0, 1.0, points)
    frames = [pd.DataFrame(columns=["context", "kd_weight", "mean", "low", "high"])]
    for context, answer in answers.items():
        if answer.line is not None:
            mean, low, high = answer.line(kd_weight)
            columns = {"kd_weight": kd_weight, "mean": mean, "low": low, "high": high}
            frames.append(pd.DataFrame({"context": context, **columns}))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def context_columns(runs: "pd.DataFrame") -> tuple[str, ...]:
    """The parameters that tell contexts apart: those of the schema that were not tuned."""
    return tuple(name for name in CONTEXT_PARAMS if name not in runs.attrs["tuned"])


def usable(runs: "pd.DataFrame") -> "pd.Series[bool]":
    """Which trials enter a fit: full budget and a finite score."""
    entering: pd.Series[bool] = (runs["outcome"] == Outcome.COMPLETE) & np.isfinite(runs["score"])
    return entering


def trials_of(runs: "pd.DataFrame") -> dict[Hashable, Trials]:
    """The complete trials of every context, as estimators take them."""
    return {
        context: _arrays(trials[usable(trials)], runs.attrs)
        for context, trials in runs.groupby("context", sort=False)
    }


def _answers(runs: "pd.DataFrame", estimator: str, level: float) -> dict[Hashable, Answer]:
    """The answer of every context, in the order in which they were taken up."""
    if estimator not in ESTIMATORS:
        raise AnalysisError(f"estimator {estimator!r} is unknown; known: {known(ESTIMATORS)}")
    if not 0.0 < level < 1.0:
        raise AnalysisError(f"level {level:g} is not inside (0, 1)")
    if not usable(runs).any():
        raise AnalysisError(
            f"search {runs.attrs['search']!r} has no complete trial yet: {_tally(runs)}"
        )
    groups = dict(iter(runs.groupby("context", sort=False)))
    budgets = [_budgets(trials) for trials in groups.values()]
    contexts = [
        _arrays(trials[usable(trials) & (len(each) <= 1)], runs.attrs)
        for trials, each in zip(groups.values(), budgets, strict=True)
    ]
    answers = [
        answer if len(each) <= 1 else Answer(f"trials of {_epochs(each)} are not comparable")
        for answer, each in zip(ESTIMATORS[estimator](contexts, level), budgets, strict=True)
    ]
    return dict(zip(groups, answers, strict=True))


def _budgets(trials: "pd.DataFrame") -> list[int]:
    """Full budgets of the trials that would enter a fit, in epochs."""
    return sorted(trials.loc[usable(trials), "budget_epochs"].dropna().unique().tolist())


def _epochs(budgets: Sequence[int]) -> str:
    *rest, last = map(str, budgets)
    return f"{', '.join(rest)} and {last} epochs"


def _apart(runs: "pd.DataFrame") -> dict[str, "pd.DataFrame"]:
    """The tables that were put `together`."""
    parts = {}
    for name, attrs in runs.attrs["searches"].items():
        parts[name] = runs[runs[SEARCH] == name].drop(columns=SEARCH).reset_index(drop=True)
        parts[name].attrs = attrs
    return parts


def _context_row(
    trials: "pd.DataFrame", search: Mapping[Hashable, Any], answer: Answer
) -> dict[str, object]:
    complete = trials[usable(trials)]
    arrays = _arrays(complete, search)
    without = arrays.score[arrays.kd_weight == 0.0]
    outcomes = trials["outcome"].value_counts()
    stopped = int(outcomes.get(Outcome.STOPPED_EARLY, 0))
    running = int(trials["outcome"].isna().sum())
    first = trials.iloc[0]
    return {
        "label": first["label"],
        **{
            name: answer.others.get(name) if name in search["tuned"] else first[name]
            for name in CONTEXT_PARAMS
        },
        "label_noise": first["label_noise"],
        "budget_epochs": first["budget_epochs"],
        **_columns("kd_weight", answer.kd_weight),
        "flat_low": answer.flat[0],
        "flat_high": answer.flat[1],
        **_columns("score", answer.score),
        "score_without_kd": answer.score_without_kd,
        **_columns("gain", answer.gain),
        **_columns("gain_over_1", answer.gain_over_1),
        "expected_loss": answer.expected_loss,
        "measured_without_kd": float(without.mean()) if len(without) else np.nan,
        "n_without_kd": len(without),
        "n_complete": len(complete),
        "n_stopped": stopped,
        # A full training whose score is not a number is a failure too.
        "n_failed": len(trials) - len(complete) - stopped - running,
        "n_running": running,
        "n_seeds": len(np.unique(arrays.seed)),
        "reason": answer.reason,
    }


def _arrays(complete: "pd.DataFrame", search: Mapping[Hashable, Any]) -> Trials:
    """The trials as an estimator takes them, with what `search` (the runs' `attrs`) says."""
    others = [name for name in CONTEXT_PARAMS if name in search["tuned"]]
    return Trials(
        kd_weight=complete["kd_weight"].to_numpy(dtype=np.float64),
        score=complete["score"].to_numpy(dtype=np.float64),
        seed=complete["seed"].to_numpy(dtype=np.int64),
        others={name: np.array(complete[name].tolist()) for name in others},
        kd_weight_range=search["kd_weight_range"],
        fixed={
            name: complete[name].iloc[0]
            for name in CONTEXT_PARAMS
            if len(complete) and name not in others
        },
        nll=complete[VAL_NLL_SCALED].to_numpy(dtype=np.float64),
    )


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _only(frame: "pd.DataFrame", wanted: Mapping[str, str | float | None]) -> "pd.DataFrame":
    for column, value in wanted.items():
        if value is None:
            continue
        searches = frame.attrs.get("searches", {frame.attrs.get("search"): frame.attrs})
        where = " or ".join(map(repr, searches))
        for name, attrs in searches.items():
            if column in attrs["tuned"]:
                raise AnalysisError(
                    f"{column} was tuned in search {name!r}: "
                    f"there is one answer for all of them, not one per {column}"
                )
        # Fractions went through text and back: compare them with a tolerance.
        same = np.isclose(frame[column], value) if column == "fraction" else frame[column] == value
        if not same.any():
            there = known(sorted(frame[column].dropna().unique()))
            raise AnalysisError(f"{column} {value!r} is not in search {where}; known: {there}")
        frame = frame[same]
    return frame


def _tally(runs: "pd.DataFrame") -> str:
    outcomes = runs["outcome"].fillna("running").value_counts()
    return ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()) or "no trial recorded"


def curve_points(
    rows: Iterable[Mapping[str, Any]], tuned: Collection[str]
) -> Iterator[tuple[str, float, int]]:
    """A curve as MLflow plots it: metric name, best KD weight, step.

    Args:
        rows: of a curve, as dictionaries; those without an answer are left out.
        tuned: parameters chosen within each context: a method or teacher that was tuned has
            one curve, whichever was best where.
    """
    for row in rows:
        if (weight := row["kd_weight"]) is not None and weight == weight:  # noqa: PLR0124  (NaN)
            names = ("tuned" if key in tuned else row[key] for key in ("method", "teacher"))
            yield curve_metric(*names), weight, curve_step(row["fraction"])

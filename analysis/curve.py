"""The answer per context: the best KD weight, its interval and what it gains."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.errors import AnalysisError, known
from analysis.estimators import DEFAULT, ESTIMATORS, Answer, Estimate, Trials
from analysis.runs import load_runs
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
LINE_POINTS = 51
"""KD weights at which a fitted line is drawn."""


def best(
    name: str,
    tracking_uri: str,
    method: str | None = None,
    fraction: float | None = None,
    teacher: str | None = None,
    *,
    estimator: str = DEFAULT,
    level: float = 0.9,
) -> "pd.DataFrame":
    """Answer from MLflow which setting is best in each context.

    Args:
        name: the search.
        tracking_uri: where MLflow keeps it.
        method: only this pruning method.
        fraction: only this kept fraction, in (0, 1].
        teacher: only this teacher.
        estimator: a name of `ESTIMATORS`.
        level: probability inside an interval, in (0, 1).

    Returns:
        See `fit_curve`.

    Raises:
        AnalysisError: as `load_runs` and `fit_curve`, or a filter that matches nothing.
    """
    runs = load_runs(name, tracking_uri)
    asked = runs
    for column, value in {"method": method, "fraction": fraction, "teacher": teacher}.items():
        if value is not None:
            asked = _only(asked, column, value)
    # Contexts inform each other: what is asked for must not change the answer.
    curve = fit_curve(runs, estimator, level)
    return curve[curve["context"].isin(asked["context"])].reset_index(drop=True)


def fit_curve(runs: "pd.DataFrame", estimator: str = DEFAULT, level: float = 0.9) -> "pd.DataFrame":
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
        (recommended values where they were tuned), `kd_weight`, `score` and `gain` (score
        minus that at KD weight 0) and `gain_over_1` (the same for 1) each with `_low` and `_high`,
        `flat_low` and `flat_high` (between them KD weights score less than 0.001 below the
        best), `expected_loss` (expected lack of the recommended setting against the best
        one), `score_without_kd` (estimated at KD weight 0), `measured_without_kd` (plain mean of
        the `n_without_kd` complete trials there), `n_complete`, `n_stopped`, `n_failed`,
        `n_running`, `n_seeds`, and `reason` where there is no answer (its numbers are then
        missing). Scores are in the objective's own unit. `attrs` adds `contexts` (names),
        `estimator`, `level` and `signal` (what `surface` learned the KD weights from, in words;
        None with other estimators) to those of `runs`.

    Raises:
        AnalysisError: unknown estimator, a level outside (0, 1), or no complete trial at all.
    """
    return _curve(runs, _answers(runs, estimator, level), estimator, level)


def fit_curve_and_lines(
    runs: "pd.DataFrame", estimator: str = DEFAULT, level: float = 0.9
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """What `fit_curve` and `fitted_lines` return, from one fit.

    Raises:
        AnalysisError: as `fit_curve`.
    """
    answers = _answers(runs, estimator, level)
    return _curve(runs, answers, estimator, level), _lines(answers)


def _curve(
    runs: "pd.DataFrame", answers: Mapping[Hashable, Answer], estimator: str, level: float
) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415  (kept out of the import of this package)

    rows = [
        {"context": context, **_context_row(trials, runs.attrs, answers[context])}
        for context, trials in runs.groupby("context", sort=False)
    ]
    contexts = context_columns(runs)
    order = [name for name in ORDER if name in contexts]
    curve = pd.DataFrame(rows).sort_values(order, ignore_index=True)
    curve["reason"] = curve["reason"].astype("str")
    curve.attrs = {
        **runs.attrs,
        "contexts": contexts,
        "estimator": estimator,
        "level": level,
        "signal": next((answer.signal for answer in answers.values() if answer.signal), None),
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
    contexts = [_arrays(trials[usable(trials)], runs.attrs) for trials in groups.values()]
    return dict(zip(groups, ESTIMATORS[estimator](contexts, level), strict=True))


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


def _only(runs: "pd.DataFrame", column: str, value: str | float) -> "pd.DataFrame":
    if column in runs.attrs["tuned"]:
        raise AnalysisError(
            f"{column} was tuned in search {runs.attrs['search']!r}: "
            f"there is one answer for all of them, not one per {column}"
        )
    # Fractions went through text and back: compare them with a tolerance.
    same = np.isclose(runs[column], value) if column == "fraction" else runs[column] == value
    if not same.any():
        there = sorted(runs[column].dropna().unique())
        raise AnalysisError(
            f"{column} {value!r} is not in search {runs.attrs['search']!r}; known: {known(there)}"
        )
    return runs[same]


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

"""The record as the table that a query of MLflow gives: answers need no tracking server."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.histories import COLUMNS
from analysis.runs import tidy
from analysis.secrets import redacted
from analysis.students import scores_of, tidy_students
from search.ledger import Ledger, TrialState
from search.places import Places
from search.space import Context, SearchSpec
from trainables.config import TrialConfig
from trainables.record import EPOCH, SECONDS, TEACHING_PARAMS, VAL_NLL_SCALED

if TYPE_CHECKING:
    import pandas as pd


def runs_frame(ledger: Ledger, places: Places) -> "pd.DataFrame":
    """All trials of a search that were taken up, as `analysis.load_runs` reads them from MLflow.

    Args:
        ledger: the search.
        places: where its runs are delivered to.
    """
    spec = ledger.spec
    contexts = {context.key: context for context in spec.context_list}
    taken_up = [trial for trial in ledger.trials.values() if trial.started or trial.ended]
    frame = tidy([_row(spec, contexts[trial.context], trial) for trial in taken_up])
    frame.attrs = {
        "search": ledger.search,
        "objective": spec.objective,
        "tuned": tuple(spec.tuned),
        "kd_weight_range": (spec.tune.kd_weight.low, spec.tune.kd_weight.high),
        "state": str(ledger.state),
        "ended_by": ledger.reason,
        "early_stopping": ledger.early_stopping,
        "git_commit": ledger.plan.get("git_commit"),
        "parent_run_id": None,
        "tracking_uri": redacted(places.tracking_uri),
    }
    return frame


def histories_frame(ledger: Ledger, trials: Iterable[int]) -> "pd.DataFrame":
    """The objective after every epoch of some trials, as `analysis.histories` reads it."""
    import pandas as pd  # noqa: PLC0415  (as in `analysis.runs`)

    rows = [
        (trial, epoch, score)
        for trial in trials
        for epoch, score in sorted(ledger.trials[int(trial)].scores.items())
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(spec: SearchSpec, context: Context, trial: TrialState) -> dict[str, object]:
    return {
        "trial": trial.number,
        "context": context.key,
        "label": context.label,
        "outcome": trial.outcome,
        "reason": trial.reason or None,
        "start_design": trial.start_design,
        **spec.trial_params(context, spec.trial_config(context, trial.values, trial.seed)),
        "epoch": trial.last.get(EPOCH),
        "score": trial.scores.get(trial.epoch),
        VAL_NLL_SCALED: trial.last.get(VAL_NLL_SCALED),
        "seconds": trial.last.get(SECONDS),
        "start_time": _ms(trial.started or trial.ended),
        "end_time": _ms(trial.ended),
    }


def students_frame(ledger: Ledger) -> "pd.DataFrame":
    """A confirmation's students, as `analysis.load_students` reads them."""
    spec = ledger.spec
    contexts = {context.key: context for context in spec.context_list}
    return tidy_students(
        {
            "key": event.data["student"],
            "attempt": event.data["attempt"],
            "outcome": event.data["outcome"],
            "reason": event.data["reason"],
            "chosen": ",".join(event.data["chosen"]) or None,
            **student_params(spec, contexts[event.data["context"]], event.data["config"]),
            **scores_of(event.data["metrics"], spec.objective),
            "end_time": _ms(event.time),
        }
        for event in ledger.confirmed.values()
    )


def student_params(spec: SearchSpec, context: Context, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a confirmation's student is recorded under: as a trial, without an idle teacher."""
    params = spec.trial_params(context, TrialConfig.model_validate(config))
    if params["kd_weight"] == 0.0:
        return {name: value for name, value in params.items() if name not in TEACHING_PARAMS}
    return params


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * seconds)

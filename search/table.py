"""A recorded search as a response table, on which other searches can be replayed."""

import math
from typing import Any

from analysis.errors import AnalysisError
from analysis.table import COLUMNS, ResponseTable
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.ledger import Ledger
from trainables.record import VAL_NLL_SCALED


def recorded_table(journal: Journal, name: str) -> ResponseTable:
    """The table of a search: a row for every epoch that a trial reported with a finite score.

    Trials that were stopped early or failed are there as far as they came. Of trials with the same
    parameters and seed the newest counts.

    Args:
        journal: the record.
        name: of the search.

    Raises:
        KdcurveError: there is no such search, or nothing of it was reported yet.
    """
    import pandas as pd  # noqa: PLC0415  (half a second, not paid for a wrong name)

    ledger = Ledger(journal, name)
    spec = ledger.spec
    contexts = {context.key: context for context in spec.context_list}
    params: dict[int, dict[str, Any]] = {}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    newest: dict[tuple[Any, ...], int] = {}
    for event in journal.events(name):
        if event.kind is not EventKind.REPORTED or event.trial is None:
            continue
        trial = ledger.trials[event.trial]
        if trial.number not in params:
            context = contexts[trial.context]
            config = spec.trial_config(context, trial.values, trial.seed)
            held = spec.trial_params(context, config)
            params[trial.number] = {key: held[key] for key in COLUMNS if key in held}
        metrics = event.data["metrics"]
        score = metrics.get(spec.objective)
        run = tuple(params[trial.number].values())
        newest[run] = max(trial.number, newest.get(run, 0))
        if score is not None and math.isfinite(score):
            epoch = event.data["epoch"]
            rows[trial.number, epoch] = {
                **params[trial.number],
                "epoch": epoch,
                "score": score,
                "val_nll_scaled": metrics.get(VAL_NLL_SCALED, math.nan),
            }
    counting = [
        row for (number, _), row in rows.items() if newest[tuple(params[number].values())] == number
    ]
    if not counting:
        raise KdcurveError(f"nothing of {name} was reported yet: there is no table of it")
    try:
        return ResponseTable(
            pd.DataFrame(counting), spec.objective, spec.info.train_samples, spec.info.classes
        )
    except AnalysisError as error:
        raise KdcurveError(f"{name} makes no table: {error}") from error

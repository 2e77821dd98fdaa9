"""The students of a confirmation, from MLflow to one tidy table."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from analysis.reading import DTYPES, PAGE_RUNS
from analysis.runs import find_parent, parent_attrs
from analysis.server import one_line_errors, require_store
from trainables import record
from trainables.record import TRIAL_PARAMS

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

STUDENT_DTYPES = {
    **{"key": "str", "attempt": "Int64", "outcome": "str", "reason": "str", "chosen": "str"},
    **{key: DTYPES[kind] for key, kind in TRIAL_PARAMS.items()},
    **{"test_score": "float64", "val_score": "float64", record.TEST_NLL: "float64"},
    **{"seconds": "float64", "end_time": "Int64"},
}
"""Columns of a confirmation's student; `chosen` holds keys of contexts, separated by commas."""


def load_students(name: str, tracking_uri: str) -> "pd.DataFrame":
    """Read what a confirmation trained, from MLflow.

    Args:
        name: the search.
        tracking_uri: where MLflow keeps it.

    Returns:
        One row per student: `key`, `attempt`, `outcome`, `reason`, `chosen` (keys of
        the contexts that it was trained to confirm, separated by commas), every name of
        `record.TRIAL_PARAMS` (what concerns the teacher is missing at KD weight 0), `test_score`
        (the objective on the test set), `val_score` (on the validation split), `test_nll` (nats),
        `seconds` (of training), `end_time` (ms since 1970). No rows without a confirmation.

    Raises:
        AnalysisError: as `load_runs`.
    """
    require_store(tracking_uri)
    with one_line_errors(tracking_uri):
        from mlflow.tracking import MlflowClient  # noqa: PLC0415  (takes seconds)

        client = MlflowClient(tracking_uri=tracking_uri)
        experiment, parent = find_parent(client, name)
        objective = parent_attrs(name, parent, tracking_uri)["objective"]
        rows: list[dict[str, object]] = []
        token = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                f"tags.`{record.TAG_KIND}` = '{record.Kind.CONFIRMATION}'",
                max_results=PAGE_RUNS,
                page_token=token,
            )
            rows += [_row(run, objective) for run in page]
            token = page.token
            if not token:
                return tidy_students(rows)


def _row(run: "Run", objective: str) -> dict[str, object]:
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    key, _, attempt = tags[record.TAG_STUDENT].partition("/")
    return {
        "key": key,
        "attempt": int(attempt),
        "outcome": tags.get(record.TAG_OUTCOME),
        "reason": tags.get(record.TAG_REASON),
        "chosen": tags.get(record.TAG_CHOSEN),
        **{key: kind(params[key]) for key, kind in TRIAL_PARAMS.items() if key in params},
        **scores_of(metrics, objective),
        "end_time": run.info.end_time,
    }


def scores_of(metrics: Mapping[str, float], objective: str) -> dict[str, float | None]:
    """What a row says of a student's metrics."""
    return {
        "test_score": metrics.get(record.TEST_SCORES[objective]),
        "val_score": metrics.get(objective),
        record.TEST_NLL: metrics.get(record.TEST_NLL),
        "seconds": metrics.get(record.SECONDS),
    }


def tidy_students(rows: Iterable[Mapping[str, object]]) -> "pd.DataFrame":
    """Rows as the table of `load_students`: of a student's attempts the last that ended."""
    import pandas as pd  # noqa: PLC0415

    frame = pd.DataFrame(list(rows), columns=list(STUDENT_DTYPES)).astype(STUDENT_DTYPES)
    return (
        frame[frame["outcome"].notna()]
        .sort_values(["key", "attempt"])
        .drop_duplicates("key", keep="last")
        .reset_index(drop=True)
    )

"""The trials' runs of one MLflow experiment as rows; those that ended are read once and cached.

MLflow keeps no time of a run's last change, and a delivery that was held up adds runs with the
times at which things happened. So a cached table counts as whole only if MLflow has exactly as many
ended runs as it holds; if not, all are read again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import run_cache
from trainables import record

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

PAGE_RUNS = 5000
"""Runs asked for at a time; MLflow allows at most 50,000."""
ENDED = ("FINISHED", "FAILED")
"""Statuses of trials that ended; with an outcome, their runs never change again."""
TRIES = 3
"""How often a table that is not whole is completed before all is read again: a search that runs
may end trials between two requests."""

_TRIALS = f"tags.`{record.TAG_KIND}` = '{record.Kind.TRIAL}'"
_NOT_ENDED = " and ".join([_TRIALS, *(f"attributes.status != '{status}'" for status in ENDED)])
DTYPES = {str: "str", float: "float64", int: "Int64"}
TRIAL_DTYPES = {
    **{"trial": "Int64", "context": "str", "label": "str", "outcome": "str", "reason": "str"},
    "start_design": "bool",
    **{key: DTYPES[kind] for key, kind in record.TRIAL_PARAMS.items()},
    **{"epoch": "Int64", "score": "float64", record.VAL_NLL_SCALED: "float64"},
    "seconds": "float64",
    **{"start_time": "Int64", "end_time": "Int64"},
}
"""Columns of a trial; times in milliseconds since 1970."""
RUN_DTYPES = {"run_id": "str", "status": "str", **TRIAL_DTYPES}
"""With the run that tells of it."""


def read_trials(
    client: "MlflowClient",
    experiment: "Experiment",
    objective: str,
    cache: Path | None = None,
) -> "pd.DataFrame":
    """All runs of trials, one row each.

    Args:
        client: of MLflow.
        experiment: of one search.
        objective: the metric that is the score.
        cache: folder of cached tables; without one, everything is read.

    Returns:
        Columns `RUN_DTYPES`, in no order that means anything.
    """
    look = _Look(client, experiment.experiment_id, objective)
    if cache is None:
        return look.read(_TRIALS)
    key = {
        "schema": record.SCHEMA_VERSION,
        "columns": list(RUN_DTYPES),
        # A database made anew may give an old number to another search of the same name.
        "created": experiment.creation_time,
        "planned": experiment.tags.get(record.TAG_PLANNED),
        "objective": objective,
    }
    path = cache / run_cache.file_name(client.tracking_uri, experiment.experiment_id)
    cached = run_cache.load(path, key, RUN_DTYPES)
    runs = None if cached is None else _caught_up(look, *cached)
    if cached is not None and runs is not None:
        settled = runs[_is_settled(runs)]
        if len(settled) != len(cached[0]):
            run_cache.save(path, key, settled, cached[1])
        return runs
    deleted = look.count_deleted()
    runs = look.read(_TRIALS)
    run_cache.save(path, key, runs[_is_settled(runs)], deleted)
    return runs


def _caught_up(look: "_Look", known: "pd.DataFrame", deleted: int) -> "pd.DataFrame | None":
    """A cached table with what came since, or None if it cannot be shown to be whole."""
    import pandas as pd  # noqa: PLC0415

    for _ in range(TRIES):
        if known.empty:
            return None
        running = look.read(_NOT_ENDED)
        newer = look.read(f"{_TRIALS} and attributes.end_time >= {known['end_time'].max()}")
        runs = pd.concat([known, running, newer]).drop_duplicates("run_id", keep="last")
        known = runs[_is_settled(runs)]
        there = {
            f"{_TRIALS} and attributes.status = '{status}'": int((known["status"] == status).sum())
            for status in ENDED
        }
        whole = all(look.has(count, those) for those, count in there.items())
        if whole and look.has(deleted, deleted=True):
            return runs
    return None


def _is_settled(runs: "pd.DataFrame") -> "pd.Series[bool]":
    settled: pd.Series[bool] = runs["status"].isin(ENDED) & runs["outcome"].notna()
    return settled


class _Look:
    """Questions to MLflow about one experiment."""

    def __init__(self, client: "MlflowClient", experiment_id: str, objective: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._objective = objective

    def read(self, those: str) -> "pd.DataFrame":
        """The runs that a filter lets through."""
        import pandas as pd  # noqa: PLC0415  (half a second, not paid for a wrong address)

        # A page at a time: MLflow's own objects take twenty times the memory.
        pages = (typed([_row(run, self._objective) for run in page]) for page in self._pages(those))
        return pd.concat(pages, ignore_index=True)

    def has(self, count: int, those: str = "", *, deleted: bool = False) -> bool:
        """Whether exactly so many runs pass a filter, without reading them."""
        from mlflow.utils.search_utils import SearchUtils  # noqa: PLC0415

        if not count:
            return not self._page(those, None, 1, deleted)
        # MLflow cannot count. Its page tokens are offsets: behind all but one there is one.
        offset: Any = SearchUtils.create_page_token  # untyped
        token = offset(count - 1) if count > 1 else None
        page = self._page(those, token, 1, deleted)
        return len(page) == 1 and not page.token

    def count_deleted(self) -> int:
        """Runs deleted by hand, or as twins of others; usually none."""
        return sum(map(len, self._pages("", deleted=True)))

    def _pages(self, those: str, *, deleted: bool = False) -> Iterator[Any]:
        token = None
        while True:
            page = self._page(those, token, PAGE_RUNS, deleted)
            yield page
            token = page.token
            if not token:
                return

    def _page(self, those: str, token: str | None, size: int, deleted: bool) -> Any:
        from mlflow.entities import ViewType  # noqa: PLC0415

        return self._client.search_runs(
            [self._experiment_id],
            those,
            run_view_type=ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY,
            max_results=size,
            # Trials that start while pages are read then move none of those to come.
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )


def typed(rows: list[dict[str, object]]) -> "pd.DataFrame":
    """Rows of runs as a table with the columns `RUN_DTYPES`; what is not given is missing."""
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame(rows, columns=list(RUN_DTYPES)).astype(RUN_DTYPES)


def _row(run: "Run", objective: str) -> dict[str, object]:
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    return {
        "run_id": run.info.run_id,
        "status": run.info.status,
        "trial": int(tags[record.TAG_TRIAL]),
        "context": tags.get(record.TAG_CONTEXT),
        "label": tags.get(record.TAG_CONTEXT_LABEL),
        "outcome": tags.get(record.TAG_OUTCOME),
        "reason": tags.get(record.TAG_REASON),
        "start_design": tags.get(record.TAG_START_DESIGN) == "true",
        **{
            key: kind(params[key]) if key in params else None
            for key, kind in record.TRIAL_PARAMS.items()
        },
        "epoch": metrics.get(record.EPOCH),
        "score": metrics.get(objective),
        record.VAL_NLL_SCALED: metrics.get(record.VAL_NLL_SCALED),
        "seconds": metrics.get(record.SECONDS),
        "start_time": run.info.start_time,
        "end_time": run.info.end_time,
    }

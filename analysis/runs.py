"""From MLflow to one tidy table: a row per trial, typed columns, outcome and reason."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from analysis.errors import AnalysisError, nearest
from analysis.secrets import redacted
from trainables import record

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PAGE_RUNS = 5000
"""Runs asked for at a time; MLflow allows at most 50,000."""
PROBE_S = 5.0
"""How long a server has to accept a connection."""
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_DTYPES = {str: "str", float: "float64", int: "Int64"}


def load_runs(name: str, tracking_uri: str) -> "pd.DataFrame":
    """Read all trials of one search.

    A trial that is still running has no `outcome`; one that failed has a `reason`, and its
    `score` is what it last reported (or missing), never a made-up 0.

    Args:
        name: the search's name, which is its MLflow experiment's.
        tracking_uri: where MLflow keeps it, e.g. `sqlite:///kdcurve-data/mlflow.db`.

    Returns:
        One row per trial, by number: `trial`, `context` (hash), `label`, `outcome`, `reason`,
        `start_design`, every name of `record.TRIAL_PARAMS`, `epoch` (last one reported),
        `score` (the objective's last value), `val_nll_scaled` (nats; missing where there are no
        logits), `seconds` (of training), `start_time`, `end_time` (UTC). `attrs` holds
        `search`, `objective`, `tuned` (names), `kd_weight_range` (lowest and highest tuned; 0 is
        run besides), `state`, `ended_by` (the criterion that ended the search, in words, or
        None), `early_stopping` (what that did, in words, or None), `git_commit` (of where the
        search was planned, or None), `parent_run_id` and `tracking_uri` (without its password).

    Raises:
        AnalysisError: the store does not answer or does not exist, there is no such search,
            or the experiment was not written by kdcurve.
    """
    _require_store(tracking_uri)
    with _one_line_errors(tracking_uri):
        # Here, not above: MLflow takes 1.5 s to import, and a wrong address should fail sooner.
        from mlflow.tracking import MlflowClient  # noqa: PLC0415
        from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT  # noqa: PLC0415

        client = MlflowClient(tracking_uri=tracking_uri)
        where = redacted(tracking_uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise AnalysisError(
                f"no search named {name!r} at {where}: {nearest(name, _searches(client))}"
            )
        _require_schema(name, experiment.tags.get(record.TAG_SCHEMA))
        runs = list(_all_runs(client, experiment.experiment_id))

    parents = [run for run in runs if run.data.tags.get(record.TAG_KIND) == record.Kind.SEARCH]
    trials = [run for run in runs if run.data.tags.get(record.TAG_KIND) == record.Kind.TRIAL]
    if not parents:
        raise AnalysisError(f"search {name!r} at {where} has no parent run: nothing started")
    parent = max(parents, key=lambda run: run.info.start_time)
    objective = parent.data.tags.get(record.TAG_OBJECTIVE, record.VAL_ACCURACY)
    frame = tidy([_row(run, objective) for run in trials])
    state = parent.data.tags.get(record.TAG_STATE)
    complete = state == record.SearchState.COMPLETE  # else it is the reason of an earlier halt
    frame.attrs = {
        "search": name,
        "objective": objective,
        "tuned": tuple(filter(None, parent.data.tags.get(record.TAG_TUNED, "").split(","))),
        "kd_weight_range": _range(parent.data.tags.get(record.TAG_KD_WEIGHT_RANGE, "0,1")),
        "state": state,
        "early_stopping": parent.data.tags.get(record.TAG_EARLY_STOPPING),
        "ended_by": parent.data.tags.get(record.TAG_REASON) if complete else None,
        "git_commit": parent.data.tags.get(MLFLOW_GIT_COMMIT),
        "parent_run_id": parent.info.run_id,
        "tracking_uri": where,
    }
    return frame


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    return low, high


def _row(run: "Run", objective: str) -> dict[str, object]:
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    return {
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


def tidy(rows: list[dict[str, object]]) -> "pd.DataFrame":
    """Rows of trials as the table of `load_runs`, without its `attrs`.

    Args:
        rows: values by column; `start_time` and `end_time` in milliseconds since 1970. Of two
            rows of one trial the one that ended stays, of two that did the newer.
    """
    import pandas as pd  # noqa: PLC0415  (half a second, not paid for a wrong address)

    dtypes = {
        **{"trial": "Int64", "context": "str", "label": "str", "outcome": "str", "reason": "str"},
        "start_design": "bool",
        **{key: _DTYPES[kind] for key, kind in record.TRIAL_PARAMS.items()},
        **{"epoch": "Int64", "score": "float64", record.VAL_NLL_SCALED: "float64"},
        "seconds": "float64",
        **{"start_time": "Int64", "end_time": "Int64"},
    }
    frame = pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
    # A delivery that was retried after a crash may have left two runs of one trial: the one
    # that ended counts, the newer of two that did.
    frame = (
        frame.assign(ended=frame["outcome"].notna())
        .sort_values(["trial", "ended", "start_time"])
        .drop_duplicates("trial", keep="last")
        .drop(columns="ended")
        .reset_index(drop=True)
    )
    for column in ("start_time", "end_time"):
        frame[column] = pd.to_datetime(frame[column], unit="ms", utc=True)
    return frame


def _all_runs(client: "MlflowClient", experiment_id: str) -> Iterator["Run"]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=PAGE_RUNS, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _searches(client: "MlflowClient") -> list[str]:
    """Names of the experiments that kdcurve wrote (the newest 1000 are looked at)."""
    found = client.search_experiments(max_results=1000)
    return [each.name for each in found if record.TAG_SCHEMA in each.tags]


def _require_schema(name: str, version: str | None) -> None:
    if version is None:
        raise AnalysisError(
            f"experiment {name!r} was not written by kdcurve: it has no tag {record.TAG_SCHEMA}"
        )
    if version != str(record.SCHEMA_VERSION):
        raise AnalysisError(
            f"search {name!r} was recorded with schema {version}; "
            f"this kdcurve reads schema {record.SCHEMA_VERSION}"
        )


def _require_store(tracking_uri: str) -> None:
    """Fail at once where MLflow would create an empty database or retry for minutes."""
    parts = urlsplit(tracking_uri)
    if parts.scheme.partition("+")[0] == "sqlite":
        path = Path(unquote(parts.path[1:]))
        if not path.is_file():
            raise AnalysisError(f"no MLflow database at {path}: nothing was recorded there yet")
    require_server(tracking_uri)


def require_server(tracking_uri: str) -> None:
    """Make sure that whatever serves a tracking URI takes connections, within seconds.

    MLflow itself would try a database that it cannot open for 101 s, and a server for longer.

    Raises:
        AnalysisError: it does not; its cause is what failed.
    """
    parts = urlsplit(tracking_uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in _DATABASES:
            _open_database(tracking_uri)
        elif scheme in _PORTS and parts.hostname and _is_direct(scheme, parts.hostname):
            _knock(parts.hostname, parts.port or _PORTS[scheme])
    except Exception as error:
        if type(error) is ValueError:
            # Its own words may quote a password with a slash in it, taken for the port.
            error = ValueError("its port is not a number")
        raise AnalysisError(
            f"MLflow at {redacted(tracking_uri)} does not answer: {_first_line(error)}"
        ) from error


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=PROBE_S).close()


def _open_database(tracking_uri: str) -> None:
    import sqlalchemy as sa  # noqa: PLC0415  (a web address does without)

    url = sa.make_url(tracking_uri)
    backend = url.get_backend_name()
    if backend == "sqlite" and not Path(url.database or "").parent.is_dir():
        return  # MLflow makes the folder, or fails at once
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    if url.host and backend in _PORTS and "," not in url.host:
        _knock(url.host, url.port or _PORTS[backend])
    engine.connect().close()


def _first_line(error: Exception) -> str:
    """What an error says: MLflow, SQLAlchemy and requests each raise pages of text."""
    text = str(getattr(error, "orig", None) or error).strip()
    return redacted(text.partition("\n")[0])[:300]


def _is_direct(scheme: str, host: str) -> bool:
    """Whether a connection goes to the host itself: behind a proxy a probe says nothing."""
    return scheme not in getproxies() or bool(proxy_bypass(host))


@contextmanager
def _one_line_errors(tracking_uri: str) -> Iterator[None]:
    try:
        yield
    except AnalysisError:
        raise
    except Exception as error:
        uri = redacted(tracking_uri)
        raise AnalysisError(f"MLflow at {uri} cannot be read: {_first_line(error)}") from error

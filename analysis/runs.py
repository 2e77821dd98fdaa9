"""From MLflow to one tidy table: a row per trial, typed columns, outcome and reason."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import AnalysisError, known, nearest
from analysis.reading import TRIAL_DTYPES, read_trials, typed
from analysis.run_cache import default_folder
from analysis.secrets import redacted
from analysis.server import one_line_errors, require_store
from trainables import record

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient


def load_runs(
    name: str | Sequence[str], tracking_uri: str, *, cache: bool | Path = True
) -> "pd.DataFrame":
    """Read all trials of a search, or of several.

    A trial that is still running has no `outcome`; one that failed has a `reason`, and its
    `score` is what it last reported (or missing), never a made-up 0.

    Trials that ended are read from MLflow once and kept in a file (see `run_cache`); after that
    only those that run or are new are read. What is asked for is always what MLflow has, with one
    exception: whoever changes a run by hand after it ended asks with `cache=False`.

    Args:
        name: the search's name, which is its MLflow experiment's, or several names.
        tracking_uri: where MLflow keeps it, e.g. `sqlite:///kdcurve-data/mlflow.db`.
        cache: whether to keep what was read, or the folder for it.

    Returns:
        One row per trial, by number: `trial`, `context` (hash), `label`, `outcome`, `reason`,
        `start_design`, every name of `record.TRIAL_PARAMS`, `epoch` (last one reported),
        `score` (the objective's last value), `val_nll_scaled` (nats; missing where there are no
        logits), `seconds` (of training), `start_time`, `end_time` (UTC). Fractions and shares are
        in [0, 1], `budget_epochs` in epochs, `kept_samples` in samples. `attrs` holds
        `search`, `objective`, `tuned` (names), `kd_weight_range` (lowest and highest tuned; 0 is
        run besides), `state`, `ended_by` (the criterion that ended the search, in words, or
        None), `early_stopping` (what that did, in words, or None), `git_commit` (of where the
        search was planned, or None), `parent_run_id` and `tracking_uri` (without its password). Of
        several searches the column `search` comes first, and `attrs` holds `searches`: what they
        would hold of each, by name.

    Raises:
        AnalysisError: the store does not answer or does not exist, there is no such search,
            the experiment was not written by kdcurve, or searches have different objectives.
    """
    require_store(tracking_uri)
    names = [name] if isinstance(name, str) else list(name)
    folder = cache if isinstance(cache, Path) else default_folder() if cache else None
    with one_line_errors(tracking_uri):
        # Here, not above: MLflow takes 1.5 s to import, and a wrong address should fail sooner.
        from mlflow.tracking import MlflowClient  # noqa: PLC0415

        client = MlflowClient(tracking_uri=tracking_uri)
        frames = {each: _load(client, each, folder) for each in names}
    return frames[name] if isinstance(name, str) else together(frames)


def together(frames: "dict[str, pd.DataFrame]") -> "pd.DataFrame":
    """Tables of several searches as one, with the column `search` before the others.

    Raises:
        AnalysisError: none is named, or their scores are of different kinds.
    """
    import pandas as pd  # noqa: PLC0415

    if not frames:
        raise AnalysisError("no search is named")
    objectives = {name: frame.attrs["objective"] for name, frame in frames.items()}
    if len(set(objectives.values())) > 1:
        each = known(f"{name} maximises {objective}" for name, objective in objectives.items())
        raise AnalysisError(f"searches of different objectives cannot be put together: {each}")
    attrs: dict[str, Any] = {name: dict(frame.attrs) for name, frame in frames.items()}
    first = next(iter(attrs.values()))
    # Copies without attrs: pandas compares those of all parts, at length.
    bare = [frame.assign(search=name) for name, frame in frames.items()]
    for frame in bare:
        frame.attrs = {}
    whole = pd.concat(bare, ignore_index=True).astype({"search": "str"})
    whole.insert(0, "search", whole.pop("search"))
    shared: dict[Hashable, Any] = {"searches": attrs, "objective": first["objective"]}
    for key in ("contexts", "tuned"):  # names that tell rows apart, or were chosen in some search
        shared[key] = tuple(dict.fromkeys(n for each in attrs.values() for n in each.get(key, ())))
    shared |= {key: first[key] for key in ("estimator", "level") if key in first}
    whole.attrs = shared
    return whole


def find_parent(client: "MlflowClient", name: str) -> tuple["Experiment", "Run"]:
    """A search's experiment and its parent run.

    Raises:
        AnalysisError: there is no such search, it is not kdcurve's, or nothing started.
    """
    where = redacted(client.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise AnalysisError(
            f"no search named {name!r} at {where}: {nearest(name, _searches(client))}"
        )
    _require_schema(name, experiment.tags.get(record.TAG_SCHEMA))
    parents = client.search_runs(
        [experiment.experiment_id], f"tags.`{record.TAG_KIND}` = '{record.Kind.SEARCH}'"
    )
    if not parents:
        raise AnalysisError(f"search {name!r} at {where} has no parent run: nothing started")
    return experiment, max(parents, key=lambda run: run.info.start_time)


def parent_attrs(name: str, parent: "Run", tracking_uri: str) -> dict[Hashable, Any]:
    """What a search's parent run says of it: the `attrs` of `load_runs`."""
    from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT  # noqa: PLC0415  (with all of MLflow)

    tags = parent.data.tags
    complete = tags.get(record.TAG_STATE) == record.SearchState.COMPLETE
    return {
        "search": name,
        "objective": tags.get(record.TAG_OBJECTIVE, record.VAL_ACCURACY),
        "tuned": tuple(filter(None, tags.get(record.TAG_TUNED, "").split(","))),
        "kd_weight_range": _range(tags.get(record.TAG_KD_WEIGHT_RANGE, "0,1")),
        "state": tags.get(record.TAG_STATE),
        "early_stopping": tags.get(record.TAG_EARLY_STOPPING),
        # Of a search that goes on it is the reason of an earlier halt.
        "ended_by": tags.get(record.TAG_REASON) if complete else None,
        "git_commit": tags.get(MLFLOW_GIT_COMMIT),
        "parent_run_id": parent.info.run_id,
        "tracking_uri": redacted(tracking_uri),
    }


def _load(client: "MlflowClient", name: str, cache: Path | None) -> "pd.DataFrame":
    experiment, parent = find_parent(client, name)
    attrs = parent_attrs(name, parent, client.tracking_uri)
    frame = tidy(read_trials(client, experiment, attrs["objective"], cache))
    frame.attrs = attrs
    return frame


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    return low, high


def tidy(rows: "list[dict[str, object]] | pd.DataFrame") -> "pd.DataFrame":
    """Rows of trials as the table of `load_runs`, without its `attrs`.

    Args:
        rows: values by column of `reading.RUN_DTYPES`, or the table of them; `start_time` and
            `end_time` in milliseconds since 1970. Of two rows of one trial the one that ended
            stays, of two that did the newer.
    """
    import pandas as pd  # noqa: PLC0415  (half a second, not paid for a wrong address)

    frame = typed(rows) if isinstance(rows, list) else rows
    # A delivery that was retried after a crash may have left two runs of one trial: the one
    # that ended counts, the newer of two that did.
    frame = (
        frame.assign(ended=frame["outcome"].notna())
        .sort_values(["trial", "ended", "start_time", "run_id"])
        .drop_duplicates("trial", keep="last")
        .reset_index(drop=True)[list(TRIAL_DTYPES)]
    )
    for column in ("start_time", "end_time"):
        frame[column] = pd.to_datetime(frame[column], unit="ms", utc=True)
    return frame


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

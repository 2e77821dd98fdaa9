"""Answers as they were recorded: a curve as plain values, and back, number for number."""

import json
import logging
import os
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.estimators import DEFAULT, LEVEL
from trainables.record import CONTEXT_PARAMS, TAG_STATE, SearchState

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "answers.json"
"""An artifact of the parent run, and a file in the folder of answers."""
TRIALS_ENDED = "trials_ended"
"""Metric of the parent run: how many trials MLflow was told the end of."""
_ATTRS = ("search", "objective", "tuned", "kd_weight_range", "state", "ended_by", "git_commit")
_FITTED = ("early_stopping", "contexts", "estimator", "level", "signal")
_TUPLES = ("tuned", "kd_weight_range", "contexts")
_STRINGS = {"context", "label", "dataset", "student", "method", "teacher", "reason", "test_note"}
_COUNTS = {"budget_epochs", "test_seeds", "test_failed"}
"""Whole numbers that may be missing."""


def typed(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows of a curve as a table: the same types whichever values are missing."""
    import pandas as pd  # noqa: PLC0415

    frame = pd.DataFrame(rows)
    return frame.astype({name: _dtype(name) for name in frame.columns})


def _dtype(name: str) -> str:
    if name in _STRINGS:
        return "str"
    if name in _COUNTS:
        return "Int64"
    return "int64" if name.startswith("n_") else "float64"


def plain(curve: "pd.DataFrame") -> list[dict[str, object]]:
    """Rows as JSON values, missing numbers as null."""
    return curve.astype(object).where(curve.notna(), None).to_dict("records")  # type: ignore[return-value]


def about(curve: "pd.DataFrame", ended: int, at: float) -> dict[str, Any]:
    """What has to be known beside the rows to show a curve again, and to see whether it is current.

    Args:
        curve: from `fit_curve`.
        ended: trials that had ended when it was fitted.
        at: when that was, in seconds since 1970.
    """
    attrs = {key: curve.attrs[key] for key in (*_ATTRS, *_FITTED)}
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return {"format": FORMAT, "ended": ended, "recorded": moment, "attrs": attrs}


def to_text(curve: "pd.DataFrame", about: Mapping[str, Any]) -> str:
    """The document that `from_document` reads, as JSON."""
    return json.dumps({**about, "curve": plain(curve)}, indent=1, allow_nan=False)


def from_document(document: Mapping[str, Any]) -> "pd.DataFrame | None":
    """The curve as `fit_curve` gave it, with `attrs["recorded"]`, the time.

    None if it cannot be read, or was fitted in another way than is the default now.

    `attrs` lacks what depends on where it is read: `parent_run_id` and `tracking_uri`.
    """
    try:
        if document["format"] != FORMAT:
            return None
        curve = typed(document["curve"])
        attrs = {
            key: tuple(value) if key in _TUPLES else value
            for key, value in document["attrs"].items()
        }
        # What every table and figure reads of them.
        missing = {*_ATTRS, *_FITTED} - attrs.keys()
        if missing or not {*CONTEXT_PARAMS, "kd_weight", "n_complete"} <= {*curve.columns}:
            return None
        if (attrs["estimator"], attrs["level"]) != (DEFAULT, LEVEL):
            return None
        curve.attrs = {**attrs, "recorded": str(document["recorded"])}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    else:
        return curve


def current(
    client: "MlflowClient", parent: "Run", attrs: Mapping[Hashable, Any]
) -> "pd.DataFrame | None":
    """The answers that a search uploaded to MLflow, if no trial came after them.

    Args:
        client: of MLflow.
        parent: run of the search.
        attrs: what it says (`runs.parent_attrs`).

    Returns:
        None if the search is not complete, has none, or has more or fewer trials by now.
    """
    if parent.data.tags.get(TAG_STATE) != SearchState.COMPLETE:
        return None
    # MLflow would draw a bar for this small file, on the user's terminal.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = client.download_artifacts(parent.info.run_id, FILE, folder)
            document = json.loads(Path(file).read_text("utf-8"))
        if document["ended"] != parent.data.metrics.get(TRIALS_ENDED):
            return None
        curve = from_document(document)
    except Exception:
        # Of an older version, removed, or a store of artifacts that does not answer.
        logger.info("no recorded answers of %r in MLflow", parent.info.run_name, exc_info=True)
        return None
    if curve is not None:
        curve.attrs.update(attrs)
    return curve

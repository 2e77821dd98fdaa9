"""MLflow, reached now or not at all: for commands that cannot leave it for later."""

import os

from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from analysis.secrets import redacted
from analysis.server import require_server
from search.errors import KdcurveError
from search.places import Places


def connect(places: Places) -> MlflowClient:
    """A client of MLflow that answers now.

    Raises:
        KdcurveError: it does not.
    """
    # Its own retries would take minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = places.tracking_uri
    try:
        require_server(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except AnalysisError as error:
        raise KdcurveError(str(error)) from error
    except Exception as error:
        raise KdcurveError(
            f"MLflow at {redacted(uri)} cannot be used: {first_line(error)}"
        ) from error
    return client


def first_line(error: Exception) -> str:
    """What an error of MLflow says, in one line without secrets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return redacted(lines[0].rpartition("(Caused by ")[2])[:200]

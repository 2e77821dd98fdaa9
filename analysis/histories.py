"""Learning curves of some trials, read from MLflow."""

from typing import TYPE_CHECKING

from analysis.errors import AnalysisError
from analysis.secrets import redacted
from trainables import record

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("trial", "epoch", "score")


def load_histories(trials: "pd.DataFrame", tracking_uri: str) -> "pd.DataFrame":
    """The objective after every epoch: one request per context and one per trial.

    Args:
        trials: rows of what `load_runs` returned.
        tracking_uri: where MLflow keeps them.

    Returns:
        Rows (`trial`, `epoch`, `score`).

    Raises:
        AnalysisError: MLflow cannot be read.
    """
    import pandas as pd  # noqa: PLC0415
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    wanted = set(trials["trial"])
    rows: list[tuple[int, int, float]] = []
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        experiment = client.get_experiment_by_name(trials.attrs["search"])
        assert experiment is not None  # noqa: S101  (its trials were read)
        for context in trials["context"].unique():
            found = client.search_runs(
                [experiment.experiment_id],
                filter_string=f"tags.`{record.TAG_CONTEXT}` = '{context}'",
                max_results=1000,
            )
            ids = {int(run.data.tags[record.TAG_TRIAL]): run.info.run_id for run in found}
            for trial in wanted & set(ids):
                history = client.get_metric_history(ids[trial], trials.attrs["objective"])
                rows += [(trial, point.step, point.value) for point in history]
    except Exception as error:
        uri, first = redacted(tracking_uri), redacted(str(error).partition("\n")[0])
        raise AnalysisError(f"MLflow at {uri} cannot be read: {first}") from error
    return pd.DataFrame(rows, columns=list(COLUMNS)).drop_duplicates(["trial", "epoch"])

"""Schedules in MLflow's model registry: models from code, no pickles."""

import logging
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema

from analysis import laws
from analysis.schedule import Schedule
from search.client import connect, first_line
from search.errors import KdcurveError, UsageError
from search.places import Places
from trainables import record

CODE = Path(__file__).with_name("schedule_model.py")
LAWS = "kdcurve_laws.py"
"""Name of the formulas in the model: a name that nothing else has."""
REQUIREMENTS = ("mlflow", "numpy", "pandas")
"""What the model needs, at the versions it was made with."""
_NAME = re.compile(r"\w[\w\-. ]*")
_ALIAS = re.compile(r"[\w\-]+")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
MODEL = "schedule"
"""Name of the logged model in the search's experiment."""
EXPERIMENT = "kdcurve-schedules"
"""Where schedules are logged whose search is not in this store."""
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.double, "fraction"),
            ColSpec(DataType.string, "method", required=False),
            ColSpec(DataType.string, "teacher", required=False),
        ]
    ),
    outputs=Schema(
        [
            *(ColSpec(DataType.double, name) for name in ("kd_weight", "low", "high")),
            ColSpec(DataType.boolean, "extrapolated"),
        ]
    ),
)


def register_schedule(
    schedule: Schedule, places: Places, name: str, alias: str | None = None
) -> str:
    """Register a schedule as the next version of a model.

    It is logged under the parent run of the search that it was fitted to, if that is there.
    `mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(frame)` then answers for frames with
    `fraction`, `method` and `teacher`.

    Args:
        schedule: from `fit_schedule`.
        places: where MLflow is.
        name: of the registered model.
        alias: to give this version, e.g. `champion`; taken from the version that has it.

    Returns:
        The version's number.

    Raises:
        UsageError: MLflow does not allow such a name or alias.
        KdcurveError: MLflow does not answer or fails.
    """
    require_names(name, alias)
    client = connect(places)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        return _register(client, schedule, places, name, alias)
    except MlflowException as error:
        raise KdcurveError(
            f"cannot register the schedule as {name!r}: {first_line(error)}"
        ) from error


def require_names(name: str, alias: str | None) -> None:
    """Refuse names that MLflow would refuse, before anything is done.

    Raises:
        UsageError: one is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--register {name!r}: allowed are letters, digits, '_', '-', '.' and ' '")
    if alias is not None and (not _ALIAS.fullmatch(alias) or _RESERVED.fullmatch(alias)):
        raise UsageError(
            f"--alias {alias!r}: allowed are letters, digits, '_' and '-', but not 'latest' or a "
            "version such as 'v1'"
        )


def _register(
    client: MlflowClient, schedule: Schedule, places: Places, name: str, alias: str | None
) -> str:
    run = _run(client, schedule, places).info
    logged = client.create_logged_model(
        run.experiment_id, MODEL, source_run_id=run.run_id, tags=_tags(schedule)
    )
    try:
        with TemporaryDirectory() as folder:
            _save(schedule, Path(folder), Model(model_id=logged.model_id, run_id=run.run_id))
            client.log_model_artifacts(logged.model_id, str(Path(folder, "model")))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        # Not `models:/ID`, which MLflow would look up at its global tracking URI.
        logged.artifact_location,
        run.run_id,
        _tags(schedule),
        model_id=logged.model_id,
    )
    if alias is not None:
        client.set_registered_model_alias(name, alias, made.version)
    return str(made.version)


def _save(schedule: Schedule, folder: Path, model: Model) -> None:
    """Write the model into `folder / "model"`."""
    document = folder / "schedule.json"
    schedule.save(document)
    shutil.copy(laws.__file__, folder / LAWS)
    law = schedule.laws[0]
    named = {"method": law.method, "teacher": law.teacher}
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    mlflow.pyfunc.save_model(
        folder / "model",
        mlflow_model=model,
        python_model=str(CODE),
        code_paths=[str(folder / LAWS)],
        artifacts={"schedule": str(document)},
        signature=SIGNATURE,
        input_example=pd.DataFrame({"fraction": list(law.range), **named}),
        # Named, so that MLflow does not import everything to find out.
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
    )


def _run(client: MlflowClient, schedule: Schedule, places: Places) -> Any:
    """The parent run of the search, or a new one where that is not known here."""
    if run_id := schedule.provenance.get("parent_run_id"):
        try:
            return client.get_run(str(run_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    root, found = places.artifact_root(), client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        client.create_experiment(EXPERIMENT, f"{root}/{EXPERIMENT}" if root else None)
        if found is None
        else found.experiment_id
    )
    run = client.create_run(experiment_id, run_name=MODEL, tags=_tags(schedule))
    client.set_terminated(run.info.run_id)
    return run


def _tags(schedule: Schedule) -> dict[str, str]:
    """Where it comes from."""
    provenance = schedule.provenance
    tags = {
        record.TAG_SEARCH: provenance.get("search"),
        "kdcurve.family": ", ".join(sorted({law.family for law in schedule.laws})),
        "kdcurve.complete_trials": provenance.get("complete_trials"),
        "kdcurve.version.kdcurve": provenance.get("kdcurve"),
        "mlflow.source.git.commit": provenance.get("git_commit"),
    }
    return {key: str(value) for key, value in tags.items() if value is not None}

"""Answers to their places: the search's folder, MLflow's parent run, the record."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.curve import fit_curve
from analysis.errors import AnalysisError
from analysis.plots import save_figures
from analysis.report import write_report
from analysis.runs import load_runs
from analysis.schedule import Schedule, fit_schedule
from search.journal import EventKind
from search.ledger import Ledger
from search.places import Places
from trainables.record import curve_metric, curve_step

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answers:
    """What a search found, and where it lies."""

    curve: "pd.DataFrame"
    schedule: Schedule | None
    no_schedule: str | None
    """Why there is no schedule, if there is none."""
    report: Path
    schedule_file: Path
    curve_file: Path


def publish(ledger: Ledger, places: Places) -> Answers:
    """Fit the curve and the schedule, draw, and leave all of it where users look.

    Everything is read back from MLflow: what is published is what a query finds.

    Raises:
        AnalysisError: MLflow cannot be read, or no trial is complete.
    """
    folder = places.folder(ledger.search)
    runs = load_runs(ledger.search, places.tracking_uri)
    curve = fit_curve(runs)
    schedule, no_schedule = None, None
    try:
        schedule = fit_schedule(curve, {"git_commit": ledger.plan.get("git_commit")})
    except AnalysisError as error:
        no_schedule = str(error)
    answers = Answers(
        curve,
        schedule,
        no_schedule,
        report=folder / "answers" / "report.html",
        schedule_file=folder / "answers" / "schedule.json",
        curve_file=folder / "answers" / "curve.csv",
    )
    answers.report.parent.mkdir(parents=True, exist_ok=True)
    curve.to_csv(answers.curve_file, index=False)
    if schedule is not None:
        schedule.save(answers.schedule_file)
    save_figures(answers.report.parent / "figures", runs, curve, schedule)
    versions = {f"version of {k}": v for k, v in ledger.plan.get("versions", {}).items()}
    write_report(answers.report, runs, curve, schedule, versions)
    _upload(answers, places)
    ledger.record(EventKind.ANSWER, curve=_plain(curve))
    return answers


def _upload(answers: Answers, places: Places) -> None:
    """Files as artifacts of the parent run; the curve as metrics that MLflow's UI plots."""
    from mlflow.entities import Metric  # noqa: PLC0415  (a second and a half, once answers exist)
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    curve = answers.curve
    tuned = curve.attrs["tuned"]
    run_id = curve.attrs["parent_run_id"]
    client = MlflowClient(places.tracking_uri)
    client.log_artifacts(run_id, str(answers.report.parent))
    now = round(1000 * time.time())
    answered = curve[curve["kd_weight"].notna()]
    client.log_batch(
        run_id,
        metrics=[
            Metric(
                # A method or teacher that was tuned has one curve, whichever was best where.
                curve_metric(*("tuned" if n in tuned else row[n] for n in ("method", "teacher"))),
                row["kd_weight"],
                now,
                curve_step(row["fraction"]),
            )
            for row in answered.to_dict("records")
        ],
    )


def _plain(curve: "pd.DataFrame") -> list[dict[str, object]]:
    """Rows as JSON values, missing numbers as null."""
    return curve.astype(object).where(curve.notna(), None).to_dict("records")  # type: ignore[return-value]

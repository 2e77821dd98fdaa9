"""Answers to their places: the search's folder and the record, from where MLflow gets them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.confirmation import with_test
from analysis.curve import fit_curve_and_lines
from analysis.errors import AnalysisError
from analysis.figures.learning_curves import chosen
from analysis.plots import all_figures, save_figures
from analysis.recorded import FILE, about, plain, to_text
from analysis.report import write_report
from analysis.schedule import Schedule
from analysis.scheduling import fit_schedule
from analysis.secrets import redacted
from search.frame import histories_frame, runs_frame, students_frame
from search.journal import EventKind
from search.ledger import Ledger
from search.places import Places

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

    Raises:
        AnalysisError: no trial is complete.
    """
    folder = places.answers(ledger.search)
    runs = runs_frame(ledger, places)
    fitted, lines = fit_curve_and_lines(runs)
    curve = with_test(fitted, students_frame(ledger))
    schedule, no_schedule = None, None
    try:
        schedule = fit_schedule(curve, runs)
    except AnalysisError as error:
        no_schedule = str(error)
    answers = Answers(
        curve,
        schedule,
        no_schedule,
        report=folder / "report.html",
        schedule_file=folder / "schedule.json",
        curve_file=folder / "curve.csv",
    )
    folder.mkdir(parents=True, exist_ok=True)
    curve.to_csv(answers.curve_file, index=False)
    ended = len(ledger.trials) - len(ledger.unfinished())
    known = about(curve, ended, time.time())
    (folder / FILE).write_text(to_text(curve, known), "utf-8")
    if schedule is not None:
        schedule.save(answers.schedule_file)
    histories = histories_frame(ledger, chosen(runs)["trial"])
    pictures = all_figures(runs, curve, schedule, lines=lines, histories=histories)
    save_figures(folder / "figures", pictures)
    versions = {f"version of {k}": v for k, v in ledger.plan.get("versions", {}).items()}
    write_report(answers.report, runs, curve, schedule, versions, pictures)
    ledger.record(
        EventKind.ANSWER,
        curve=plain(curve),
        about=known,
        # A record answers for the MLflow that it is delivered to, not for another's of that name.
        tracking_uri=redacted(places.tracking_uri),
    )
    return answers

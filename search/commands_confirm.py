"""The commands that take answers to the test set, and out of the search."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.estimators import DEFAULT, ESTIMATORS
from search.errors import KdcurveError
from search.options import Name, TakeOver
from search.places import Places
from search.printing import (
    count_samples,
    next_command,
    out,
    plural,
    print_confirmation,
    print_table,
    short_path,
)
from trainables.record import Outcome, SearchState

if TYPE_CHECKING:
    from search.confirmation import Confirmation
    from search.ledger import Ledger

Method = Annotated[str | None, typer.Option(help="Only this pruning method.")]
Fraction = Annotated[float | None, typer.Option(help="Only this kept fraction.")]
Teacher = Annotated[str | None, typer.Option(help="Only this teacher architecture.")]


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def confirm(  # noqa: PLR0913, PLR0917  (the command's options)
    name: Name,
    places: Places,
    verbose: bool,
    seeds: Annotated[int, typer.Option(help="Students per context and KD weight.")] = 5,
    method: Method = None,
    fraction: Fraction = None,
    teacher: Teacher = None,
    estimator: Annotated[
        str,
        typer.Option(help=f"Whose answers: {', '.join(ESTIMATORS)}; recorded are the default's."),
    ] = DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Train those that failed once more.")
    ] = False,
    take_over: TakeOver = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of a running Ray cluster; by default Ray starts on this machine."
        ),
    ] = None,
) -> None:
    """Train the answers afresh and judge them on the test set, which nothing else reads.

    For each context the chosen KD weight, 0 and 1, under seeds that the search never uses. What
    was cut off goes on when this is said again; what was trained is not trained again.

    Example: `kdcurve confirm demo --seeds 5`
    """
    from search import retraining  # noqa: PLC0415
    from search.display import Display, quiet  # noqa: PLC0415

    wanted = {"method": method, "fraction": fraction, "teacher": teacher}
    planned, ledger = retraining.plan(name, places, seeds=seeds, wanted=wanted, estimator=estimator)
    _print_plan(planned, ledger, places, retry)
    if dry_run:
        return
    with quiet(places.folder(name) / "kdcurve.log", verbose=verbose) as console:
        done = retraining.confirm(
            name,
            places,
            seeds=seeds,
            wanted=wanted,
            estimator=estimator,
            retry=retry,
            take_over=take_over,
            address=address,
            watcher=Display(console),
        )
    if done.undelivered:
        _say(
            f"Not all of the record reached MLflow: {done.undelivered}. "
            f"{next_command('sync', name, places)} delivers the rest."
        )
    if done.curve is None:
        total = len(done.plan.students)
        raise KdcurveError(
            f"the confirmation was interrupted; {total - done.left} of its {total} students are "
            f"recorded. The same command goes on with the rest"
        )
    from analysis.confirmation import confirmation_table  # noqa: PLC0415

    out.print()
    shown = done.curve[done.curve["context"].isin(list(done.plan.settings))]
    print_table(confirmation_table(shown))
    print_confirmation(shown)
    failed = [
        event.data
        for student in done.plan.students
        if (event := done.ledger.confirmed[student.key]).data["outcome"] != Outcome.COMPLETE
    ]
    for each in failed:
        _say(f"  failed: {each['student']}, seed {each['config']['seed']}: {each['reason']}")
    if failed:
        _say(f"--retry trains {plural(len(failed), 'student')} once more.")


def _print_plan(planned: "Confirmation", ledger: "Ledger", places: Places, retry: bool) -> None:
    """What a confirmation will do and cost."""
    from datetime import datetime  # noqa: PLC0415

    from search.confirmation import samples  # noqa: PLC0415
    from search.plan import artifact_samples, counted, needed_by  # noqa: PLC0415
    from trainables.cache import exists  # noqa: PLC0415

    spec, left = ledger.spec, planned.left(ledger, retry=retry)
    made = datetime.fromtimestamp(planned.answer.time).astimezone().strftime("%Y-%m-%d %H:%M")
    missing = [
        each
        for each in needed_by(student.config for student in left)
        if not exists(places.cache, each.key)
    ]
    done = len(planned.students) - len(left)
    plain = sum(student.config.kd_weight == 0.0 for student in planned.students)
    seeds = (
        f"{planned.seeds[0]} to {planned.seeds[-1]}" if len(planned.seeds) > 1 else planned.seeds[0]
    )
    rows = {
        "confirm": spec.name,
        "answers": f"{plural(len(planned.settings), 'context')}, by {planned.estimator}, "
        f"recorded {made}{_may_change(ledger)}",
        **(
            {"without": f"an answer: {', '.join(planned.unanswered)}"} if planned.unanswered else {}
        ),
        "seeds": f"{len(planned.seeds)} that no trial has ({seeds})",
        "students": f"{len(planned.students)}: the answers, KD weight 0 ({plain}: no teacher, so "
        f"that contexts share them) and 1; {f'{done} done before, ' if done else ''}"
        f"{len(left)} to train",
        "shared": f"{counted(missing)} to make, the rest is cached",
        "compute": f"{count_samples(samples(spec, left))} epochs × samples in students and at most "
        f"{count_samples(artifact_samples(spec, missing))} for what is shared",
        "test": "each student is judged once on the test set; nothing else reads it",
    }
    for what, text in rows.items():
        _say(f"{what:>9}  {text}")
    out.print()


def _may_change(ledger: "Ledger") -> str:
    if ledger.state is SearchState.COMPLETE:
        return ""
    return f"; the search is {ledger.state}, and may answer otherwise when it is resumed"


def export(
    name: Name,
    places: Places,
    verbose: bool,
    method: Annotated[str, typer.Option(help="Pruning method.", show_default=False)],
    fraction: Annotated[float, typer.Option(help="Kept fraction, in (0, 1].", show_default=False)],
    teacher: Annotated[
        str | None, typer.Option(help="Teacher; needed if the search has several.")
    ] = None,
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder to write, new or empty.")
    ] = Path("best"),
    pick: Annotated[
        str, typer.Option(help="Which of the confirmed students, by validation: median, best.")
    ] = "median",
) -> None:
    """Write a confirmed setting as a ready configuration, with its student's weights.

    Example: `kdcurve export demo --method random --fraction 0.25 --teacher cnn4 --out best`
    """
    from search.export import export_student  # noqa: PLC0415

    done = export_student(
        name,
        places,
        out_folder,
        {"method": method, "fraction": fraction, "teacher": teacher},
        pick=pick,
        say=_say,
    )
    _say(done.text)
    for file in done.files:
        _say(f"  {short_path(file)}")

"""The commands that keep records, MLflow and the storage in order."""

import sys
import traceback
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from analysis.secrets import redacted
from search.errors import KdcurveError, UsageError
from search.options import Name, TakeOver, Yes
from search.places import Places
from search.printing import out, plural, program, short_path, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search.deletion import Belongings
    from search.leftovers import Leftover
    from search.repetition import Rerun


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def _confirm(question: str, yes: bool) -> None:
    """Ask before something is removed; a script has to have said so.

    Raises:
        UsageError: there is nobody to ask.
        KdcurveError: the answer is no.
    """
    if yes:
        return
    if not _somebody_is_there():
        raise UsageError("nothing was removed: there is no terminal to ask at; add --yes")
    if not typer.confirm(question):
        raise KdcurveError("nothing was removed")


def _somebody_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def sync(name: Name, places: Places, verbose: bool, take_over: TakeOver = False) -> None:
    """Bring MLflow, Optuna's storage and the report in line with the record.

    Example: `kdcurve sync demo`
    """
    from search.display import Display, quiet  # noqa: PLC0415
    from search.standing import open_recorded  # noqa: PLC0415

    open_recorded(name, places)
    from search import syncing  # noqa: PLC0415

    with quiet(places.folder(name) / "kdcurve.log", verbose=verbose) as console:
        done = syncing.sync(name, places, take_over=take_over, say=Display(console).say)
    if done.recovered:
        _say(f"The record has {done.recovered} more events, which a killed process left behind.")
    if done.refused:
        _say(f"MLflow refuses {plural(len(done.refused), 'run')}:")
        for run, why in done.refused.items():
            _say(f"  {run}: {why}")
    else:
        more = f"; {done.unfinished} more are unfinished" if done.unfinished else ""
        _say(f"MLflow has all {done.ended} trials ({done.delivered} delivered now){more}.")
    _say(f"Optuna's storage: {short_path(done.optuna)}")
    if done.report:
        again = ", made again" if done.answered else ""
        _say(f"Report: {short_path(done.report)}{again}")
    else:
        _say(f"No report: {done.no_answers}")
    if done.refused:
        raise KdcurveError(f"MLflow does not have all of {name}")


def rerun(
    name: Name,
    trial: Annotated[int, typer.Argument(help="Number of a trial.", show_default=False)],
    places: Places,
    verbose: bool,
) -> None:
    """Repeat a recorded trial in this process: does the same come out?

    Example: `kdcurve rerun demo 17`
    """
    from search import repetition  # noqa: PLC0415

    with out.status(f"trial {trial}") as shown:
        done = repetition.rerun(
            name,
            trial,
            places,
            say=_say,
            progress=lambda epoch, epochs: shown.update(f"epoch {epoch} of {epochs}"),
        )
    _print_rerun(name, done)
    _judge_rerun(done)


def _print_rerun(name: str, done: "Rerun") -> None:
    """The trial, and its last metrics beside the repeated ones."""
    trial = done.trial
    values = " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.values.items()
    )
    _say(f"trial {trial.number} of {name}: {done.context.label} {values} seed={trial.seed}")
    ended = str(trial.outcome or "unfinished").replace("_", " ")
    reason = f": {trial.reason}" if trial.reason else ""
    _say(f"recorded: {ended}, {plural(len(done.recorded), 'epoch')}{reason}\n")
    if not done.compared:
        return
    last = done.compared[-1]
    recorded, repeated = done.recorded[last], done.repeated[last]
    table = Table(f"epoch {last}", box=None, pad_edge=False)
    for title in ("recorded", "repeated", "largest difference"):
        table.add_column(title, justify="right")
    for metric in recorded | repeated:
        worst = done.differences.get(metric)
        digits = ".6g" if worst is None else ".17g"
        numbers = (h.get(metric) for h in (recorded, repeated))
        table.add_row(
            metric,
            *("–" if number is None else format(number, digits) for number in numbers),
            "none" if worst is None else f"{worst.size:.3g} in epoch {worst.epoch}",
        )
    out.print(table)
    out.print()


def _judge_rerun(done: "Rerun") -> None:
    """Say whether the repetition is what was recorded; raise if not, or if it raised."""
    number = done.trial.number
    if done.differences:
        for package, (then, now) in done.versions.items():
            _say(f"{package} was {then} then and is {now or 'missing'} now")
    elif done.compared:
        _say(f"equal bit for bit over {plural(len(done.compared), 'epoch')}, timings aside")
    if done.error is not None:
        typer.echo("".join(traceback.format_exception(done.error)), nl=False)
        raise KdcurveError(f"trial {number} raised after {plural(len(done.repeated), 'epoch')}")
    if done.failed:
        _say(f"trial {number} failed when it was recorded; now it ran to its end")
    if done.differences:
        metrics = ", ".join(done.differences)
        raise KdcurveError(f"trial {number} is not what was recorded: {metrics}")


def clean(
    places: Places,
    verbose: bool,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also teachers and scores that interrupted searches would use again."
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Remove cached teachers and scores, checkpoints and working files that nobody needs.

    What belongs to a search of another record on the same storage counts as not needed,
    unless it was written within the last hour.

    Example: `kdcurve clean`
    """
    from search import leftovers  # noqa: PLC0415

    found = leftovers.survey(places, everything=everything)
    free = [each for each in found if each.kept_for is None]
    _print_leftovers(found, everything)
    if not free:
        _say("Nothing to remove.")
        return
    files, size = sum(each.files for each in free), sum(each.size_bytes for each in free)
    _confirm(f"Remove {plural(files, 'file')}, {size_text(size)}?", yes)
    removed = leftovers.clean(places, everything=everything, only={each.path for each in free})
    _say(f"Removed: {size_text(sum(each.size_bytes for each in removed))}.")


def _print_leftovers(found: "Iterable[Leftover]", everything: bool) -> None:
    """What would go, by kind, and what stays for whom."""
    from search.leftovers import What  # noqa: PLC0415

    free: defaultdict[str, list[Leftover]] = defaultdict(list)
    kept: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in found:
        if each.kept_for is None:
            free[each.what].append(each)
        else:
            kept[each.kept_for][each.what] += each.files
    if free:
        table = Table("to remove", box=None, pad_edge=False)
        table.add_column("files", justify="right")
        table.add_column("size", justify="right")
        for what in [what for what in What if what in free]:
            files = sum(each.files for each in free[what])
            table.add_row(what, str(files), size_text(sum(e.size_bytes for e in free[what])))
        out.print(table)
    for user, counts in kept.items():
        parts = ", ".join(f"{what} ({plural(files, 'file')})" for what, files in counts.items())
        _say(f"Kept for {user}: {parts}.")
    made_again = {What.TEACHERS, What.SCORES}
    if made_again & free.keys():
        _say("Teachers and scores are made again when a search needs them.")
    if not everything and any(made_again & counts.keys() for counts in kept.values()):
        _say("With --all, those that an interrupted search would use again go too.")


def delete(
    name: Name,
    places: Places,
    verbose: bool,
    keep_mlflow: Annotated[
        bool, typer.Option("--keep-mlflow", help="Leave its runs in MLflow.")
    ] = False,
    take_over: TakeOver = False,
    yes: Yes = False,
) -> None:
    """Delete a search: its record, folder, checkpoints and runs in MLflow.

    Cached teachers and scores stay, since other searches share them (see `kdcurve clean`).

    Example: `kdcurve delete demo`
    """
    from search import deletion  # noqa: PLC0415
    from search.standing import open_recorded  # noqa: PLC0415

    open_recorded(name, places)
    options: dict[str, Any] = {"keep_mlflow": keep_mlflow, "take_over": take_over}
    doomed = deletion.belongings(name, places, **options)
    _print_belongings(doomed, places, keep_mlflow)
    _confirm(f"Delete the search {name}?", yes)
    done = deletion.delete(name, places, **options)
    _say(f"Deleted: {name}.")
    if done.experiments:
        _say(f"MLflow keeps what it deleted until: {_collect_garbage(done, places)}")


def _collect_garbage(done: "Belongings", places: Places) -> str:
    """How to make MLflow forget for good."""
    what = f"--experiment-ids {','.join(each.experiment_id for each in done.experiments)}"
    uri = places.tracking_uri
    if not uri.startswith("sqlite:"):
        return f"mlflow gc {what}, run by whoever keeps it"
    return f"{program('mlflow')} gc {what} --backend-store-uri {uri} --tracking-uri {uri}"


def _print_belongings(doomed: "Belongings", places: Places, keep_mlflow: bool) -> None:
    """All that would be deleted, and what would stay."""
    from search.leftovers import measure  # noqa: PLC0415

    mlflow = redacted(places.tracking_uri)
    _say("To delete:")
    _say(f"  {plural(doomed.events, 'event')} of {plural(doomed.trials, 'trial')} in the record")
    for folder in doomed.folders:
        files, size = measure(folder)
        _say(f"  {short_path(folder)} ({plural(files, 'file')}, {size_text(size)})")
    for each in doomed.experiments:
        _say(f"  experiment {each.experiment_id}, {each.name!r}, in MLflow at {mlflow}")
    if keep_mlflow:
        _say(f"MLflow at {mlflow} is left alone.")
    elif not doomed.experiments:
        _say(f"MLflow at {mlflow} has nothing of it.")
    _say("Cached teachers and scores stay: other searches share them.")

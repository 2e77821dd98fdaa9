"""The command `kdcurve`: launch searches, ask for answers, fit schedules."""

import functools
import importlib.metadata
import inspect
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from analysis.errors import AnalysisError, nearest
from search.errors import KdcurveError, UsageError
from search.places import Places
from search.printing import (
    err,
    next_command,
    out,
    outcome_line,
    print_answers,
    print_level,
    print_places,
    print_plan,
    print_table,
)
from trainables.record import Outcome, SearchState

if TYPE_CHECKING:
    from search.journal import Journal
    from search.launch import SearchResult
    from search.ledger import Ledger

app = typer.Typer(
    name="kdcurve",
    help="Find the best knowledge-distillation weight for every amount of data pruning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdcurve {importlib.metadata.version('kdcurve')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


class Format(StrEnum):
    """How answers are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Name = Annotated[str, typer.Argument(help="Name of a search.", show_default=False)]
Method = Annotated[str | None, typer.Option(help="Only this pruning method.")]
Teacher = Annotated[str | None, typer.Option(help="Only this teacher architecture.")]
Address = Annotated[
    str | None,
    typer.Option(help="Address of a running Ray cluster; by default Ray starts on this machine."),
]


def _place(kind: Any, help: str, default: str | None = None, *, name: str) -> Any:
    option = typer.Option(
        envvar=f"KDCURVE_{name}",
        help=help,
        show_default=default or True,
        rich_help_panel="Where things live",
    )
    return Annotated[kind, option]


# Every command takes these, so that `best NAME` looks where `search` wrote.
_PLACES = {
    "home": _place(
        Path, "Folder for the record, MLflow's files, caches and searches.", name="HOME"
    ),
    "record": _place(
        str | None,
        "SQLAlchemy URI of the record, e.g. postgresql://…",
        "HOME/record.db",
        name="RECORD",
    ),
    "tracking_uri": _place(
        str | None, "MLflow tracking URI.", "HOME/mlflow.db", name="TRACKING_URI"
    ),
    "storage": _place(
        str | None,
        "Folder for caches and trial files, shared by all machines.",
        "HOME",
        name="STORAGE",
    ),
    "verbose": Annotated[
        bool, typer.Option("--verbose", help="Show what libraries print, and tracebacks.")
    ],
}
_PLACES_DEFAULTS = {"home": Path("kdcurve-data"), "verbose": False}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command: add the options for places, turn faults into one line."""

    @functools.wraps(function)
    def call(*, verbose: bool, **arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in _PLACES if name != "verbose"}
        try:
            function(places=Places.at(**chosen), verbose=verbose, **arguments)
        except (KdcurveError, AnalysisError) as error:
            if verbose:
                traceback.print_exc()
            err.print(f"kdcurve: {error}", markup=False)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None

    own = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("places", "verbose")
    ]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_PLACES_DEFAULTS.get(name),
            annotation=annotation,
        )
        for name, annotation in _PLACES.items()
    ]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    call.__signature__ = inspect.Signature(own + shared)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in own + shared}
    return app.command(function.__name__.rstrip("_"))(call)


@command
def search(
    file: Annotated[Path, typer.Argument(help="The search file (YAML).", show_default=False)],
    places: Places,
    verbose: bool,
    name: Annotated[str | None, typer.Option(help="Use this name, not the file's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Shrink the search to a minute or two.")
    ] = False,
    address: Address = None,
) -> None:
    """Launch a search: validate the file, print the plan, run it, answer.

    Example: `kdcurve search configs/demo.yaml --name first-try`
    """
    from search.specfile import load_spec, shrink  # noqa: PLC0415  (each command loads its own)

    spec = load_spec(file, name)
    if smoke:
        spec = shrink(spec)
    _refuse_taken(spec.name, places)
    print_plan(spec)
    if dry_run:
        return
    from search import launch  # noqa: PLC0415

    _follow(
        spec.name,
        places,
        verbose,
        lambda watcher: launch.run(spec, places, address=address, watcher=watcher),
    )


def _refuse_taken(name: str, places: Places) -> None:
    """Say that a name is taken before a plan is printed; a record that is not there has none."""
    from search.journal import Journal, check_name  # noqa: PLC0415

    try:
        journal = Journal(places.record, create=False)
    except KdcurveError:
        return
    check_name(journal, name)


@command
def resume(
    name: Name,
    places: Places,
    verbose: bool,
    file: Annotated[
        Path | None,
        typer.Option(help="Go on with this file: the search with more contexts, seeds or budget."),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="The process that ran it, on another machine, is gone for good."
        ),
    ] = False,
    address: Address = None,
) -> None:
    """Go on with a search that was interrupted, or extend it.

    Example: `kdcurve resume demo`
    """
    from search.specfile import load_spec  # noqa: PLC0415

    _ledger(name, places)
    extended = load_spec(file, name) if file else None
    from search import launch  # noqa: PLC0415

    _follow(
        name,
        places,
        verbose,
        lambda watcher: launch.resume(
            name,
            places,
            extended=extended,
            take_over=take_over,
            address=address,
            watcher=watcher,
        ),
    )


def _follow(
    name: str, places: Places, verbose: bool, carry_out: Callable[[Any], "SearchResult"]
) -> None:
    """Run or resume under the display, then print the answers and what to do next."""
    from search.display import Display, quiet  # noqa: PLC0415

    places.make()
    log_file = places.folder(name) / "kdcurve.log"
    with quiet(log_file, verbose=verbose) as console:
        result = carry_out(Display(console))
    answers = result.answers
    out.print()
    if answers is not None and answers.curve["kd_weight"].isna().all():
        out.print("No context has enough complete trials for an answer yet.")
        answers = None
    if answers is not None:
        print_answers(answers.curve)
    out.print(outcome_line(result.ledger))
    _print_failures(result.ledger)
    if result.undelivered:
        out.print(
            f"Not all of the record reached MLflow: {result.undelivered}. "
            f"{next_command('sync', name, places)} delivers the rest.",
            markup=False,
            soft_wrap=True,
        )
    print_places(name, places, answers, log_file)
    if result.state is not SearchState.COMPLETE:
        ended = len(result.ledger.trials) - len(result.ledger.unfinished())
        raise KdcurveError(
            f"the search was interrupted; its {ended} ended trials are recorded. "
            f"Go on with: {next_command('resume', name, places)}"
        )
    if result.no_answers is not None:
        raise KdcurveError(result.no_answers)


def _print_failures(ledger: "Ledger") -> None:
    for trial in ledger.trials.values():
        if trial.outcome in (Outcome.FAILED, Outcome.TIMEOUT):
            out.print(f"  trial {trial.number} {trial.outcome}: {trial.reason}", markup=False)


@command
def status(name: Name, places: Places, verbose: bool) -> None:
    """Progress of a running or finished search.

    Example: `kdcurve status demo`
    """
    from search.display import progress_line  # noqa: PLC0415

    ledger = _ledger(name, places)
    state = _state(ledger.journal, name)
    out.print(f"{name}: {state}", markup=False, soft_wrap=True)
    out.print(progress_line(ledger.spec, ledger, ledger.active_s), markup=False, soft_wrap=True)
    _print_failures(ledger)


def _ledger(name: str, places: Places) -> "Ledger":
    from search.journal import Journal  # noqa: PLC0415
    from search.ledger import Ledger  # noqa: PLC0415

    journal = Journal(places.record, create=False)
    names = journal.searches()
    if name not in names:
        raise KdcurveError(f"no search named {name!r} is recorded; {nearest(name, names)}")
    return Ledger(journal, name)


def _state(journal: "Journal", name: str) -> str:
    """Where a search stands, and for one that is not halted, who runs it."""
    from search.display import duration  # noqa: PLC0415
    from search.journal import EventKind  # noqa: PLC0415
    from search.lease import running  # noqa: PLC0415

    turn = journal.milestones(name)[-1]
    if turn.kind is EventKind.CLOSED:
        return str(turn.data["state"])
    holder = running(journal).get(name)
    if holder is None:
        return "interrupted (its process is gone)"
    silent = time.time() - journal.newest(name).time
    return f"running ({holder}, last event {duration(silent)} ago)"


@command
def list_(places: Places, verbose: bool) -> None:
    """Searches, with their state.

    Example: `kdcurve list`
    """
    from search.journal import EventKind, Journal  # noqa: PLC0415
    from search.specfile import parse_spec  # noqa: PLC0415

    journal = Journal(places.record, create=False)
    table = Table("search", "state", "trials ended", "started", box=None, pad_edge=False)
    for name in journal.searches():
        first, *_ = starts = [e for e in journal.milestones(name) if "spec" in e.data]
        spec = parse_spec(starts[-1].data["spec"], f"the recorded search {name!r}")
        started = datetime.fromtimestamp(first.time).astimezone()
        ended = journal.count(name, EventKind.ENDED)
        table.add_row(
            name,
            _state(journal, name),
            f"{ended} of {spec.trials}",
            started.strftime("%Y-%m-%d %H:%M"),
        )
    out.print(table)


@command
def best(
    name: Name,
    places: Places,
    verbose: bool,
    method: Method = None,
    fraction: Annotated[float | None, typer.Option(help="Only this kept fraction.")] = None,
    teacher: Teacher = None,
    format: Annotated[Format, typer.Option(help="How to write the answers.")] = Format.TABLE,
) -> None:
    """Best setting per context, from MLflow.

    Example: `kdcurve best demo --method random --format json`
    """
    from analysis.curve import best as ask  # noqa: PLC0415

    curve = ask(name, places.tracking_uri, method, fraction, teacher)
    if format is Format.TABLE:
        print_answers(curve)
    elif format is Format.JSON:
        typer.echo(curve.to_json(orient="records", indent=2))
    else:
        typer.echo(curve.to_csv(index=False), nl=False)


@command
def curve(
    name: Name,
    places: Places,
    verbose: bool,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Also write it as a picture (.svg, .png) or as .csv."),
    ] = None,
) -> None:
    """The KD-weight-per-fraction curve, a row per method and teacher.

    Example: `kdcurve curve demo --out curve.png`
    """
    from analysis.curve import fit_curve  # noqa: PLC0415
    from analysis.format import pivot_table  # noqa: PLC0415
    from analysis.runs import load_runs  # noqa: PLC0415

    fitted = fit_curve(load_runs(name, places.tracking_uri))
    print_table(pivot_table(fitted))
    print_level(fitted)
    if out_file is None:
        return
    match out_file.suffix:
        case ".csv":
            _write(out_file, lambda path: fitted.to_csv(path, index=False))
        case ".svg" | ".png":
            from analysis.plots import plot_kd_weight  # noqa: PLC0415

            _write(out_file, lambda path: plot_kd_weight(fitted).savefig(path, dpi=150))
        case suffix:
            raise UsageError(
                f"--out {out_file}: cannot write {suffix!r}; allowed: .svg, .png, .csv"
            )
    out.print(f"written: {out_file}", markup=False)


@command
def fit(
    name: Name,
    places: Places,
    verbose: bool,
    out_file: Annotated[Path, typer.Option("--out", help="The JSON file to write.")] = Path(
        "schedule.json"
    ),
) -> None:
    """Fit the schedule, a function from fraction to KD weight.

    Example: `kdcurve fit demo --out schedule.json`
    """
    from analysis.curve import fit_curve  # noqa: PLC0415
    from analysis.report import schedule_table  # noqa: PLC0415
    from analysis.runs import load_runs  # noqa: PLC0415
    from analysis.schedule import fit_schedule  # noqa: PLC0415

    schedule = fit_schedule(fit_curve(load_runs(name, places.tracking_uri)))
    _write(out_file, schedule.save)
    print_table(schedule_table(schedule))
    for each in schedule.left_out:
        out.print(f"left out: {each.method}, {each.teacher}: {each.reason}", markup=False)
    out.print(f"written: {out_file}", markup=False)


@command
def predict(
    schedule: Annotated[Path, typer.Argument(help="A schedule file.", show_default=False)],
    fraction: Annotated[float, typer.Option(help="Kept fraction, in (0, 1].", show_default=False)],
    places: Places,
    verbose: bool,
    method: Annotated[
        str | None, typer.Option(help="Pruning method; needed if the schedule knows several.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher; needed if the schedule knows several.")
    ] = None,
) -> None:
    """The KD weight to use at a fraction.

    Example: `kdcurve predict schedule.json --method random --teacher cnn8 --fraction 0.2`
    """
    from analysis.schedule import load_schedule  # noqa: PLC0415

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weight = load_schedule(schedule)(fraction, method=method, teacher=teacher)
    for warning in caught:
        err.print(f"kdcurve: {warning.message}", markup=False)
    typer.echo(f"{weight:.3f}")


@command
def report(
    name: Name,
    places: Places,
    verbose: bool,
    out_file: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """The pictures, as one self-contained HTML file.

    Example: `kdcurve report demo --out report.html`
    """
    from analysis.curve import fit_curve  # noqa: PLC0415
    from analysis.report import write_report  # noqa: PLC0415
    from analysis.runs import load_runs  # noqa: PLC0415
    from analysis.schedule import fit_schedule  # noqa: PLC0415

    runs = load_runs(name, places.tracking_uri)
    fitted = fit_curve(runs)
    try:
        schedule = fit_schedule(fitted)
    except AnalysisError as error:
        schedule = None
        out.print(f"without a schedule: {error}", markup=False)
    _write(out_file, lambda path: write_report(path, runs, fitted, schedule))
    out.print(f"written: {out_file}", markup=False)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise KdcurveError(f"cannot write {path}: {error.strerror or error}") from error


@app.command()
def schema() -> None:
    """JSON schema of the search file, for editors.

    Example: `kdcurve schema > search.schema.json`
    """
    import json  # noqa: PLC0415

    from search.specfile import json_schema  # noqa: PLC0415

    typer.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Entry point of the command."""
    sys.exit(app())

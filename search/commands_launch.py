"""The commands that launch searches and follow them."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.commands_cluster import is_elsewhere, launch_resume, launch_search, there
from search.errors import KdcurveError
from search.options import Address, Cluster, Name, NoPreflight, TakeOver, WorkingDir
from search.places import Places
from search.printing import (
    TFLOPS,
    next_command,
    out,
    outcome_line,
    plural,
    print_answers,
    print_places,
    print_plan,
    print_table,
)
from trainables.record import Outcome, SearchState

if TYPE_CHECKING:
    from search.journal import Journal
    from search.launch import SearchResult
    from search.ledger import Ledger
    from search.standing import Standing


def search(  # noqa: PLR0913, PLR0917  (the options of a command)
    file: Annotated[Path, typer.Argument(help="The search file (YAML).", show_default=False)],
    places: Places,
    verbose: bool,
    name: Annotated[str | None, typer.Option(help="Use this name, not the file's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Shrink the search to a minute or two.")
    ] = False,
    address: Address = None,
    tflops: Annotated[
        float, typer.Option(min=1e-6, help="What a GPU sustains, for the plan's GPU hours.")
    ] = TFLOPS,
    cluster: Cluster = None,
    working_dir: WorkingDir = None,
    no_preflight: NoPreflight = False,
) -> None:
    """Launch a search: validate the file, print the plan, run it, answer.

    Example: `kdcurve search configs/demo.yaml --name first-try`
    """
    if is_elsewhere(address, cluster) and not dry_run:
        options = (["--name", name] if name else []) + (["--smoke"] if smoke else [])
        options += ["--no-preflight"] if no_preflight else []
        launch_search(file, name, options, places, there(address, cluster), working_dir)
        return
    from search.specfile import load_spec, shrink  # noqa: PLC0415  (each command loads its own)

    spec = load_spec(file, name)
    if smoke:
        spec = shrink(spec)
    _refuse_taken(spec.name, places)
    from search.samplers.presence import check_sampler  # noqa: PLC0415

    check_sampler(spec.sampler)
    print_plan(spec, tflops)
    if dry_run:
        return
    from search import launch  # noqa: PLC0415

    _follow(
        spec.name,
        places,
        verbose,
        lambda watcher: launch.run(
            spec, places, address=address, look_first=not no_preflight, watcher=watcher
        ),
    )


def _refuse_taken(name: str, places: Places) -> None:
    """Say that a name is taken before a plan is printed; a record that is not there has none."""
    from search.journal import Journal, check_name  # noqa: PLC0415

    try:
        journal = Journal(places.record, create=False)
    except KdcurveError:
        return
    check_name(journal, name)


def resume(  # noqa: PLR0913, PLR0917  (the options of a command)
    name: Name,
    places: Places,
    verbose: bool,
    file: Annotated[
        Path | None,
        typer.Option(help="Go on with this file: the search with more contexts, seeds or budget."),
    ] = None,
    take_over: TakeOver = False,
    address: Address = None,
    cluster: Cluster = None,
    working_dir: WorkingDir = None,
    no_preflight: NoPreflight = False,
) -> None:
    """Go on with a search that was interrupted, or extend it.

    Example: `kdcurve resume demo`
    """
    if is_elsewhere(address, cluster):
        options = ["--take-over"] if take_over else []
        options += ["--no-preflight"] if no_preflight else []
        launch_resume(name, file, options, places, there(address, cluster), working_dir)
        return
    from search.specfile import load_spec  # noqa: PLC0415
    from search.standing import open_recorded  # noqa: PLC0415

    open_recorded(name, places)
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
            look_first=not no_preflight,
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
    if result.ledger.reason is not None:
        out.print(f"Ended by its budget: {result.ledger.reason}.", markup=False, soft_wrap=True)
    if result.ledger.early_stopping is not None:
        out.print(f"Early stopping: {result.ledger.early_stopping}.", markup=False, soft_wrap=True)
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


def status(name: Name, places: Places, verbose: bool) -> None:
    """Progress of a running or finished search.

    Example: `kdcurve status demo`
    """
    from search.display import progress_line  # noqa: PLC0415
    from search.ledger import Ledger  # noqa: PLC0415
    from search.standing import open_recorded, standing  # noqa: PLC0415

    journal = open_recorded(name, places)
    ledger = Ledger(journal, name)
    stands = standing(journal, name)
    out.print(f"{name}: {_state(journal, name, stands)}", markup=False, soft_wrap=True)
    out.print(progress_line(ledger.spec, ledger, ledger.active_s), markup=False, soft_wrap=True)
    if stands.state is SearchState.COMPLETE and ledger.reason is not None:
        out.print(f"Ended by its budget: {ledger.reason}.", markup=False, soft_wrap=True)
    _print_failures(ledger)
    if ledger.confirmed:
        ends = Counter(event.data["outcome"] for event in ledger.confirmed.values())
        failed = f", {ends[Outcome.FAILED]} failed" if ends[Outcome.FAILED] else ""
        out.print(f"Confirmed on test: {plural(ends[Outcome.COMPLETE], 'student')}{failed}")
    if stands.resumable:
        go_on = next_command("resume", name, places)
        out.print(f"Go on with: {go_on}", markup=False, soft_wrap=True)


def _state(journal: "Journal", name: str, stands: "Standing") -> str:
    """Where a search stands, and for one that runs, who runs it."""
    from search.display import duration  # noqa: PLC0415

    if stands.cut_off:
        return f"{stands.state} (its process is gone)"
    if stands.state is not SearchState.RUNNING:
        return str(stands.state)
    silent = time.time() - journal.newest(name).time
    return f"{stands.state} ({stands.holder}, last event {duration(silent)} ago)"


def list_(places: Places, verbose: bool) -> None:
    """Searches, with their state.

    Example: `kdcurve list`
    """
    from analysis.format import Column, Table  # noqa: PLC0415
    from search.journal import EventKind, Journal  # noqa: PLC0415
    from search.standing import recorded_spec, standing  # noqa: PLC0415

    journal = Journal(places.record, create=False)
    names = journal.searches()
    if not names:
        out.print("No searches are recorded.")
        return
    rows = []
    for name in names:
        started = datetime.fromtimestamp(journal.milestones(name)[0].time).astimezone()
        ended = journal.count(name, EventKind.ENDED)
        trials = recorded_spec(journal, name).trials
        rows.append(
            (
                name,
                _state(journal, name, standing(journal, name)),
                str(ended) if trials is None else f"{ended} of {trials}",
                started.strftime("%Y-%m-%d %H:%M"),
            )
        )
    titles = ("search", "state", "trials ended", "started")
    columns = tuple(Column(title, "left") for title in titles)
    print_table(Table(columns, tuple(rows)))


def schema() -> None:
    """JSON schema of the search file, for editors.

    Example: `kdcurve schema > search.schema.json`
    """
    import json  # noqa: PLC0415

    from search.specfile import json_schema  # noqa: PLC0415

    typer.echo(json.dumps(json_schema(), indent=2))

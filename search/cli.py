"""The command `kdcurve`: its options, how it fails, and which commands it has."""

import contextlib
import functools
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.errors import AnalysisError
from search import commands_ask as ask
from search import commands_cluster as cluster
from search import commands_confirm as test
from search import commands_launch as launch
from search import commands_simulate as simulate
from search import commands_upkeep as upkeep
from search.errors import KdcurveError
from search.places import Places
from search.printing import err

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


@contextlib.contextmanager
def _faults_in_one_line(verbose: bool = False) -> Iterator[None]:
    try:
        yield
    except (KdcurveError, AnalysisError) as error:
        if verbose:
            traceback.print_exc()
        err.print(f"kdcurve: {error}", markup=False)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: add the options for places, turn faults into one line."""

    @functools.wraps(function)
    def call(*, verbose: bool, **arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in _PLACES if name != "verbose"}
        with _faults_in_one_line(verbose):
            function(places=Places.at(**chosen), verbose=verbose, **arguments)

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
    return call


_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Launch": (
        launch.search,
        launch.resume,
        cluster.attach,
        cluster.stop,
        launch.status,
        launch.list_,
    ),
    "Ask": (ask.best, ask.compare, ask.curve, ask.fit, ask.predict, ask.report, ask.subset),
    "Test": (test.confirm, test.export),
    "Simulate": (simulate.simulate, simulate.table),
    "Upkeep": (upkeep.sync, upkeep.rerun, upkeep.clean, upkeep.delete),
}
"""All commands by panel of the help, in the order in which a newcomer needs them."""
for _panel, _functions in _COMMANDS.items():
    for _function in _functions:
        _name = _function.__name__.rstrip("_")
        app.command(_name, rich_help_panel=_panel)(_command(_function))
app.command(rich_help_panel="Launch")(launch.schema)
_cluster = typer.Typer(no_args_is_help=True, context_settings=app.info.context_settings)
_cluster.command()(_faults_in_one_line()(cluster.check))
_cluster.command("watch-node")(_faults_in_one_line()(cluster.watch_node))
app.add_typer(
    _cluster, name="cluster", help="Files of Ray's cluster launcher.", rich_help_panel="Launch"
)


def main() -> None:
    """Entry point of the command."""
    sys.exit(app())

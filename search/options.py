"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="Name of a search.", show_default=False)]
Names = Annotated[
    list[str], typer.Argument(help="Names of one search or more.", show_default=False)
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over", help="The process that had it, on another machine, is gone for good."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="A running Ray cluster: http://… launches a job there, ray://… or HOST:PORT runs the "
        "search from here; by default Ray starts on this machine."
    ),
]
Cluster = Annotated[
    Path | None,
    typer.Option(
        help="File of a cluster that is up: a tunnel to it is opened, instead of ADDRESS."
    ),
]
WorkingDir = Annotated[
    Path | None,
    typer.Option(help="Folder with modules of your own, sent to the cluster; FILE lies in it."),
]
NoPreflight = Annotated[
    bool,
    typer.Option("--no-preflight", help="Do not look at every machine of a cluster first."),
]

"""Arguments and options that several commands take."""

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

"""The commands for clusters: check a cluster file."""

from pathlib import Path
from typing import Annotated

import typer

from search.printing import out


def check(
    file: Annotated[Path, typer.Argument(help="The cluster file (YAML).", show_default=False)],
) -> None:
    """Check a file for `ray up`, all faults at once, before a machine is started.

    Example: `kdcurve cluster check cluster.yaml`
    """
    from search.cluster_file import load_cluster, still_to_do  # noqa: PLC0415  (loads Ray)

    left = still_to_do(load_cluster(file))
    out.print(f"{file}: no faults", markup=False, soft_wrap=True)
    if left:
        out.print("Before ray up:", markup=False)
    for line in left:
        out.print(f"  {line}", markup=False, soft_wrap=True)

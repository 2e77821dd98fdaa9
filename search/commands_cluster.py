"""The commands for clusters: check a cluster file, launch searches there, follow and stop them."""

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.bundle import require_no_secrets, require_own_parts, sent_along
from search.errors import KdcurveError, NotReadyError, UsageError
from search.options import Address, Cluster, Name
from search.places import Places
from search.printing import out, program

if TYPE_CHECKING:
    from search import job

TUNNELLED = "http://127.0.0.1:8265"
"""Where `ray dashboard` puts a cluster."""
SHOWN_AGAIN = 15
"""Lines of the past that following a search again begins with."""
_ANY_SIZE = {"train_samples": 10**9, "classes": 2, "shape": [3, 32, 32]}
"""Stands for a data set that is on the cluster alone: no check of sizes fails."""


@dataclass(frozen=True)
class There:
    """A cluster as the user named it."""

    address: str
    file: Path | None

    @property
    def option(self) -> str:
        """The option that names it."""
        words = ["--cluster", str(self.file)] if self.file else ["--address", self.address]
        return shlex.join(words)


def is_elsewhere(address: str | None, cluster: Path | None) -> bool:
    """Whether a search is to become a job of a cluster."""
    return cluster is not None or (address or "").startswith(("http://", "https://"))


def there(address: str | None, cluster: Path | None) -> There:
    """The cluster that options name; without any, the one at the end of a tunnel."""
    if address and cluster:
        raise UsageError("--address and --cluster name a cluster each; give one of them")
    return There(address or TUNNELLED, cluster)


@contextlib.contextmanager
def _reached(cluster: There) -> Iterator["job.Cluster"]:
    """The Jobs API of a cluster, through a tunnel if its file is all that is known."""
    try:
        from search import job  # noqa: PLC0415  (loads Ray)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"launching on a cluster needs {error.name}: pip install 'kdcurve[cluster]'"
        ) from error
    if cluster.file is None:
        yield job.Cluster(cluster.address)
        return
    from search.tunnel import tunnel  # noqa: PLC0415

    out.print(f"opening a tunnel to the head of {cluster.file}", markup=False)
    with tunnel(cluster.file) as address:
        yield job.Cluster(address)


def launch_search(
    file: Path,
    name: str | None,
    options: list[str],
    places: Places,
    cluster: There,
    working_dir: Path | None,
) -> None:
    """Launch a search as a job; what needs its data is checked there.

    Args:
        file: the search file.
        name: replaces the file's.
        options: to pass on.
        places: what is not the default there is passed on as well.
        cluster: where to.
        working_dir: folder to send along.
    """
    from search.specfile import load_spec, shrink  # noqa: PLC0415

    spec = load_spec(file, name, _ANY_SIZE)
    require_own_parts(spec, working_dir)
    search = shrink(spec).name if "--smoke" in options else spec.name
    with sent_along(file, working_dir) as (folder, sent):
        _launch(search, ["search", sent, *options], folder, places, cluster)


def launch_resume(
    name: str,
    file: Path | None,
    options: list[str],
    places: Places,
    cluster: There,
    working_dir: Path | None,
) -> None:
    """Go on with a search as a job; see `launch_search`."""
    from search.specfile import load_spec  # noqa: PLC0415

    if file is not None:
        require_own_parts(load_spec(file, name, _ANY_SIZE), working_dir)
    with sent_along(file, working_dir) as (folder, sent):
        extended = ["--file", sent] if file else []
        _launch(name, ["resume", name, *extended, *options], folder, places, cluster)


def _launch(
    search: str, arguments: list[str], folder: Path, places: Places, cluster: There
) -> None:
    variables = {f"KDCURVE_{name.upper()}": where for name, where in places.named().items()}
    require_no_secrets(variables)  # before a tunnel is opened
    with _reached(cluster) as jobs:
        job = jobs.submit(search, arguments, folder, variables)
        _say(f"{search} runs on the cluster as job {job.id}; it goes on without this machine")
        _follow(jobs, job, cluster)


def attach(
    name: Name,
    places: Places,
    verbose: bool,
    address: Address = None,
    cluster: Cluster = None,
) -> None:
    """Follow a search that runs on a cluster; Ctrl-C leaves it running.

    Example: `kdcurve attach demo --cluster cluster.yaml`
    """
    where = there(address, cluster)
    with _reached(where) as jobs:
        job = jobs.newest(name)
        printed = jobs.printed(job)
        _show("".join(printed.splitlines(keepends=True)[-SHOWN_AGAIN:]))
        _follow(jobs, job, where, len(printed))


def stop(
    name: Name,
    places: Places,
    verbose: bool,
    address: Address = None,
    cluster: Cluster = None,
) -> None:
    """Stop a search on a cluster, cleanly: `kdcurve resume` goes on with it.

    Example: `kdcurve stop demo --cluster cluster.yaml`
    """
    where = there(address, cluster)
    with _reached(where) as jobs:
        job = jobs.newest(name)
        if job.ended:
            _say(f"{name} is not running: {_outcome(job)}")
            return
        seen = len(jobs.printed(job))
        jobs.stop(job)
        job = jobs.follow(job, _show, seen)
        _say(f"{name} {_outcome(job)}. Go on with: {_command('resume', name, where)}")


def _follow(jobs: "job.Cluster", job: "job.Job", cluster: There, seen: int = 0) -> None:
    """Show what a run prints until it ends, and end as it did."""
    with _leaving(job.search, cluster):
        job = jobs.follow(job, _show, seen)
    if job.exit_code == 0:
        return
    for refusal in (UsageError, NotReadyError):
        if job.exit_code == refusal.exit_code:
            raise refusal(f"{job.search} was refused on the cluster")
    _say(f"Go on with: {_command('resume', job.search, cluster)}")
    raise KdcurveError(f"{job.search} {_outcome(job)}")


@contextlib.contextmanager
def _leaving(name: str, cluster: There) -> Iterator[None]:
    """Ctrl-C ends the following alone, and says how to come back."""
    try:
        yield
    except KeyboardInterrupt:
        _say(
            f"\n{name} goes on without this machine.\n"
            f"  follow it: {_command('attach', name, cluster)}\n"
            f"  stop it:   {_command('stop', name, cluster)}"
        )
        raise typer.Exit from None


def _outcome(job: "job.Job") -> str:
    """How a run ended, in words."""
    if job.exit_code is not None:
        return f"ended with exit code {job.exit_code} on the cluster"
    if job.status == "STOPPED":
        return "was stopped"
    cause = job.message.strip().splitlines()
    return f"did not come to its end on the cluster{': ' + cause[0] if cause else ''}"


def _command(verb: str, name: str, cluster: There) -> str:
    return f"{program('kdcurve')} {verb} {name} {cluster.option}"


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def _show(text: str) -> None:
    typer.echo(text, nl=False)


def check(
    file: Annotated[Path, typer.Argument(help="The cluster file (YAML).", show_default=False)],
) -> None:
    """Check a file for `ray up`, all faults at once, before a machine is started.

    Example: `kdcurve cluster check cluster.yaml`
    """
    from search.cluster_file import load_cluster, still_to_do  # noqa: PLC0415  (loads Ray)

    left = still_to_do(load_cluster(file))
    _say(f"{file}: no faults")
    if left:
        _say("Before ray up:")
    for line in left:
        _say(f"  {line}")


def watch_node(
    metadata: Annotated[
        str, typer.Option(help="Address of the metadata service, as AWS has it.")
    ] = "http://169.254.169.254",
    address: Annotated[str, typer.Option(help="Of the Ray cluster.")] = "auto",
    node_id: Annotated[str | None, typer.Option(help="Ray's; by default this machine's.")] = None,
) -> None:
    """Wait on a worker for a spot notice or SIGTERM; then its trials checkpoint and go elsewhere.

    Example: `kdcurve cluster watch-node`
    """
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from search.notices import Metadata, drain_node, watch  # noqa: PLC0415  (each loads its own)

    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())

    def drain(why: str, left_s: float) -> None:
        _say(f"{why}: this machine has {left_s:.0f} s left; Ray is told")
        drain_node(why, left_s, address, node_id)

    _say(f"watching for a notice from {metadata}")
    watch(Metadata(metadata), drain, terminated, _say)

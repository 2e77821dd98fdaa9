"""What trials share, made once as Ray tasks before the first of them: data, scores, teachers."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger
from search.places import Places
from search.plan import counted, shared_artifacts, stages
from search.recovery import cause_of, reason_of
from search.space import SearchSpec
from trainables.cache import exists
from trainables.config import Artifact
from trainables.memory import keep_freed
from trainables.problem import parts, prepare, prepare_part
from trainables.threads import pin_threads

PROGRESS_EVERY_S = 10.0

Say = Callable[[str], None]


def prepare_shared(
    spec: SearchSpec,
    places: Places,
    ledger: Ledger,
    say: Say,
    needed: Sequence[Artifact] | None = None,
) -> None:
    """Make what is shared, or find it in the cache.

    In stages, since what comes later needs what comes before. The seeds of scores and the shards
    of tables are tasks of their own, each cached, so that what is interrupted goes on where it was.

    Args:
        spec: the search.
        places: where the cache is.
        ledger: takes note of what is there.
        say: takes note of a line for the user.
        needed: what is needed, in the order in which it is made; by default all that some trial
            of the search may need.

    Raises:
        KdcurveError: something could not be made; the message says what and why.
    """
    needed = shared_artifacts(spec) if needed is None else needed
    if not needed:
        return
    say(f"preparing {counted(needed)}")
    board = _Board.remote()  # type: ignore[attr-defined]
    for stage in stages(needed):
        tasks = {
            _start(spec, places, board, artifact, index): artifact
            for artifact in stage
            if not exists(places.cache, artifact.key)
            for index in range(parts(artifact))
        }
        for _ in _finished(tasks, board, say):
            pass
        whole = {_start(spec, places, board, artifact): artifact for artifact in stage}
        for artifact, (metadata, seconds) in _finished(whole, board, say):
            if artifact.key not in ledger.prepared:
                ledger.record(
                    EventKind.PREPARED,
                    key=artifact.key,
                    artifact=artifact.model_dump(mode="json", exclude={"dataset"}),
                    metadata=metadata,
                    seconds=seconds,
                )
            say(f"  {artifact.label}{_accuracy(metadata)}")


@ray.remote(num_cpus=0)
class _Board:
    """Where tasks write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, int]] = {}

    def note(self, label: str, done: int, total: int) -> None:
        self._parts[label] = (done, total)

    def read(self) -> dict[str, tuple[int, int]]:
        return {label: part for label, part in self._parts.items() if part[0] < part[1]}


def _start(
    spec: SearchSpec, places: Places, board: Any, artifact: Artifact, part: int | None = None
) -> Any:
    resources = spec.resources
    task = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu)(_make)
    dump = artifact.model_dump(mode="json")
    return task.remote(type(artifact), dump, part, places.cache, resources.cpu, board)


def _make(
    kind: type[Artifact],
    dump: dict[str, Any],
    part: int | None,
    cache: Path,
    cpus: float,
    board: Any,
) -> tuple[dict[str, str], float]:
    """Metadata of what was made or found in the cache, and the seconds that took."""
    pin_threads(cpus)
    keep_freed()
    began = time.perf_counter()
    artifact = kind.model_validate(dump)
    label = artifact.label if part is None else f"{artifact.label}, part {part + 1}"

    def progress(done: int, total: int) -> None:
        board.note.remote(label, done, total)

    if part is None:
        metadata = prepare(artifact, cache, progress)
    else:
        prepare_part(artifact, part, cache, progress)
        metadata = {}
    return metadata, time.perf_counter() - began


def _finished(
    waiting: dict[Any, Artifact], board: Any, say: Say
) -> Iterator[tuple[Artifact, tuple[dict[str, str], float]]]:
    """Results as they come, with a line now and then on what takes long."""
    waiting = dict(waiting)
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=PROGRESS_EVERY_S)
        if not done:
            under_way = ray.get(board.read.remote()).items()
            shown = ", ".join(f"{label} {100 * n / total:.0f}%" for label, (n, total) in under_way)
            if shown:
                say(f"  {shown}")
        for future in done:
            artifact = waiting.pop(future)
            try:
                yield artifact, ray.get(future)
            except ray.exceptions.RayError as error:
                way_on = (
                    "a changed search file needs another name"
                    if cause_of(error) is None
                    else "once that is mended, `kdcurve resume` goes on"
                )
                raise KdcurveError(
                    f"could not prepare the {artifact.label}: {reason_of(error)}; {way_on}"
                ) from error


def _accuracy(metadata: dict[str, str]) -> str:
    accuracy = metadata.get("val_accuracy")
    return f": validation accuracy {100 * float(accuracy):.1f}%" if accuracy else ""

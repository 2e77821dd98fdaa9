"""What searches leave on the storage: who still needs it, and the rest removed."""

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from search.errors import KdcurveError
from search.journal import Journal
from search.lease import running
from search.places import Places
from search.plan import shared_artifacts
from search.standing import Standing, recorded_spec, standing

RECENT_S = 3600.0
"""What was written within this time may be in use by a process that this record does not know."""
_UNFINISHED = re.compile(r"\..+\.safetensors\.[0-9a-f]{32}")


class What(StrEnum):
    """Kinds of things that are left."""

    TEACHERS = "teachers"
    SCORES = "scores"
    SOFT_LABELS = "soft labels"
    IMAGES = "decoded images"
    CHECKPOINTS = "checkpoints"
    CONFIRMED = "confirmed students"
    TUNE = "Tune's working files"
    UNFINISHED = "unfinished files"
    """Of a process that was killed while it wrote."""


_CACHED = {
    "teacher": What.TEACHERS,
    "scores": What.SCORES,
    "logits": What.SOFT_LABELS,
    "images": What.IMAGES,
}
_PART = re.compile(r"-(seed|shard)\d+$")
"""The scores of one seed, or some views of a table: what the whole is put together from."""


@dataclass(frozen=True)
class Leftover:
    """A file, or a folder with all that is in it."""

    what: What
    path: Path
    files: int
    size_bytes: int
    kept_for: str | None
    """Who needs it; None if it can go."""


def survey(places: Places | None = None, *, everything: bool = False) -> list[Leftover]:
    """All that is left on the storage, needed or not.

    Needed are the teachers and scores of searches that are not complete, the checkpoints that
    these go on from, the confirmed students of every recorded search, and all files of a search
    that some process runs. A storage that several records share is cleaned by what one of them
    knows: files of the others count as needed for an hour after they were written.

    Args:
        places: where things live; ``./kdcurve-data`` by default.
        everything: only searches that some process runs need teachers and scores.

    Raises:
        KdcurveError: there is no record, so that nothing is known of what is needed.
    """
    places = places or Places.at()
    journal = Journal(places.record, create=False)
    known = {name: standing(journal, name) for name in journal.searches()}
    held = {name: f"{name} (running)" for name in running(journal)}
    resumable = {name: f"{name} ({known[name].state})" for name in known if known[name].resumable}
    users = _cache_users(journal, known, held if everything else {**resumable, **held})
    found = [
        _leftover(what, path, user)
        for path in sorted(places.cache.glob("*.safetensors"))
        if (what := _CACHED.get(path.name.partition("-")[0]))
        # Images are named by the files they come from: any search may be the one to need them.
        for user in [
            next(iter(users.values()), None)
            if what is What.IMAGES
            else users.get(_PART.sub("", path.stem))
        ]
    ]
    # Of Tune's files nothing is read back, so that they matter to their own process only.
    folders = {
        What.CHECKPOINTS: (places.checkpoints, {**resumable, **held}),
        What.CONFIRMED: (places.confirmed, {name: name for name in known}),
        What.TUNE: (places.tune, held),
    }
    for what, (parent, needed_by) in folders.items():
        for folder in _subfolders(parent):
            foreign = folder.name not in known and folder.name not in held
            found.append(_leftover(what, folder, needed_by.get(folder.name), foreign=foreign))
    gone = {each.path for each in found if each.kept_for is None}
    for parent in (places.cache, places.checkpoints, places.confirmed):
        found += [
            _leftover(What.UNFINISHED, path, None, foreign=True)
            for path in sorted(parent.rglob(".*.safetensors.*"))
            if _UNFINISHED.fullmatch(path.name) and gone.isdisjoint(path.parents)
        ]
    return found


def clean(
    places: Places | None = None,
    *,
    everything: bool = False,
    only: Collection[Path] | None = None,
) -> list[Leftover]:
    """Remove what nobody needs; teachers and scores are made again when they are needed.

    Args:
        places: as for `survey`.
        everything: as for `survey`.
        only: remove nothing but this, e.g. what a user agreed to some time ago.

    Returns:
        What was removed.

    Raises:
        KdcurveError: as `survey`, or something cannot be removed; the rest was.
    """
    removed, failures = [], []
    for each in survey(places, everything=everything):
        if each.kept_for is not None or (only is not None and each.path not in only):
            continue
        try:
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink(missing_ok=True)
        except OSError as error:
            failures.append(f"{error.filename or each.path}: {error.strerror}")
        else:
            removed.append(each)
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise KdcurveError(f"cannot remove {failures[0]}{more}")
    return removed


def _cache_users(
    journal: Journal, known: dict[str, Standing], needed_by: dict[str, str]
) -> dict[str, str]:
    """Who needs which teachers and scores, by their keys."""
    users = {}
    for name, user in needed_by.items():
        if name in known:  # one that has just been launched has made nothing yet
            for artifact in shared_artifacts(recorded_spec(journal, name)):
                users[artifact.key] = user
    return users


def _subfolders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir() and not path.is_symlink())


def _leftover(what: What, path: Path, kept_for: str | None, *, foreign: bool = False) -> Leftover:
    """Measure what lies at a path; if `foreign`, nothing is known of who may be at it."""
    if kept_for is None and foreign:
        newest = max((found.st_mtime for found in _stats(path)), default=0.0)
        if time.time() - newest < RECENT_S:
            kept_for = "whoever wrote it within the last hour"
    return Leftover(what, path, *measure(path), kept_for)


def measure(path: Path) -> tuple[int, int]:
    """How many files a file or folder is, and how many bytes they take."""
    sizes = [found.st_size for found in _stats(path) if not stat.S_ISDIR(found.st_mode)]
    return len(sizes), sum(sizes)


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and all that is in it."""
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with contextlib.suppress(FileNotFoundError):  # whose search goes on
            yield each.lstat()

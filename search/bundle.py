"""What goes to a cluster with a job: the search file, a user's own modules, and no secrets."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.secrets import redacted
from search.errors import UsageError
from trainables.config import is_own

if TYPE_CHECKING:
    from search.space import SearchSpec


def require_own_parts(spec: "SearchSpec", working_dir: Path | None) -> None:
    """Refuse a search whose modules would not be sent along.

    Raises:
        UsageError: it names parts of the user's own, and no folder is sent.
    """
    own = sorted(set(_own_parts(spec.model_dump(exclude_none=True))))
    if own and working_dir is None:
        raise UsageError(
            f"the search file names parts of your own ({', '.join(own)}); --working-dir DIR sends "
            "the folder with their modules along"
        )


def _own_parts(value: Any) -> Iterator[str]:
    """Functions of the user's own that a search file names, `package.module:function`."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _own_parts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _own_parts(part)
    elif isinstance(value, str) and is_own(value):
        yield value


@contextlib.contextmanager
def sent_along(file: Path | None, working_dir: Path | None) -> Iterator[tuple[Path, str]]:
    """The folder to send along, and the search file's path in it.

    Args:
        file: the search file, if there is one.
        working_dir: the user's folder, sent as it is; without it, the search file alone is sent.

    Raises:
        UsageError: the folder is not there, or the file is not in it.
    """
    if working_dir is not None:
        if not working_dir.is_dir():
            raise UsageError(f"--working-dir {str(working_dir)!r}: there is no such folder")
        folder = working_dir.resolve()
        inside = file is None or file.resolve().is_relative_to(folder)
        if not inside:
            raise UsageError(f"--working-dir {str(working_dir)!r}: {file} does not lie in it")
        yield folder, str(file.resolve().relative_to(folder)) if file else ""
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "README").write_text("What a search was launched with.\n")  # never empty
        if file is not None:
            shutil.copyfile(file, folder / "search.yaml")
        yield folder, "search.yaml"


def require_no_secrets(places: Mapping[str, str]) -> None:
    """Refuse places that hold a password: everybody on the cluster can read a job's environment.

    Raises:
        UsageError: one does.
    """
    for name, value in places.items():
        if redacted(value) != value:
            raise UsageError(
                f"{name}: {redacted(value)!r} holds a password, which everybody on the cluster "
                "could read; leave it out and put it into ~/.pgpass or ~/.mlflow/credentials "
                "on the head"
            )

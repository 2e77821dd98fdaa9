"""Scores that a user brings in a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.config import ScoresFile

INDEX, SCORE = "index", "score"
"""Names of the columns of a table of scores."""

Column = np.ndarray[Any, Any]


def read_scores(brought: ScoresFile, samples: int) -> Tensor:
    """Read a score for every sample of the training split, validation already set aside.

    A `.npy` file holds an array `[n]` in the order of the split. A `.csv` or `.parquet` file
    holds one column, or one named `score`, and maybe one named `index`: positions in the split,
    each of 0 to n - 1 once, in any order.

    Args:
        brought: the file; its suffix tells its kind.
        samples: n.

    Returns:
        float64 `[n]`, finite, higher = harder; double, so that no two scores become one.

    Raises:
        ValueError: there is no such file, it is not the one that the search was planned with, or
            it holds something else; the message says what.
    """
    path = Path(brought.file)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise _fault(path, f"its suffix is {path.suffix!r}; allowed: {', '.join(READERS)}")
    if not path.is_file():
        raise _fault(path, f"there is no such file (looked for in {Path.cwd()})")
    try:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        columns = read(path)
    except Exception as error:
        cause = (str(error).splitlines() or [repr(error)])[0]
        raise _fault(path, f"it cannot be read: {cause}") from error
    if brought.sha256 not in (None, found):
        raise _fault(
            path,
            "it is not the one that the search was planned with: its SHA-256 is "
            f"{found} instead of {brought.sha256}",
        )
    names = [name for name in columns if name != INDEX]
    if len(names) != 1 and SCORE not in names:
        found = ", ".join(map(repr, columns)) or "missing"
        raise _fault(
            path, f"its columns are {found}; allowed: one, or one named {SCORE!r}, and {INDEX!r}"
        )
    values = _numbers(path, columns[SCORE if SCORE in names else names[0]], samples)
    return _in_order(path, columns[INDEX], values) if INDEX in columns else values


def _numbers(path: Path, scores: Column, samples: int) -> Tensor:
    """Scores as they stand in the file, checked."""
    if scores.shape != (samples,):
        shape = "×".join(map(str, scores.shape)) or "a single number instead of"
        raise _fault(path, f"{shape} scores for the {samples} samples of the training split")
    if scores.dtype.kind not in "iuf":
        strange = next((v for v in scores.tolist() if not isinstance(v, int | float)), scores[0])
        raise _fault(path, f"{strange!r} is no score; allowed: finite numbers")
    values = torch.from_numpy(scores.astype(np.float64))
    bad = torch.nonzero(~torch.isfinite(values)).flatten()
    if len(bad):
        first = int(bad[0])
        raise _fault(
            path,
            f"score {first} (counted from 0) is {values[first].item()}, one of {len(bad)} that are "
            "not finite; allowed: finite numbers",
        )
    return values


def _in_order(path: Path, index: Column, values: Tensor) -> Tensor:
    """Scores in the order of the split, each position being there once."""
    samples = len(values)
    if index.dtype.kind not in "iu":
        raise _fault(path, f"its column {INDEX!r} is of type {index.dtype}; allowed: whole numbers")
    outside = index[(index < 0) | (index >= samples)]
    if len(outside):
        raise _fault(path, f"index {outside[0]} is not of the split; allowed: 0 to {samples - 1}")
    keys, times = np.unique(index, return_counts=True)
    if len(keys) < samples:
        which = times.argmax()
        raise _fault(path, f"index {keys[which]} is there {times[which]} times; allowed: once")
    ordered = torch.empty_like(values)
    ordered[torch.from_numpy(index.astype(np.int64))] = values
    return ordered


def _fault(path: Path, what: str) -> ValueError:
    return ValueError(f"scores file {path}: {what}")


def _read_npy(path: Path) -> dict[str, Column]:
    return {SCORE: np.load(path, allow_pickle=False)}


def _read_csv(path: Path) -> dict[str, Column]:
    import pandas as pd  # noqa: PLC0415  (slow; other methods do without)

    table = pd.read_csv(path)
    if len(table.columns) == 1 and _is_number(table.columns[0]):
        table = pd.read_csv(path, header=None)  # a column without a name
    return {str(name): table[name].to_numpy() for name in table.columns}


def _read_parquet(path: Path) -> dict[str, Column]:
    import pandas as pd  # noqa: PLC0415  (slow; other methods do without)

    table = pd.read_parquet(path)
    if table.index.name == INDEX:
        table = table.reset_index()
    return {str(name): table[name].to_numpy() for name in table.columns}


READERS: dict[str, Callable[[Path], dict[str, Column]]] = {
    ".npy": _read_npy,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""How each kind of file is read into columns by name, by suffix."""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

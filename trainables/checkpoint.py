"""A training on disk, for another process to go on with: tensors and JSON, no pickles.

A folder belongs to one training. Every file is a whole checkpoint, written atomically with
a checksum; two are kept, so that there is one left if the newest proves damaged.
"""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables import cache
from trainables.engine import Metrics

logger = logging.getLogger(__name__)

_KEPT = 2
_NAME = re.compile(r"epoch-(\d{6,})\.safetensors")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after so many epochs."""

    epoch: int
    state: dict[str, Any]
    """What `load_state_dict` takes, all tensors on the CPU."""
    reports: list[Metrics]
    """Metrics of every epoch so far."""


def trial_folder(checkpoints: Path, number: int) -> Path:
    """The folder of one trial within its search's."""
    return checkpoints / f"trial-{number}"


def student_folder(checkpoints: Path, key: str) -> Path:
    """The folder of a confirmation's student within its search's."""
    return checkpoints / f"student-{key}"


def save(folder: Path, epoch: int, state: dict[str, Any], reports: list[Metrics]) -> Path:
    """Write a checkpoint, then remove all others but the newest before it.

    Args:
        folder: of this training alone; created if missing.
        epoch: epochs done.
        state: dicts, lists and tuples of tensors, strings, numbers, booleans and None, all of
            which come back as they were (subclasses of them as the plain type).
        reports: metrics of every epoch so far.

    Returns:
        Path of the file.

    Raises:
        OSError: it could not be written; those before it are still there.
        TypeError: the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {"state": json.dumps(_pack(state, tensors)), "reports": json.dumps(reports)}
    path = cache.store(folder, _key(epoch), tensors, metadata)
    # Newer ones were of no use to this training, or it would have continued from them.
    kept = [other for other in _epochs(folder) if other <= epoch][-_KEPT:]
    _remove(folder, [other for other in _epochs(folder) if other not in kept])
    return path


def newest_first(folder: Path) -> Iterator[Checkpoint]:
    """Read the good checkpoints one by one; a warning names each that cannot be read."""
    for epoch in reversed(_epochs(folder)):
        try:
            checkpoint = _load(folder, epoch)
        except (cache.DamagedError, OSError) as error:
            logger.warning("%s; trying the checkpoint before it", error)
        else:
            yield checkpoint


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest good checkpoint, None if there is none."""
    return next(newest_first(folder), None)


def discard_after(folder: Path, epoch: int) -> None:
    """Remove all checkpoints newer than the one that was good enough to go on from.

    They would otherwise count among the two that are kept.
    """
    _remove(folder, [newer for newer in _epochs(folder) if newer > epoch])


def _key(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


def _epochs(folder: Path) -> list[int]:
    """Epochs of the checkpoints in a folder, ascending."""
    names = (_NAME.fullmatch(path.name) for path in folder.glob("epoch-*"))
    return sorted(int(name[1]) for name in names if name)


def _remove(folder: Path, epochs: list[int]) -> None:
    for epoch in epochs:
        (folder / f"{_key(epoch)}.safetensors").unlink(missing_ok=True)


def _load(folder: Path, epoch: int) -> Checkpoint:
    tensors, metadata = cache.load(folder, _key(epoch))
    try:
        state = _unpack(json.loads(metadata["state"]), tensors)
        reports = json.loads(metadata["reports"])
    except (KeyError, TypeError, ValueError) as error:
        path = folder / f"{_key(epoch)}.safetensors"
        raise cache.DamagedError(f"{path} is damaged: {error!r}") from error
    return Checkpoint(epoch, state, reports)


def _pack(value: object, tensors: dict[str, Tensor]) -> object:
    """JSON for a value; its tensors go to `tensors` and leave their name behind.

    A dictionary becomes pairs, because a JSON object would turn its keys into strings.
    """
    match value:
        case Tensor():
            name = str(len(tensors))
            # Copied, because safetensors refuses tensors that share memory.
            tensors[name] = value.detach().to(
                "cpu", copy=True, memory_format=torch.contiguous_format
            )
            return {"tensor": name}
        case dict():
            return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
        case tuple():
            return {"tuple": [_pack(item, tensors) for item in value]}
        case list():
            return [_pack(item, tensors) for item in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": pairs}:
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in pairs}
        case {"tuple": items}:
            return tuple(_unpack(item, tensors) for item in items)
        case list():
            return [_unpack(item, tensors) for item in value]
    return value

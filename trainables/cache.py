"""What is expensive is made once: a folder of safetensors files named by content.

A key names all that determines a file's content, so a file is never updated, only
made. Writing is atomic; a checksum is verified on every read, because a cache on shared
storage outlives the process (and the disk) that wrote it.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

logger = logging.getLogger(__name__)

Entry = tuple[dict[str, Tensor], dict[str, str]]
"""Named tensors and string metadata."""

_CHECKSUM = "sha256"


class DamagedError(ValueError):
    """A cached file is not what was written."""


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # What safetensors would write, but without a copy of a table that fills half the memory.
        digest.update(_header(tensor))
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header(tensor: Tensor) -> bytes:
    """What `safetensors.torch.save({"": tensor})` writes before the tensor's bytes."""
    saved = safetensors.torch.save({"": tensor.new_empty(0)})
    entry = json.loads(saved[8:])[""]
    entry |= {"shape": list(tensor.shape), "data_offsets": [0, tensor.nbytes]}
    text = json.dumps({"": entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def exists(folder: Path, key: str) -> bool:
    """Whether a file of this key is there (it may still prove damaged when read)."""
    return _path(folder, key).is_file()


def load(folder: Path, key: str, *, mapped: bool = False) -> Entry:
    """Read and verify a cached file.

    Args:
        folder: the cache.
        key: name of the content.
        mapped: leave the tensors in the file and map it into memory, where all processes of a
            machine share its pages; they are not to be changed.

    Raises:
        FileNotFoundError: nothing is cached under this key.
        DamagedError: the file is truncated or altered; the message names it.
    """
    path = _path(folder, key)
    try:
        if mapped:
            tensors = safetensors.torch.load_file(path)
            with path.open("rb") as file:
                header = file.read(int.from_bytes(file.read(8), "little"))
        else:
            content = path.read_bytes()
            tensors = safetensors.torch.load(content)
            header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        metadata = json.loads(header).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    expected = metadata.pop(_CHECKSUM, None)
    if expected != _checksum(tensors, metadata):
        raise DamagedError(f"{path} is damaged: its checksum does not match its content")
    return tensors, metadata


def store(folder: Path, key: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write a file that is there wholly and verifiably, or not at all.

    Args:
        folder: created if missing.
        key: name of the content; a file of this name is replaced.
        tensors: by name, contiguous, on the CPU, none sharing memory with another.
        metadata: strings by name.

    Returns:
        Path of the file.

    Raises:
        OSError: it could not be written.
    """
    path = _path(folder, key)
    stamped = {**metadata, _CHECKSUM: _checksum(tensors, metadata)}
    folder.mkdir(parents=True, exist_ok=True)
    # In the same folder: only within one file system is the renaming atomic.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        safetensors.torch.save_file(tensors, temporary, stamped)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def discard(folder: Path, key: str) -> None:
    """Remove a cached file, if it is there; who has it mapped into memory keeps it."""
    _path(folder, key).unlink(missing_ok=True)


def get_or_make(
    folder: Path, key: str, make: Callable[[], Entry], *, mapped: bool = False
) -> Entry:
    """Read what is cached under `key`, or make and store it.

    Two processes that make the same key at once both work; the later file replaces the
    earlier, equal one.

    Args:
        folder: the cache; created if missing.
        key: name of the content; must hash everything that determines it.
        make: returns tensors and string metadata; called if the file is missing or damaged.
        mapped: as for `load`.
    """
    if exists(folder, key):
        try:
            return load(folder, key, mapped=mapped)
        except DamagedError as error:
            logger.warning("%s; making it again", error)
    tensors, metadata = make()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    store(folder, key, tensors, metadata)
    return load(folder, key, mapped=True) if mapped else (tensors, metadata)

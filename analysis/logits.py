"""Reads the validation logits that complete trials left in a search's folder, without torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.record import VAL_LABELS, VAL_LOGITS, logits_key


@dataclass(frozen=True, eq=False)
class ValidationLogits:
    """Logits of some trials on the same validation samples."""

    numbers: tuple[int, ...] = ()
    """Trials that were read, in the order asked for."""
    logits: NDArray[np.float16] = field(default_factory=lambda: np.empty((0, 0, 0), np.float16))
    """`[trials, v, classes]`."""
    labels: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """`[v]`."""
    skipped: dict[int, str] = field(default_factory=dict)
    """Trials that were not, with the reason: the file is missing, damaged or of other samples."""


def load_logits(folder: Path, numbers: Iterable[int]) -> ValidationLogits:
    """Read what is there of some trials; what is not there, or unusable, is counted.

    A search's logits may fill the memory many times over: ask for those of one context and seed.

    Args:
        folder: of a search.
        numbers: of trials.
    """
    read: dict[int, NDArray[np.float16]] = {}
    skipped: dict[int, str] = {}
    labels: NDArray[np.int32] | None = None
    for number in dict.fromkeys(numbers):
        try:
            found, of_samples = _read(folder / f"{logits_key(number)}.safetensors")
        except FileNotFoundError:
            skipped[number] = "missing"
            continue
        except (OSError, ValueError) as error:
            skipped[number] = f"damaged: {error}"
            continue
        labels = of_samples if labels is None else labels
        first = next(iter(read.values()), found)
        if not np.array_equal(of_samples, labels) or found.shape != first.shape:
            skipped[number] = "of other samples than the first"
            continue
        read[number] = found
    if labels is None:
        return ValidationLogits(skipped=skipped)
    return ValidationLogits(tuple(read), np.stack(list(read.values())), labels, skipped)


def _read(path: Path) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Logits `[v, classes]` and labels `[v]` of one file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it does not hold what a trial writes.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  (only where there are logits)
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        tensors = load(path.read_bytes())
        logits, labels = tensors[VAL_LOGITS], tensors[VAL_LABELS]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    except KeyError as error:
        raise ValueError(f"it holds no {error.args[0]}") from error
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):  # noqa: PLR2004
        raise ValueError(f"logits {logits.shape} do not fit to labels {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels {labels.min()} to {labels.max()} of {logits.shape[1]} classes")
    return logits, labels

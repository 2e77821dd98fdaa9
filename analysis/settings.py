"""Places on the response surface, and what was observed there: arrays, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Settings:
    """Places on the surface, `[n]` each; a scalar stands for all.

    Args:
        context: index of the context, >= 0: noise, seed effects and a part of the shape are its
            own.
        method: code of the pruning method. Contexts that differ in something named nowhere
            here (data set, student, label noise) need codes of their own: trials of one
            method and fraction share their level at KD weight 0, where no teacher acts.
        fraction: f, in (0, 1].
        teacher: code of the teacher.
        teacher_fraction: in (0, 1].
        temperature: τ > 0.
        kd_weight: α, in [0, 1].

    Raises:
        ValueError: a value that is not finite or outside its range, or unequal lengths.
    """

    context: Ints
    method: Ints
    fraction: Floats
    teacher: Ints
    teacher_fraction: Floats
    temperature: Floats
    kd_weight: Floats

    def __post_init__(self) -> None:
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        sizes = {np.size(column) for column in columns.values()}
        length = 1 if sizes == {1} else max(sizes - {1})
        for name, column in columns.items():
            kind = np.int64 if name in ("context", "method", "teacher") else np.float64
            values = _column(name, column, kind)
            if values.size not in (1, length):
                raise ValueError(f"{name}: {values.size} values where there are {length} places")
            object.__setattr__(self, name, np.broadcast_to(values, (length,)))
        for name, low, high in (
            ("context", 0, np.inf),
            ("fraction", np.finfo(np.float64).tiny, 1),
            ("teacher_fraction", np.finfo(np.float64).tiny, 1),
            ("temperature", np.finfo(np.float64).tiny, np.inf),
            ("kd_weight", 0, 1),
        ):
            values = getattr(self, name)
            if length and not (low <= values.min() and values.max() <= high):
                raise ValueError(f"{name}: outside its range: {values.min():g}..{values.max():g}")

    def __len__(self) -> int:
        return len(self.context)

    def take(self, index: ArrayLike | slice) -> "Settings":
        """The places at these positions, in a slice, or where a mask is true."""
        rows = index if isinstance(index, slice) else np.asarray(index)
        return _checked(*(getattr(self, name)[rows] for name in _COLUMNS))

    def replace(self, **columns: ArrayLike) -> "Settings":
        """The same places with other values in these columns."""
        return Settings(
            **{each.name: columns.get(each.name, getattr(self, each.name)) for each in fields(self)}
        )

    def distinct(self) -> tuple["Settings", Ints]:
        """The different places among these, and which of them each is, `[n]`."""
        columns = np.column_stack([getattr(self, each.name) for each in fields(self)])
        rows = np.ascontiguousarray(columns).view(np.dtype((np.void, columns.itemsize * 7))).ravel()
        _, first, which = np.unique(rows, return_index=True, return_inverse=True)
        return self.take(first), which

    @staticmethod
    def concatenate(parts: Sequence["Settings"]) -> "Settings":
        """Places one after the other."""
        return _checked(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS)
        )


_COLUMNS = tuple(each.name for each in fields(Settings))


def _checked(*columns: NDArray[np.generic]) -> Settings:
    """Settings of columns that come from others: they were checked when those were made."""
    made = object.__new__(Settings)
    for name, column in zip(_COLUMNS, columns, strict=True):
        object.__setattr__(made, name, column)
    return made


@dataclass(frozen=True, eq=False)
class Observations:
    """What finished trials returned.

    Args:
        at: where, n places.
        value: `[n]`, finite, higher is better, in any one unit.
        seed: `[n]`, of the trial.
        extra_noise: variance of each value beyond a trial's own noise, `[n]`, >= 0, in squared
            units of `value`: for values that were inferred, not measured.

    Raises:
        ValueError: values that are not finite, a negative variance, or unequal lengths.
    """

    at: Settings
    value: Floats
    seed: Ints
    extra_noise: Floats | None = None

    def __post_init__(self) -> None:
        for name, kind in (("value", np.float64), ("seed", np.int64), ("extra_noise", np.float64)):
            if (column := getattr(self, name)) is None:
                continue
            values = _column(name, column, kind)
            if len(values) != len(self.at):
                raise ValueError(f"{name}: {len(values)} values at {len(self.at)} places")
            object.__setattr__(self, name, values)
        if self.extra_noise is not None and (self.extra_noise < 0).any():
            raise ValueError("extra_noise: a variance is negative")

    def __len__(self) -> int:
        return len(self.value)

    def take(self, index: ArrayLike) -> "Observations":
        """Those at these positions, or where a mask is true."""
        rows = np.asarray(index)
        extra = None if self.extra_noise is None else self.extra_noise[rows]
        return Observations(self.at.take(rows), self.value[rows], self.seed[rows], extra)


def evenly(most: int, *keys: NDArray[Any]) -> Ints:
    """Positions of at most so many rows, ascending: every k-th in the order of some keys.

    Args:
        most: how many are kept, >= 1.
        keys: `[n]` each, the one that counts most last, as `numpy.lexsort` has it.
    """
    order = np.lexsort(keys)
    kept = min(most, len(order))
    at = np.linspace(0, len(order) - 1, kept).round().astype(np.int64)
    rows: Ints = np.sort(order[at])
    return rows


def _column(name: str, column: ArrayLike, kind: type[np.generic]) -> NDArray[np.generic]:
    values = np.atleast_1d(np.asarray(column))
    if values.ndim != 1:
        raise ValueError(f"{name}: an array of {values.ndim} dimensions where one is expected")
    if not np.isfinite(values.astype(np.float64)).all():
        raise ValueError(f"{name}: a value is not finite")
    return values.astype(kind)

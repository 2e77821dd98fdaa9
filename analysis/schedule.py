"""Schedules: a pure function fraction → KD weight, saved as JSON, loaded and applied.

Applying a schedule needs NumPy and pydantic only: a training script can load one without
MLflow, Ray, torch, pandas or scipy. `scheduling` fits them.
"""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, JsonValue, ValidationError

from analysis import laws
from analysis.document import (
    READ_VERSIONS,
    Floats,
    Format1,
    HeldOut,
    KnotsLaw,
    Law,
    LeftOut,
    LineLaw,
    Part,
    evaluate,
)
from analysis.errors import AnalysisError, known
from analysis.laws import outside

MAX_NAMED = 5
"""Fractions that a warning names."""


class ExtrapolationWarning(UserWarning):
    """A schedule was asked for a fraction outside the range it was fitted on."""


class Schedule(Part):
    """A fitted function fraction → KD weight, one law per method and teacher."""

    format_version: Literal[2] = 2
    laws: tuple[Law, ...] = Field(min_length=1)
    choice: str = ""
    """How the family was chosen, in words."""
    held_out: tuple[HeldOut, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, JsonValue] = Field(default_factory=dict)

    @overload
    def __call__(
        self, fraction: float, *, method: str | None = None, teacher: str | None = None
    ) -> float: ...
    @overload
    def __call__(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> float | Floats: ...
    def __call__(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> float | Floats:
        """The KD weight to use.

        Args:
            fraction: kept fraction(s) in (0, 1], a number or an array of any shape.
            method: pruning method; may be omitted if the schedule knows one only.
            teacher: likewise.

        Returns:
            KD weight(s) in [0, 1], of the shape of `fraction`.

        Raises:
            AnalysisError: unknown or ambiguous method or teacher, or a fraction outside (0, 1].

        Warns:
            ExtrapolationWarning: a fraction lies outside the range fitted on.
        """
        law = self.law(method, teacher)
        fractions = _fractions(fraction)
        beyond = fractions[outside(fractions, *law.range)]
        if beyond.size:
            low, high = law.range
            asked = [f"{each:g}" for each in np.unique(beyond)]
            named = known(asked[:MAX_NAMED]) + (", …" if len(asked) > MAX_NAMED else "")
            warnings.warn(
                f"fraction {named} outside [{low:g}, {high:g}], on which the schedule for "
                f"{law.method}, {law.teacher} was fitted: the KD weight is extrapolated",
                ExtrapolationWarning,
                stacklevel=2,
            )
        return _plain(evaluate(law, fractions))

    def band(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> tuple[float | Floats, float | Floats]:
        """Between what the best KD weight is expected to lie, at the level in `law(...).band`.

        Args:
            fraction: as for `__call__`; outside the range fitted on there is no warning, but
                the band is wide.
            method: likewise.
            teacher: likewise.

        Returns:
            Low and high, in [0, 1], each of the shape of `fraction`.

        Raises:
            AnalysisError: as `__call__`, or the schedule is of format 1, which has no bands.
        """
        law = self.law(method, teacher)
        fractions = _fractions(fraction)
        if law.band is None:
            raise AnalysisError(
                f"the schedule for {law.method}, {law.teacher} has no band: it was fitted by an "
                "earlier kdcurve; fit it again"
            )
        low, high = laws.band(law.band.model_dump(), fractions)
        return _plain(low), _plain(high)

    def table(
        self, fractions: Sequence[float], *, method: str | None = None, teacher: str | None = None
    ) -> list[dict[str, Any]]:
        """A row per fraction, as plain values.

        Returns:
            `fraction`, `method`, `teacher`, `kd_weight`, `low` and `high` of the band (None
            where there is none) and `extrapolated`, whether the fraction lies outside the range
            fitted on.

        Raises:
            AnalysisError: as `__call__`, which also warns.
        """
        law = self.law(method, teacher)
        named = {"method": law.method, "teacher": law.teacher}
        weights = self(fractions, **named)
        inside = self.covers(fractions, **named)
        ends: Any = (
            ([None] * len(fractions),) * 2
            if law.band is None
            else [np.asarray(end).tolist() for end in self.band(fractions, **named)]
        )
        columns = (fractions, np.asarray(weights).tolist(), *ends, np.asarray(inside).tolist())
        return [
            {
                "fraction": fraction,
                **named,
                "kd_weight": weight,
                "low": low,
                "high": high,
                "extrapolated": not covered,
            }
            for fraction, weight, low, high, covered in zip(*columns, strict=True)
        ]

    def covers(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> bool | NDArray[np.bool_]:
        """Whether fraction(s) lie inside the range that the law was fitted on.

        Raises:
            AnalysisError: as `__call__`.
        """
        inside = ~outside(_fractions(fraction), *self.law(method, teacher).range)
        return bool(inside) if np.ndim(inside) == 0 else np.asarray(inside)

    def law(self, method: str | None = None, teacher: str | None = None) -> LineLaw | KnotsLaw:
        """The law of a method and teacher.

        Raises:
            AnalysisError: none or several fit; the message lists the known ones.
        """
        found = list(self.laws)
        for name, value in (("method", method), ("teacher", teacher)):
            there = sorted({str(getattr(law, name)) for law in found})
            if value is None and len(there) > 1:
                raise AnalysisError(f"say which {name}: the schedule knows {known(there)}")
            if value is not None and value not in there:
                raise AnalysisError(
                    f"{name} {value!r} is not one this schedule was fitted on; known: "
                    f"{known(there)}{self._why_not(name, value, method)}"
                )
            found = [law for law in found if value is None or getattr(law, name) == value]
        return found[0]

    def _why_not(self, name: str, value: str, method: str | None) -> str:
        for each in self.left_out:
            if getattr(each, name) == value and (name == "method" or each.method == method):
                return f" ({value} was left out: {each.reason})"
        return ""

    def save(self, path: str | Path) -> None:
        """Write the schedule as JSON, at once or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=2) + "\n")
        temporary = Path(file.name)
        temporary.chmod(0o644)  # a temporary file is for its owner's eyes; a schedule is not
        os.replace(temporary, path)  # noqa: PTH105  (replace, not rename: the same on every system)


def load_schedule(path: str | Path) -> Schedule:
    """Read a schedule that `Schedule.save` wrote, also one of format 1 (which has no bands).

    Raises:
        AnalysisError: no such file, damaged, of another version, or a key missing or wrong.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AnalysisError(f"cannot read schedule {path}: {error.strerror}") from None
    except ValueError as error:
        raise AnalysisError(f"schedule {path} is damaged, not JSON: {error}") from None
    if not isinstance(document, dict):
        raise AnalysisError(f"schedule {path} is damaged: a JSON object is expected")
    version = document.get("format_version")
    if version not in READ_VERSIONS:
        raise AnalysisError(
            f"schedule {path} has format_version {version!r}; this kdcurve reads "
            f"{known(map(str, READ_VERSIONS))}"
        )
    if "laws" not in document:
        raise AnalysisError(f"schedule {path} is damaged: key 'laws' is missing")
    try:
        if version == 1:
            document = Format1.model_validate_json(json.dumps(document)).renewed()
        return Schedule.model_validate_json(json.dumps(document))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise AnalysisError(f"schedule {path} is damaged: {key}: {fault['msg'].lower()}") from None


def _fractions(fraction: ArrayLike) -> Floats:
    fractions = np.asarray(fraction, dtype=np.float64)
    wrong = fractions[~((fractions > 0.0) & (fractions <= 1.0))]
    if wrong.size:
        raise AnalysisError(f"fraction {wrong.flat[0]:g} is not in (0, 1]")
    return fractions


def _plain(values: Floats) -> float | Floats:
    return float(values) if values.ndim == 0 else values

"""The parts of a schedule's document, validated; and documents of format 1."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from analysis.laws import LAWS

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
MIN_FRACTIONS = 2
"""Fractions with an answer that a line through them needs."""

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1.0)]
Floats = NDArray[np.float64]


class Part(BaseModel):
    """Of a document: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Point(Part):
    """One answer of the curve behind a schedule."""

    fraction: Fraction
    kd_weight: Weight
    low: Weight
    high: Weight


class Line(Part):
    """a and b of a + b ln f."""

    intercept: float
    slope: float


class Knots(Part):
    """Values at ascending fractions, to be joined by straight lines in ln f."""

    fractions: tuple[Fraction, ...] = Field(min_length=1)
    values: tuple[Weight, ...]

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        _require_knots(self.fractions, self.values)
        return self


class Band(Part):
    """Between what the best KD weight is expected to lie: knots, as in `Knots`.

    Below the lowest knot anything is possible.
    """

    level: float = Field(gt=0.0, lt=1.0)
    fractions: tuple[Fraction, ...] = Field(min_length=1)
    low: tuple[Weight, ...]
    high: tuple[Weight, ...]

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        _require_knots(self.fractions, self.low)
        _require_knots(self.fractions, self.high)
        return self


class _Law(Part):
    method: str
    teacher: str
    points: tuple[Point, ...] = Field(min_length=MIN_FRACTIONS)
    band: Band | None = None

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest fraction it was fitted on."""
        fractions = [point.fraction for point in self.points]
        return min(fractions), max(fractions)


class LineLaw(_Law):
    """A formula in ln f, for one method and teacher."""

    family: Literal["clipped-log-linear", "logistic"]
    parameters: Line


class KnotsLaw(_Law):
    """KD weights to interpolate between, for one method and teacher."""

    family: Literal["isotonic", "surface"]
    parameters: Knots


Law = Annotated[LineLaw | KnotsLaw, Field(discriminator="family")]


def evaluate(law: LineLaw | KnotsLaw, fractions: Floats) -> Floats:
    """The KD weights of a law, in the shape of the fractions, without any warning."""
    return LAWS[law.family](fractions, **law.parameters.model_dump())


class LeftOut(Part):
    """A method and teacher without a law, and why."""

    method: str
    teacher: str
    reason: str


class HeldOut(Part):
    """What each family would have lost at a fraction whose trials it was not shown."""

    method: str
    teacher: str
    fraction: Fraction
    inside: bool
    """Whether there were smaller and larger fractions to learn from; else it is extrapolation."""
    kd_weight: dict[str, Weight]
    """Of each family."""
    lost: dict[str, float]
    """Score lost against the best KD weight there, by the estimate from all trials."""


class _Law1(Part):
    method: str
    teacher: str
    intercept: float
    slope: float
    points: tuple[Point, ...] = Field(min_length=MIN_FRACTIONS)


class Format1(Part):
    """A document of format 1: clipped log-linear laws, without bands."""

    format_version: Literal[1]
    kind: Literal["clipped-log-linear"]
    laws: tuple[_Law1, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, JsonValue] = {}

    def renewed(self) -> dict[str, Any]:
        """The same in the present format."""
        whole = self.model_dump(exclude={"format_version", "kind"})
        for law in whole["laws"]:
            law["family"] = self.kind
            law["parameters"] = {name: law.pop(name) for name in ("intercept", "slope")}
        return {"format_version": FORMAT_VERSION, **whole}


def _require_knots(fractions: tuple[float, ...], values: tuple[float, ...]) -> None:
    if len(values) != len(fractions):
        raise ValueError(f"{len(values)} values at {len(fractions)} fractions")
    if any(b <= a for a, b in pairwise(fractions)):
        raise ValueError("fractions do not ascend")

"""The sections of a search file, each with what is allowed in it."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from analysis.errors import known
from search.faults import nearest
from trainables.config import (
    FILE,
    METHODS,
    MODEL_FAMILIES,
    RIDGE_MODEL,
    TORCHVISION,
    Fraction,
    KdWeight,
    Strict,
    TeacherFile,
    Temperature,
    is_own,
)
from trainables.record import SEEDS_OF_TRIALS

SAMPLERS = (
    "curve",
    "tpe",
    "random",
    "gp",
    "cmaes",
    "grid",
    "grid-crn",
    "one-epoch-top-k",
    "ray-stock",
)
"""Ways to choose trials; `search/samplers/table.py` has what is behind each name."""


def _known(what: str, names: Iterable[str]) -> AfterValidator:
    allowed = tuple(names)

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"unknown {what}{nearest(value, allowed)} Known: {known(allowed)}.")
        return value

    return AfterValidator(check)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | int | float) else value


def _as_file(value: object) -> object:
    return {"file": value} if isinstance(value, str) else value


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("the same value stands here twice")
    return values


def _or_own(prefix: str, example: str, inner: AfterValidator) -> AfterValidator:
    """Accept what has the prefix or is a user's own part, else ask the table of names."""

    def check(value: str) -> str:
        if (value.startswith(prefix) and value != prefix) or is_own(value):
            return value
        try:
            return str(inner.func(value))  # type: ignore[call-arg]
        except ValueError as error:
            raise ValueError(f"{error} Also {example} and package.module:function.") from None

    return AfterValidator(check)


MethodName = Annotated[str, _or_own(FILE, "file:scores.npy", _known("pruning method", METHODS))]
ModelName = Annotated[
    str,
    _or_own(
        TORCHVISION,
        "torchvision:resnet50",
        _known("architecture", (*MODEL_FAMILIES, RIDGE_MODEL)),
    ),
]


def _sampler(value: str) -> str:
    if value in SAMPLERS or is_own(value):
        return value
    raise ValueError(
        f"unknown sampler{nearest(value, SAMPLERS)} Known: {known(SAMPLERS)}. Also "
        "package.module:Class, a sampler of Optuna's kind."
    )


SamplerName = Annotated[str, AfterValidator(_sampler)]
TeacherWeights = Annotated[TeacherFile, BeforeValidator(_as_file)]
"""A file, or no more than its path."""


class Interval(Strict):
    """A continuous range to tune over."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if self.low >= self.high:
            single = "; one value leaves nothing to tune" if self.low == self.high else ""
            raise ValueError(f"low ({self.low}) must be below high ({self.high}){single}")
        if self.log and self.low <= 0:
            raise ValueError(f"low ({self.low}) must be above 0 on a logarithmic scale")
        return self

    @property
    def middle(self) -> float:
        """Centre of the range on its own scale."""
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2


def _within(limits: Any, text: str) -> AfterValidator:
    adapter: TypeAdapter[float] = TypeAdapter(limits)

    def check(value: Interval) -> Interval:
        for end in (value.low, value.high):
            try:
                adapter.validate_python(end)
            except ValidationError:
                raise ValueError(f"{end} is outside {text}") from None
        return value

    return AfterValidator(check)


class _OneOrMany:
    """Lets the JSON schema of a list accept a single item too, as `_as_list` does."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        many = handler(core_schema)
        return {"anyOf": [many["items"], many]}


T = TypeVar("T")
Values = Annotated[
    list[T],
    BeforeValidator(_as_list),
    Field(min_length=1),
    AfterValidator(_distinct),
    _OneOrMany(),
]
"""One value or a non-empty list of distinct ones."""


class Contexts(Strict):
    """Every combination of these gets an answer of its own."""

    method: Values[MethodName] | None = None
    """Pruning methods."""
    fraction: Values[Fraction]
    """Kept parts of the training split, in (0, 1]."""
    teacher: Values[ModelName] | None = None
    """Teacher architectures."""
    temperature: Values[Temperature] | None = None
    """Temperatures of the KD term, above 0 (4 if named nowhere)."""
    teacher_fraction: Values[Fraction] | None = None
    """Parts of the training split that teachers see, in (0, 1] (1 if named nowhere)."""


class Tune(Strict):
    """Chosen within each context."""

    kd_weight: Annotated[Interval, _within(KdWeight, "[0, 1]")] = Interval(low=0.0, high=1.0)
    temperature: Annotated[Interval, _within(Temperature, "(0, inf)")] | None = None
    teacher_fraction: Values[Fraction] | None = None
    method: Values[MethodName] | None = None
    teacher: Values[ModelName] | None = None


class Seeds(Strict):
    """How many seeds each source of chance gets."""

    trials: int = Field(3, ge=1, le=SEEDS_OF_TRIALS)
    """Seeds shared by all KD weights of a context."""
    teacher: int = Field(1, ge=1)
    """Teachers per architecture; trial seed s learns from teacher s modulo this number."""
    scores: int = Field(10, ge=1)
    """Seeds that pruning scores are averaged over."""


AUTO: Literal["auto"] = "auto"
DEFAULT_GRACE = 1 / 3
"""Share of the budget before the first rung, where nothing else is said."""


def _grace(value: object) -> object:
    if value is None or value == AUTO or (type(value) is int and value >= 1):
        return value
    raise ValueError("allowed: an epoch from 1 on, or auto")


class EarlyStopping(Strict):
    """When a trial is given up before its full budget."""

    name: Literal["asha", "median", "none"] = "asha"
    """`asha`: asynchronous successive halving; `median`: a trial goes on while its best score is
    not below the median of the others' mean scores so far; both with rungs per context and
    seed. `none`: never."""
    reduction_factor: float = Field(3.0, gt=1.0, allow_inf_nan=False)
    """`asha`: the best 1/reduction_factor of a rung go on. Each rung stands at that multiple of the
    one before."""
    grace_epochs: Annotated[int | Literal["auto"] | None, BeforeValidator(_grace)] = None
    """Epochs before the first rung (default: a third of the budget). `auto`: from where on the
    starting design's full-length trials rank KD weights like their end, as a share of the
    budget."""

    @property
    def bar(self) -> float:
        """The quantile of the others' scores below which a trial is stopped, in [0, 1]."""
        return 1 - 1 / self.reduction_factor if self.name == "asha" else 0.5


class Resources(Strict):
    """What one trial holds while it runs."""

    cpu: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    gpu: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time (default: as many as fit)."""


class Faults(Strict):
    """How much goes wrong before it is left to you."""

    restarts: int = Field(5, ge=0)
    """Times that a search which broke off goes on by itself, from its record."""
    retries: int = Field(3, ge=0)
    """Times that a trial is taken up again whose process died or could not reach the storage. A
    machine that was lost is no fault of the trial, and does not count."""
    silence_s: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Seconds without a report after which a trial counts as hung and ends as `timeout` (default:
    ten times what the slowest trials took for as many samples, and at least 15 minutes; 2 hours
    before anything was reported)."""

"""The search file: YAML in, a validated `SearchSpec` out, all faults reported together."""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from search.errors import UsageError
from trainables.config import (
    METHODS,
    MODEL_FAMILIES,
    DatasetConfig,
    Fraction,
    KdWeight,
    Recipe,
    Strict,
    Temperature,
    TrialConfig,
    content_key,
)
from trainables.sizes import count_kept, describe

SAMPLERS = ("tpe", "random")
RIDGE_MODEL = "linear"
"""The one architecture of the closed-form problem."""
TUNABLE = ("kd_weight", "temperature", "teacher_fraction", "method", "teacher")


def _known(what: str, names: Iterable[str]) -> AfterValidator:
    allowed = tuple(names)

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"unknown {what}{_nearest(value, allowed)} Known: {_listed(allowed)}.")
        return value

    return AfterValidator(check)


def _nearest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | int | float) else value


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("the same value stands here twice")
    return values


MethodName = Annotated[str, _known("pruning method", METHODS)]
ModelName = Annotated[str, _known("architecture", (*MODEL_FAMILIES, RIDGE_MODEL))]


class Interval(Strict):
    """A continuous range to tune over."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
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


T = TypeVar("T")
Values = Annotated[
    list[T], BeforeValidator(_as_list), Field(min_length=1), AfterValidator(_distinct)
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

    trials: int = Field(3, ge=1)
    """Seeds shared by all KD weights of a context."""
    teacher: int = Field(1, ge=1)
    """Teachers per architecture; trial seed s learns from teacher s modulo this number."""
    scores: int = Field(10, ge=1)
    """Seeds that pruning scores are averaged over."""


class EarlyStopping(Strict):
    """When a trial is given up before its full budget."""

    name: Literal["asha", "none"] = "asha"
    """`asha`: asynchronous successive halving with rungs per context; `none`: never."""
    reduction_factor: float = Field(3.0, gt=1.0)
    """The best 1/reduction_factor of a rung go on."""
    grace_epochs: int | None = Field(None, ge=1)
    """Epochs before the first rung (default: a third of the budget)."""


class Budget(Strict):
    """How much a search may spend."""

    trials_per_context: int = Field(12, ge=3)
    """At least 3: each context starts with KD weights 0, ½ and 1."""


class Resources(Strict):
    """What one trial holds while it runs."""

    cpu: float = Field(1.0, gt=0.0)
    gpu: float = Field(0.0, ge=0.0)
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time (default: as many as fit)."""


@dataclass(frozen=True)
class Context:
    """One combination for which an answer is wanted."""

    key: str
    """Short hash of data set, student and values."""
    label: str
    """The same, readable."""
    values: Mapping[str, Any]
    """What the search file's `contexts` fixes here."""


class SearchSpec(Strict):
    """A whole search: what to run, over what, and with what."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)
    """Lower-case letters, digits and hyphens."""
    dataset: DatasetConfig
    student: ModelName
    """Architecture of the students."""
    recipe: Recipe
    contexts: Contexts
    tune: Tune = Tune()
    seeds: Seeds = Seeds()
    sampler: Annotated[str, _known("sampler", SAMPLERS)] = "tpe"
    """Chooses the tuned values after the starting design."""
    early_stopping: EarlyStopping = EarlyStopping()
    budget: Budget = Budget()
    resources: Resources = Resources()
    seed: int = Field(0, ge=0)
    """Seed of the search itself (its sampler)."""

    @model_validator(mode="after")
    def _whole(self) -> "SearchSpec":
        faults = list(_cross_faults(dict(self)))
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @cached_property
    def context_list(self) -> tuple[Context, ...]:
        """Every combination of what stands under `contexts`."""
        named = {k: v for k, v in self.contexts.model_dump().items() if v is not None}
        made = []
        for combination in itertools.product(*named.values()):
            values = dict(zip(named, combination, strict=True))
            identity = {
                "dataset": self.dataset.model_dump(mode="json"),
                "student": self.student,
                **values,
            }
            label = " ".join(_label(k, v) for k, v in values.items())
            made.append(Context(content_key(identity, 8), label, values))
        return tuple(made)

    @cached_property
    def tuned(self) -> tuple[str, ...]:
        """Names of the values that are chosen within each context."""
        return tuple(k for k in TUNABLE if getattr(self.tune, k) is not None)

    @property
    def trials(self) -> int:
        """Trials that the budget allows in all."""
        return len(self.context_list) * self.budget.trials_per_context

    def trial_config(self, context: Context, values: Mapping[str, Any], seed: int) -> TrialConfig:
        """The full configuration of one trial of this search."""
        return TrialConfig(
            dataset=self.dataset,
            student=self.student,
            recipe=self.recipe,
            seed=seed,
            teacher_seed=seed % self.seeds.teacher,
            score_seeds=self.seeds.scores,
            **{**context.values, **values},
        )

    def kept_samples(self, context: Context) -> int:
        """Training samples a student of this context sees in one epoch."""
        return count_kept(describe(self.dataset).train_samples, context.values["fraction"])

    def total_epochs(self, context: Context) -> int:
        """A trial's full budget in this context, in epochs."""
        return self.recipe.total_epochs(self.kept_samples(context))

    def rungs(self, context: Context) -> tuple[int, ...]:
        """Epochs at which trials of this context are compared, ascending."""
        if self.early_stopping.name == "none":
            return ()
        total = self.total_epochs(context)
        epoch: float = self.early_stopping.grace_epochs or math.ceil(total / 3)
        rungs = []
        while epoch < total:
            rungs.append(math.ceil(epoch))
            epoch *= self.early_stopping.reduction_factor
        return tuple(rungs)


def _label(key: str, value: object) -> str:
    short = {"fraction": "f", "temperature": "τ", "teacher_fraction": "f_t"}.get(key, key)
    return str(value) if key == "method" else f"{short}={value}"


def _cross_faults(parts: Mapping[str, Any]) -> Iterable[str]:
    """Faults between valid parts of a search file (parts that are not valid are None)."""
    dataset, contexts, tune = parts.get("dataset"), parts.get("contexts"), parts.get("tune")
    ridge = dataset is not None and dataset.name == "ridge"
    if contexts and tune:
        for key in ("method", "teacher", "temperature", "teacher_fraction"):
            fixed, tuned = getattr(contexts, key), getattr(tune, key)
            if fixed is not None and tuned is not None:
                yield (
                    f"{key}: stands under contexts and under tune; it may stand under one of them"
                )
            if fixed is None and tuned is None and key in ("method", "teacher"):
                yield f"contexts.{key}: missing; name at least one, here or under tune.{key}"
    if dataset is not None and contexts:
        info = describe(dataset)
        for index, fraction in enumerate(contexts.fraction):
            kept = count_kept(info.train_samples, fraction)
            if kept < info.classes:
                yield (
                    f"contexts.fraction[{index}]: {fraction} keeps {kept} of "
                    f"{info.train_samples} training samples, fewer than the {info.classes} "
                    f"classes; at least {info.classes / info.train_samples:.4g} is needed"
                )
    if dataset is not None:
        for where, name in _named_models(parts):
            if (name == RIDGE_MODEL) != ridge:
                allowed = (RIDGE_MODEL,) if ridge else MODEL_FAMILIES
                yield (
                    f"{where}: {name!r} does not fit dataset {dataset.name!r}; "
                    f"allowed: {_listed(allowed)}"
                )
        for where, part in (("contexts", contexts), ("tune", tune)):
            for method in (part and part.method) or ():
                if ridge and method != "random":
                    yield f"{where}.method: {method!r} does not fit dataset 'ridge'; allowed: random"
    recipe = parts.get("recipe")
    stopping = parts.get("early_stopping")
    if recipe and stopping and stopping.name != "none" and dataset is not None and contexts:
        grace = stopping.grace_epochs or 0
        smallest = min(
            recipe.total_epochs(count_kept(describe(dataset).train_samples, fraction))
            for fraction in contexts.fraction
        )
        if grace > smallest:
            yield (
                f"early_stopping.grace_epochs: {grace} is more than the budget of a trial, "
                f"{smallest} epochs; allowed: 1 to {smallest}"
            )
    if recipe and ridge and recipe.epochs is None:
        yield "recipe.iterations: dataset 'ridge' needs recipe.epochs instead"


def _named_models(parts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if parts.get("student"):
        yield "student", parts["student"]
    for section in ("contexts", "tune"):
        part = parts.get(section)
        for name in (part and part.teacher) or ():
            yield f"{section}.teacher", name


def parse_spec(raw: object, source: str = "search file", name: str | None = None) -> SearchSpec:
    """Validate a search, given as the mapping that its YAML holds.

    Args:
        raw: the mapping.
        source: what to call it in messages.
        name: replaces the name in the mapping.

    Raises:
        UsageError: with every fault of the file, each with key, value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise UsageError(f"{source}: a mapping of keys is needed, found {type(raw).__name__}")
    if name is not None:
        raw = {**raw, "name": name}
    try:
        return SearchSpec.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(detail) for detail in error.errors() if detail["loc"]]
    # Pydantic checks the whole only once its parts are sound; a user wants all faults at
    # once, so the parts that are sound are checked against each other here.
    parts = {}
    for key, field in SearchSpec.model_fields.items():
        annotation: Any = Annotated[(field.annotation, field, *field.metadata)]
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        try:
            parts[key] = adapter.validate_python(raw[key]) if key in raw else field.default
        except ValidationError:
            parts[key] = None
        if not field.is_required() or key in raw:
            continue
        parts[key] = None
    faults += list(_cross_faults(parts))
    count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
    raise UsageError("\n  ".join([f"{source}: {count}", *dict.fromkeys(faults)]))


def _fault(detail: ErrorDetails) -> str:
    """One line for one of pydantic's errors: key, value, what is allowed."""
    location = [part for part in detail["loc"] if part not in ("image", "ridge")]
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        if location == ["tune", "fraction"]:
            return (
                "tune.fraction: fraction is a context, not something to tune (accuracy always "
                "prefers more data); move it to contexts.fraction"
            )
        allowed = _keys_at(detail["loc"][:-1])
        nearest = _nearest(str(location[-1]), allowed)
        return f"{key}: unknown key{nearest} Allowed: {_listed(allowed)}."
    if detail["type"] == "missing":
        return f"{key}: missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    shown = repr(value) if not isinstance(value, dict | BaseModel) else ""
    if detail["type"] == "value_error":
        return f"{key}: {shown + ': ' if shown else ''}{message}"
    return f"{key}: {shown or 'this value'} is not allowed; must be {message}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Keys that a search file may have at a place, as pydantic locates it."""
    node: Any = SearchSpec
    for part in location:
        if isinstance(part, int):
            continue
        found = [m for m in _models_in(node) if part in m.model_fields]
        if found:
            node = found[0].model_fields[part].annotation
        else:  # the tag of a union: `image`, `ridge`
            node = next(
                (m for m in _models_in(node) if m.__name__.lower().startswith(str(part))), node
            )
    return [key for model in _models_in(node) for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def load_spec(path: Path | str, name: str | None = None) -> SearchSpec:
    """Read and validate a search file.

    Raises:
        UsageError: the file cannot be read, is not YAML, or has faults (all of them listed).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise UsageError(f"cannot read the search file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = (error.problem or "").splitlines()[0]
        raise UsageError(f"{path}: not valid YAML{where}: {problem}") from error
    except YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    return parse_spec(raw, str(path), name)


def shrink(spec: SearchSpec) -> SearchSpec:
    """The same search at a size of a minute or two: fewer of everything, every part used."""
    raw = spec.model_dump(mode="json", exclude_none=True)
    contexts = raw["contexts"]
    for key, values in contexts.items():
        contexts[key] = [max(values)] if key == "fraction" else values[:1]
    fractions = sorted(spec.contexts.fraction)
    contexts["fraction"] = sorted({fractions[len(fractions) // 2], fractions[-1]})
    if spec.contexts.method:
        contexts["method"] = spec.contexts.method[:2]
    recipe = raw["recipe"]
    for key, most in (("epochs", 3), ("iterations", 30)):
        if key in recipe:
            recipe[key] = min(recipe[key], most)
    raw["early_stopping"].pop("grace_epochs", None)
    raw["seeds"] = {"trials": 1, "teacher": 1, "scores": 1}
    raw["budget"] = {"trials_per_context": 4}
    return parse_spec(raw, "smoke form of the search")


def json_schema() -> dict[str, Any]:
    """JSON schema of the search file, for editors."""
    return SearchSpec.model_json_schema()

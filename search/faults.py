"""What can be wrong with a search file: a line per fault, with key, value and what is allowed."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from analysis.errors import known
from trainables.config import MODEL_FAMILIES, RIDGE_MODEL
from trainables.sizes import count_kept, describe
from trainables.sources.common import DataError

Parts = Mapping[str, Any]
"""Keys of a search file with their validated values; None for those that are not valid."""


BLOCKS = {"grid": 11, "grid-crn": 5, "one-epoch-top-k": 14}
"""Trials of a context after which a fixed design needs another seed, or repeats itself."""
LAID_OUT = (*BLOCKS, "ray-stock")
"""Samplers whose designs have to know how many trials there will be."""


def nearest(name: object, allowed: Iterable[str]) -> str:
    """End a sentence with the known name that comes nearest, if one does."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def cross_faults(parts: Parts) -> Iterator[str]:
    """Faults between parts of a search file that are valid each by itself."""
    yield from _one_place_each(parts)
    yield from _seeds_for_all_trials(parts)
    yield from _size_of_what_is_laid_out(parts)
    yield from _gpus_to_count(parts)
    if parts.get("dataset") is None:
        return
    yield from _models_that_fit(parts)
    yield from _ridge_alone(parts)
    try:
        info = parts.get("counted") or describe(parts["dataset"])
    except DataError as error:
        yield f"dataset.{error.key}: {error}"
        return
    yield from _enough_samples(parts, info)
    yield from _grace_within_budget(parts, info.train_samples)


def _one_place_each(parts: Parts) -> Iterator[str]:
    contexts, tune = parts.get("contexts"), parts.get("tune")
    if not contexts or not tune:
        return
    for key in ("method", "teacher", "temperature", "teacher_fraction"):
        fixed, tuned = getattr(contexts, key) is not None, getattr(tune, key) is not None
        if fixed and tuned:
            yield f"{key}: stands under contexts and under tune; it may stand under one of them"
        if not fixed and not tuned and key in ("method", "teacher"):
            yield f"contexts.{key}: missing; name at least one, here or under tune.{key}"


def _seeds_for_all_trials(parts: Parts) -> Iterator[str]:
    size, budget = BLOCKS.get(parts.get("sampler") or ""), parts.get("budget")
    tune, seeds = parts.get("tune"), parts.get("seeds")
    if size is None or not budget or not tune or not seeds or not budget.trials_per_context:
        return
    lists = [domain for _, domain in tune if isinstance(domain, list)]
    blocks = math.prod(map(len, lists))
    wanted = budget.trials_per_context
    if wanted > size * blocks * seeds.trials:
        yield (
            f"seeds.trials: {seeds.trials}: sampler {parts['sampler']!r} has {size * blocks} "
            f"different trials per seed, and the budget asks for {wanted} per context; allowed: "
            f"{math.ceil(wanted / (size * blocks))} or more"
        )


def _size_of_what_is_laid_out(parts: Parts) -> Iterator[str]:
    sampler, budget = parts.get("sampler"), parts.get("budget")
    if sampler in LAID_OUT and budget and budget.trials_per_context is None:
        yield (
            f"budget.trials_per_context: missing; sampler {sampler!r} lays its trials out "
            "beforehand and has to know how many"
        )


def _gpus_to_count(parts: Parts) -> Iterator[str]:
    budget, resources = parts.get("budget"), parts.get("resources")
    if not budget or not resources or resources.gpu > 0:
        return
    for key in ("gpu_hours", "money"):
        if (limit := getattr(budget, key)) is not None:
            yield (
                f"budget.{key}: {limit:g} is never reached, since resources.gpu is 0; set "
                "resources.gpu, or limit wall_time_s or epoch_samples instead"
            )


def _models_that_fit(parts: Parts) -> Iterator[str]:
    dataset = parts["dataset"]
    ridge = dataset.name == "ridge"
    allowed = (RIDGE_MODEL,) if ridge else MODEL_FAMILIES
    named = [("student", parts["student"])] if parts.get("student") else []
    named += [(f"{where}.teacher", name) for where, name in _values(parts, "teacher")]
    for where, name in named:
        if (name == RIDGE_MODEL) != ridge:
            yield f"{where}: {name!r} does not fit dataset {dataset.name!r}; {_allowed(allowed)}"


def _ridge_alone(parts: Parts) -> Iterator[str]:
    if parts["dataset"].name != "ridge":
        return
    for where, method in _values(parts, "method"):
        if method != "random":
            yield f"{where}.method: {method!r} does not fit dataset 'ridge'; allowed: random"
    for where in ("contexts", "tune"):
        if getattr(parts.get(where), "temperature", None) is not None:
            yield f"{where}.temperature: has no effect on dataset 'ridge'; leave it out"
    recipe = parts.get("recipe")
    if recipe and recipe.epochs is None:
        yield "recipe.iterations: dataset 'ridge' has no iterations; set recipe.epochs instead"


def _enough_samples(parts: Parts, info: Any) -> Iterator[str]:
    if not parts.get("contexts"):
        return
    places = (("contexts", "fraction"), ("contexts", "teacher_fraction"))
    for where, key in (*places, ("tune", "teacher_fraction")):
        for fraction in getattr(parts.get(where), key, None) or ():
            kept = count_kept(info.train_samples, fraction)
            if kept < info.classes:
                yield (
                    f"{where}.{key}: {fraction} keeps {kept} of {info.train_samples} training "
                    f"samples, fewer than the {info.classes} classes; allowed: "
                    f"{info.classes / info.train_samples:.4g} to 1"
                )


def _grace_within_budget(parts: Parts, samples: int) -> Iterator[str]:
    recipe, stopping = parts.get("recipe"), parts.get("early_stopping")
    if not recipe or not stopping or not parts.get("contexts") or stopping.name == "none":
        return
    smallest = min(
        recipe.total_epochs(count_kept(samples, fraction))
        for fraction in parts["contexts"].fraction
    )
    if isinstance(stopping.grace_epochs, int) and stopping.grace_epochs > smallest:
        yield (
            f"early_stopping.grace_epochs: {stopping.grace_epochs} is more than the budget of a "
            f"trial; allowed: 1 to {smallest}"
        )


def _values(parts: Parts, key: str) -> Iterator[tuple[str, str]]:
    for section in ("contexts", "tune"):
        part = parts.get(section)
        for value in (part and getattr(part, key)) or ():
            yield section, value


def _allowed(names: Iterable[object]) -> str:
    return f"allowed: {known(names)}"


def keys_to(detail: ErrorDetails) -> list[int | str]:
    """Keys and indices that lead to a fault in the file."""
    location = list(detail["loc"])
    if location[0] == "dataset":  # the tag that tells its kinds apart is not a key of the file
        del location[1:2]
    return location


_PLAIN = {
    "too_short": "at least one value is needed",
    "model_type": "a mapping of keys is needed",
    "model_attributes_type": "a mapping of keys is needed",
    "dict_type": "a mapping of keys is needed",
    "string_pattern_mismatch": "allowed: lower-case letters, digits and hyphens",
}
"""What pydantic says in words of its own, for people."""


def fault(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """One line for one of pydantic's errors in a search file.

    Args:
        detail: pydantic's account of it.
        model: of the whole file; it knows the keys that are allowed at each place.
    """
    location = keys_to(detail)
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    if location == ["tune", "fraction"]:
        return (
            "tune.fraction: a fraction is a context, not something to tune (accuracy always "
            "prefers more data); move it to contexts.fraction"
        )
    if detail["type"] == "extra_forbidden":
        allowed = _keys_at(model, detail["loc"][:-1])
        return f"{key}: unknown key{nearest(location[-1], allowed)} {_allowed(allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    value = detail["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f"{value!r}: "
    message = _PLAIN.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return f"{key}: {shown}{message[0].lower()}{message[1:]}"


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys that a file may have at a place, as pydantic locates it."""
    node: Any = model
    for depth, part in enumerate(location):
        if isinstance(part, int):
            continue
        models = _models_in(node)
        if depth == 1 and location[0] == "dataset":  # the tag of a union
            node = next((m for m in models if m.__name__.lower().startswith(part)), node)
        else:
            holder = next((each for each in models if part in each.model_fields), None)
            node = holder.model_fields[part].annotation if holder else node
    return [key for each in _models_in(node) for key in each.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]

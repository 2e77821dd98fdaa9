"""The search file: YAML in, a validated `SearchSpec` out, all faults reported together."""

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from search.errors import UsageError
from search.faults import cross_faults, fault, keys_to
from search.space import SearchSpec


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
    faults: list[str] = []
    sound = raw
    # Pydantic checks what depends on several keys only once each is sound. A user wants all
    # faults at once, so unknown keys and wrong items of lists are noted and taken out, and the
    # rest is checked again.
    for _ in range(2):
        try:
            # Strict: the text "0.1" is not a number, nor is `true`; nothing is repaired in silence.
            spec = SearchSpec.model_validate(sound, strict=True)
        except ValidationError as error:
            details = [detail for detail in error.errors() if detail["loc"]]
            faults += [
                fault(detail, SearchSpec)
                for detail in details
                if sound is raw or detail["type"] not in ("missing", "too_short")
            ]
            places = [
                keys_to(detail)
                for detail in details
                if detail["type"] == "extra_forbidden" or isinstance(detail["loc"][-1], int)
            ]
            sound = _without(sound, places)
        else:
            if not faults:
                return spec
    faults = list(dict.fromkeys([*faults, *cross_faults(_parts(sound))]))
    count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
    raise UsageError("\n  ".join([f"{source}: {count}", *faults]))


def _without(raw: dict[str, Any], locations: list[list[int | str]]) -> dict[str, Any]:
    """A copy of a mapping without what stands at these places."""
    left = copy.deepcopy(raw)
    # Later items of a list first, so that the indices of earlier ones stay right.
    locations.sort(key=lambda place: [p if isinstance(p, int) else -1 for p in place], reverse=True)
    for *path, last in locations:
        with contextlib.suppress(LookupError, TypeError):  # gone with what it stood in
            holder: Any = left
            for part in path:
                holder = holder[part]
            del holder[last]
    return left


def _parts(raw: dict[str, Any]) -> dict[str, Any]:
    """Each key of a search file validated by itself, None where that fails."""
    parts: dict[str, Any] = {}
    for key, field in SearchSpec.model_fields.items():
        if key not in raw:
            parts[key] = None if field.is_required() else field.default
            continue
        annotation: Any = field.annotation
        for constraint in field.metadata:
            annotation = Annotated[annotation, constraint]
        try:
            parts[key] = TypeAdapter(annotation).validate_python(raw[key], strict=True)
        except ValidationError:
            parts[key] = None
    return parts


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds.

    Args:
        path: the file.
        what: to call it in messages.

    Raises:
        UsageError: it cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = (error.problem or "").splitlines()[0]
        raise UsageError(f"{path}: not valid YAML{where}: {problem}") from error
    except YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error


def load_spec(
    path: Path | str, name: str | None = None, counted: Mapping[str, Any] | None = None
) -> SearchSpec:
    """Read and validate a search file.

    Args:
        path: the file.
        name: replaces the name in it.
        counted: size of the data set, where it is known without looking (see `space.Counted`).

    Raises:
        UsageError: the file cannot be read, is not YAML, or has faults (all of them listed).
    """
    path = Path(path)
    raw = read_yaml(path, "search file")
    if counted is not None and isinstance(raw, dict):
        raw = {**raw, "counted": dict(counted)}
    return parse_spec(raw, str(path), name)


def shrink(spec: SearchSpec) -> SearchSpec:
    """The same search at a size of a minute or two: fewer of everything, every part used."""
    raw = spec.model_dump(mode="json", exclude_none=True)
    raw["name"] += "-smoke"
    contexts, recipe = raw["contexts"], raw["recipe"]
    for key, most in {"method": 2, "teacher": 1, "temperature": 1, "teacher_fraction": 1}.items():
        if key in contexts:
            contexts[key] = contexts[key][:most]
    fractions = sorted(contexts["fraction"])
    contexts["fraction"] = sorted({fractions[(len(fractions) - 1) // 2], fractions[-1]})
    recipe.pop("iterations", None)  # a few of them may not be the one epoch that scores ask for
    recipe["epochs"] = min(recipe.get("epochs", 3), 3)
    raw["early_stopping"].pop("grace_epochs", None)
    raw["seeds"] = {"trials": 2, "teacher": 1, "scores": 1}
    raw["budget"] = {"trials_per_context": 8}
    return parse_spec(raw, "smoke form of the search")


def json_schema() -> dict[str, Any]:
    """JSON schema of the search file, for editors."""
    return SearchSpec.model_json_schema()

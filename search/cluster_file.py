"""What can be wrong with a cluster file: a line per fault, before a machine is started.

Ray's cluster launcher checks its own schema and stops at the first fault. It does not look inside
`provider` and `node_config`, and fills in what is missing with defaults that nobody wants: a
dashboard open to the network, a development version of Ray, SSH open to the world.
"""

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ray
from ray.autoscaler._private.util import prepare_config, validate_config

from search.cluster_commands import COMMANDS, ROLES, Installed, command_faults
from search.cluster_machines import Config, kind_of, machine_faults, unknown_key
from search.errors import UsageError
from search.specfile import read_yaml

_EXAMPLES = re.compile(r"\b\w+-0123456789abcdef0\b|\b\w+(?:\.\w+)*\.example\.org\b")
"""Values of the shipped files that nobody's account has."""


def load_cluster(path: Path, installed: Installed | None = None) -> Config:
    """Read and check a cluster file, without network and without the cloud's libraries.

    Raises:
        UsageError: it cannot be read, or has faults (all of them listed).
    """
    raw = read_yaml(path, "cluster file")
    faults = cluster_faults(raw, installed)
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
        raise UsageError("\n  ".join([f"{path}: {count}", *faults]))
    return raw  # type: ignore[no-any-return]


def cluster_faults(raw: object, installed: Installed | None = None) -> list[str]:
    """Every fault of a cluster file, each with key, value and what is allowed.

    Args:
        raw: the mapping that its YAML holds.
        installed: what the machines must have; by default what runs here.
    """
    if not isinstance(raw, dict):
        return [f"a mapping of keys is needed, found {type(raw).__name__}"]
    faults = list(_schema(raw))
    config = _sound(raw)
    faults += machine_faults(config)
    faults += command_faults(config, installed or Installed())
    return list(dict.fromkeys(faults)) or list(_rays_own(raw))


def still_to_do(config: Config) -> list[str]:
    """What a sound file lacks before `ray up`: values of the example, files to send along."""
    text = json.dumps(config, default=str)
    names = sorted(set(_EXAMPLES.findall(text)))
    left = [f"{name}: a value of the example; put in yours" for name in names]
    sources = {*(config.get("file_mounts") or {}).values()}
    if key := (config.get("auth") or {}).get("ssh_private_key"):
        sources.add(key)
    missing = (source for source in sources if not Path(source).expanduser().exists())
    return left + [f"{source}: no such file here; it is to be sent along" for source in missing]


def _schema(raw: Config) -> Iterator[str]:
    """All that Ray's JSON schema refuses, not only the first of it."""
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    allowed = schema["properties"]
    if kind_of(raw) == "local":  # Ray takes it out before it looks at the schema
        allowed["min_workers"] = {"type": "integer", "minimum": 0}
    for error in jsonschema.Draft7Validator(schema).iter_errors(raw):
        key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.path).lstrip(".")
        if error.validator == "additionalProperties":
            holder = error.schema.get("properties", {})
            for name in sorted(set(error.instance) - set(holder), key=str):
                yield unknown_key(f"{key}.{name}".lstrip("."), name, holder)
        elif error.validator == "required":
            where = f"{key}." if key else ""
            for name in error.validator_value:
                if name not in error.instance:
                    yield f"{where}{name}: missing"
        elif error.validator == "type":
            kinds = error.validator_value
            kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
            yield f"{key}: {error.instance!r}: allowed: {kind}"
        else:
            yield f"{key}: {error.message}"


def _sound(raw: Config) -> dict[str, Any]:
    """The file with what has the wrong shape left out, for checks that look inside."""
    sections = ("provider", "auth", "available_node_types", "file_mounts", "docker")
    shapes: dict[str, type] = dict.fromkeys(sections, dict)
    shapes |= {"head_node_type": str, **dict.fromkeys(COMMANDS, list)}
    for role in ROLES:
        shapes |= dict.fromkeys((f"{role}_setup_commands", f"{role}_start_ray_commands"), list)
    sound: dict[str, Any] = {k: v for k, v in raw.items() if isinstance(v, shapes.get(k, object))}
    types: dict[str, Any] = sound.get("available_node_types", {})
    sound["available_node_types"] = {
        name: {k: v for k, v in each.items() if _fits(k, v)}
        for name, each in types.items()
        if isinstance(each, dict)
    }
    return sound


def _fits(key: str, value: object) -> bool:
    wanted = {"resources": dict, "node_config": dict, "min_workers": int, "max_workers": int}
    return isinstance(value, wanted.get(key, object))


def _rays_own(raw: Config) -> Iterator[str]:
    """What Ray says to the file with its defaults filled in."""
    silent = logging.getLogger("ray.autoscaler._private.util")
    level = silent.level
    silent.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_config(prepare_config(dict(raw)))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it raises is a fault)
        yield f"Ray refuses it: {str(error).splitlines()[0]}"
    finally:
        silent.setLevel(level)

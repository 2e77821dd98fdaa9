"""The commands of a cluster file: Ray closed to others, equal versions, shared places."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ray

from analysis.secrets import redacted
from search.cluster_machines import Config, kind_of

COMMANDS = ("initialization_commands", "setup_commands")
"""Lists of commands that every machine runs."""
ROLES = ("head", "worker")
_V1 = "RAY_enable_autoscaler_v2=0"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Installed:
    """Versions that the machines of a cluster must have too."""

    ray: str = ray.__version__
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"


def command_faults(config: Config, installed: Installed) -> Iterator[str]:
    """Faults of the commands, and of what is sent along.

    Args:
        config: the cluster file.
        installed: versions that the machines must have too.
    """
    for check in (_start, _notices, _setup, _places, _secrets):
        yield from check(config)
    yield from _versions(config, installed)


def _text(config: Config, *keys: str) -> str:
    return "\n".join(str(command) for key in keys for command in config.get(key) or ())


def _starts(config: Config, key: str) -> list[str]:
    return [str(each) for each in config.get(key) or () if re.search(r"\bray start\b", str(each))]


def _start(config: Config) -> Iterator[str]:
    """Commands that start Ray: present, whole, closed to others."""
    for role in ROLES:
        key = f"{role}_start_ray_commands"
        starts = _starts(config, key)
        if key not in config:
            yield f"{key}: missing; Ray's own {_UNWANTED[role]}"
        elif not starts:
            yield f"{key}: no command has `ray start`"
        everything = _text(config, *COMMANDS, f"{role}_setup_commands", key)
        if starts and "RAY_AUTH_MODE=token" not in everything:
            yield f"{key}: RAY_AUTH_MODE=token is set nowhere; anybody who gets in runs code"
    for command in _starts(config, "head_start_ray_commands"):
        yield from _head(command)
    starts = _starts(config, "head_start_ray_commands")
    if kind_of(config) == "local" and any(_V1 not in command for command in starts):
        yield (
            f"head_start_ray_commands: put {_V1} before `ray start`; with "
            "autoscaler v2 not all workers of `local` come up"
        )
    for command in _starts(config, "worker_start_ray_commands"):
        if not re.search(r"--address[= ]\S*RAY_HEAD_IP", command):
            yield "worker_start_ray_commands: `ray start` needs --address=$RAY_HEAD_IP:PORT"
    mounts = [str(target) for target in config.get("file_mounts", {})]
    everything = json.dumps(config, default=str)
    if "RAY_AUTH_TOKEN_PATH=" not in everything and not any(
        target.endswith(".ray/auth_token") for target in mounts
    ):
        yield "file_mounts: no token; send one along as ~/.ray/auth_token (mode 600)"


_UNWANTED = {"head": "open the dashboard to the network", "worker": "are without a token"}
"""What Ray's default start commands do."""
_FLAGS = {
    "--head": "it is the head's",
    "--autoscaling-config": "without it no worker starts",
    "--num-cpus=0": "trials would run on the head",
    "--num-gpus=0": "trials would run on the head",
}


def _head(command: str) -> Iterator[str]:
    key = "head_start_ray_commands"
    host = re.search(r"--dashboard-host[= ]['\"]?([^\s;'\"]+)", command)
    if host and host[1] not in _LOOPBACK:
        yield f"{key}: --dashboard-host={host[1]} opens the dashboard; allowed: 127.0.0.1"
    if re.search(r"--include-dashboard[= ]['\"]?(false|0|no)", command, re.IGNORECASE):
        yield f"{key}: --include-dashboard=false: searches are launched through the dashboard"
    for flag, why in _FLAGS.items():
        if not re.search(rf"{flag.replace('=', '[= ]')}(?![\w.])", command):
            yield f"{key}: `ray start` lacks {flag}; {why}"


def _notices(config: Config) -> Iterator[str]:
    """Spot workers hear that they will be taken away; those of a launch template are not seen."""
    key = "worker_start_ray_commands"
    spot = [
        name
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type")
        and '"MarketType": "spot"' in json.dumps(kind.get("node_config"), default=str)
    ]
    if spot and "cluster watch-node" not in _text(config, key):
        yield (
            f"{key}: `kdcurve cluster watch-node` is not started; trials on spot machines "
            f"({', '.join(map(str, spot))}) would not checkpoint before they are taken away"
        )


def _setup(config: Config) -> Iterator[str]:
    """What is installed, and that the head can start workers."""
    if "setup_commands" not in config:
        yield "setup_commands: missing; Ray's own install a development version of Ray"
        return
    head = _text(config, *COMMANDS, "head_setup_commands")
    image = str(config.get("docker", {}).get("image", ""))
    if kind_of(config) == "aws" and "boto3" not in head and not image:
        yield "head_setup_commands: nothing installs boto3, with which the head starts workers"
    if image and (":" not in image.rpartition("/")[2] or re.search(":(latest|nightly)", image)):
        yield f"docker.image: {image!r} changes over time; allowed: one with a version"
    if not image and not re.search(r"ray\[[^]]*\b(default|all)\b|kdcurve\[[^]]*\bcluster\b", head):
        yield "setup_commands: nothing installs ray[default], whose Jobs API launches searches"


def _places(config: Config) -> Iterator[str]:
    """Where all machines find caches and checkpoints, and the head the record and MLflow."""
    text = _text(config, *COMMANDS, "head_setup_commands", "head_start_ray_commands")
    places = dict(re.findall(r"KDCURVE_(\w+)=['\"]?([^\s;'\"]+)", text))
    storage = places.get("STORAGE") or places.get("HOME")
    shared = _text(config, *COMMANDS, "worker_setup_commands") + json.dumps(
        config.get("docker", {}).get("run_options", [])
    )
    if storage is None:
        yield "setup_commands: no shared storage; export KDCURVE_HOME=/a/folder/of/all/machines"
    elif "://" in storage:
        yield (
            f"setup_commands: storage {storage!r} is a bucket; allowed: a folder of a shared POSIX "
            "file system (EFS, FSx, NFS), since files are replaced by renaming"
        )
    elif not storage.startswith("/") or storage.startswith(("/tmp", "/home", "/root")):  # noqa: S108
        yield (
            f"setup_commands: storage {storage!r} is each machine's own; allowed: a folder of a "
            "shared file system"
        )
    elif not re.search(r"\b(mount(point|\.\w+)?|findmnt)\b|-v\b|--volume", shared):
        yield f"setup_commands: nothing mounts {storage} on the workers, or looks that it is there"
    for name, what in {"RECORD": "the record", "TRACKING_URI": "MLflow"}.items():
        uri = places.get(name)
        if uri is None or uri.startswith("sqlite"):
            shown = "missing" if uri is None else f"{uri!r} is a file"
            yield f"setup_commands: KDCURVE_{name}: {shown}; {what} belongs into PostgreSQL"


def _secrets(config: Config) -> Iterator[str]:
    if "aws_credentials" in config.get("provider", {}):
        yield "provider.aws_credentials: no secrets in this file; `aws configure` keeps them"
    for key, value in _strings(config):
        if redacted(value) != value or "RAY_AUTH_TOKEN=" in value:
            yield (
                f"{key}: holds a password or token; put it in a file of the head "
                "(~/.pgpass, ~/.mlflow/credentials, ~/.ray/auth_token; mode 600)"
            )


def _strings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _strings(part, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{key}[{index}]")


def _versions(config: Config, installed: Installed) -> Iterator[str]:
    """Ray and Python of image and set-up, against those here: they must be the same."""
    setup = [f"{role}_setup_commands" for role in ROLES]
    texts = {key: _text(config, key) for key in (*COMMANDS, *setup)}
    for key in ("image", "head_image", "worker_image"):
        texts[f"docker.{key}"] = str(config.get("docker", {}).get(key, ""))
    everything = "\n".join(texts.values())
    pinned = r"\bray(?:\[[^]]*\])?(?:==|:|-)['\"]?(\d+\.\d+(?:\.\w+)*)"
    if "setup_commands" in config and not re.search(pinned, everything):
        yield f"setup_commands: no version of Ray; install ray[default]=={installed.ray}"
    python = r"(?:python[ =]?|cp|py)(3\.?\d+)\b"
    for key, text in texts.items():
        for version in re.findall(pinned, text):
            if version != installed.ray:
                yield f"{key}: Ray {version}; allowed: {installed.ray}, as here"
        for found in re.findall(python, text):
            version = found if "." in found else f"{found[0]}.{found[1:]}"
            if version != installed.python:
                yield f"{key}: Python {version}; allowed: {installed.python}, as here"

"""The machines of a cluster file: typos inside `provider` and `node_config`, and their number."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from analysis.errors import known
from search.cluster_keys import EC2, PROVIDERS
from search.faults import nearest

Config = Mapping[str, Any]
"""A cluster file; what has the wrong shape is left out of it."""


def machine_faults(config: Config) -> Iterator[str]:
    """Faults of `provider`, `auth` and `available_node_types`."""
    yield from _provider(config)
    yield from _workers(config)


def kind_of(config: Config) -> str | None:
    """The provider's type; None if there is none."""
    provider = config.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    return kind if isinstance(kind, str) else None


def unknown_key(key: str, name: object, allowed: Iterable[str]) -> str:
    """A fault: a key that means nothing, with the nearest one that does."""
    near = nearest(name, allowed)
    return f"{key}: unknown key{near}" + (
        f" allowed: {known(sorted(allowed))}" if near == "." else ""
    )


def _node_configs(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node_type in config["available_node_types"].items():
        yield f"available_node_types.{name}.node_config", node_type.get("node_config", {})


def _provider(config: Config) -> Iterator[str]:
    """Typos inside `provider` and `node_config`, and what they cannot do without."""
    kind, provider = kind_of(config), config.get("provider", {})
    if kind is None:
        return
    if kind not in PROVIDERS:
        yield f"provider.type: {kind!r}{nearest(kind, PROVIDERS)} allowed: {known(PROVIDERS)}"
        return
    yield from _typos("provider", provider, PROVIDERS[kind])
    required = {"aws": ("region",), "local": ("head_ip", "worker_ips")}[kind]
    for name in required:
        if name not in provider and "coordinator_address" not in provider:
            yield f"provider.{name}: missing"
    if "ssh_user" not in config.get("auth", {}):
        yield "auth.ssh_user: missing"
    if kind == "aws":
        for key, node_config in _node_configs(config):
            yield from _typos(key, node_config, EC2)
            yield from _machine(config, key, node_config)
        rules = (provider.get("security_group") or {}).get("IpPermissions") or []
        if "0.0.0.0/0" in json.dumps(rules, default=str):
            yield "provider.security_group.IpPermissions: '0.0.0.0/0' is the world; name yours"


def _typos(key: str, value: object, allowed: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _typos(f"{key}[{index}]", item, allowed)
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in allowed:
                yield unknown_key(f"{key}.{name}", name, allowed)
            elif allowed[name] is not None:
                yield from _typos(f"{key}.{name}", part, allowed[name])


def _machine(config: Config, key: str, node_config: Config) -> Iterator[str]:
    if "LaunchTemplate" in node_config:  # holds what would be missing here
        return
    if str(node_config.get("ImageId", "")).lower() in ("", "latest_dlami"):
        yield f"{key}.ImageId: missing; Ray would take an image of Ubuntu 18.04"
    if "InstanceType" not in node_config:
        yield f"{key}.InstanceType: missing"
    if not {"SecurityGroupIds", "NetworkInterfaces"} & set(node_config):
        yield (
            f"{key}.SecurityGroupIds: missing; the group that Ray would make opens port 22 to the "
            "world"
        )
    if "ssh_private_key" in config.get("auth", {}) and "KeyName" not in node_config:
        yield f"{key}.KeyName: missing; auth.ssh_private_key is the private half of it"


def _workers(config: Config) -> Iterator[str]:
    """How many machines there may be, how long they idle, what the head offers."""
    if "idle_timeout_minutes" not in config:
        yield "idle_timeout_minutes: missing; allowed: minutes, 5 to 10 are usual"
    elif config["idle_timeout_minutes"] == 0:
        yield "idle_timeout_minutes: 0 ends machines between two trials; allowed: 5 to 10 are usual"
    most = config.get("max_workers")
    if kind_of(config) == "local":
        yield from _on_premise(config, most)
        return
    if "min_workers" in config:
        yield "min_workers: Ray ignores it here; it stands in available_node_types"
    if most is None:
        yield "max_workers: missing; it is the upper bound of what can be spent"
    yield from _node_types(config, most)


def _node_types(config: Config, most: Any) -> Iterator[str]:
    types = config["available_node_types"]
    head = config.get("head_node_type")
    if not types:
        yield "available_node_types: missing; name the head and at least one kind of worker"
        return
    if head not in types:
        yield f"head_node_type: {head!r}{nearest(head, types)} allowed: {known(types)}"
    for kind in ("CPU", "GPU"):
        amount = types.get(head, {}).get("resources", {}).get(kind)
        if head in types and amount != 0:
            yield (
                f"available_node_types.{head}.resources.{kind}: {amount}: trials would run on the "
                "head; allowed: 0"
            )
    workers = {name: each for name, each in types.items() if name != head}
    for name, each in workers.items():
        low, high = each.get("min_workers", 0), each.get("max_workers", most)
        if isinstance(high, int) and low > high:
            yield f"available_node_types.{name}.min_workers: {low} is more than max_workers, {high}"
    least = sum(each.get("min_workers", 0) for each in types.values())
    if isinstance(most, int):
        if least > most:
            yield f"max_workers: {most} is less than all min_workers together, {least}"
        if not any(min(each.get("max_workers", most), most) > 0 for each in workers.values()):
            yield "max_workers: no worker could ever start; allowed: 1 or more, for some node type"


def _on_premise(config: Config, most: Any) -> Iterator[str]:
    machines = config.get("provider", {}).get("worker_ips")
    if not isinstance(machines, list):
        return
    for key in ("min_workers", "max_workers"):
        number = config.get(key, len(machines))
        if isinstance(number, int) and number != len(machines):
            yield f"{key}: {number}, but provider.worker_ips names {len(machines)}"

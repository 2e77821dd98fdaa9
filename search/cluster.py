"""The connection to Ray: a running cluster, or one started on this machine."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from search.errors import KdcurveError
from search.sections import Resources
from search.space import SearchSpec
from trainables.parts import PATH_VARIABLE

PROBE_S = 5.0
"""How long a Ray cluster has to accept a connection."""
_REFUSED = "; it may refuse this machine's token (RAY_AUTH_MODE=token and ~/.ray/auth_token)"
"""Ray does not say so itself."""
MACHINE_S = 1200.0
"""How long an autoscaler has to bring up a first machine, its set-up included."""
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster file on the head."""
_ROUNDING = 1e-9
"""Ten trials of 0.1 fit into 1, whatever floating point says."""
_TUNE_SETTINGS = {
    # Its own loggers write three files per trial that the record makes superfluous.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Nothing is restored from Tune's snapshots, so none is needed during the run.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Trials of lost machines are retried here too, where the record hears of it.
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    # Ctrl-C is answered here, so that the display can say so.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextlib.contextmanager
def connected(folder: Path, address: str | None) -> Iterator[None]:
    """Connect to Ray, or start it on this machine; stop only what was started here."""
    os.environ.update(_TUNE_SETTINGS)
    with _paths_from_here():
        if ray.is_initialized():
            yield
            return
        _connect(folder, address)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _paths_from_here() -> Iterator[None]:
    """Let relative paths and a user's own modules be meant from here in workers too.

    Only while this search runs: the next one of this process may start elsewhere.
    """
    if PATH_VARIABLE in os.environ:
        yield
        return
    os.environ[PATH_VARIABLE] = str(Path.cwd())
    try:
        yield
    finally:
        del os.environ[PATH_VARIABLE]


def _connect(folder: Path, address: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not address:
        # Ray would put the host's address in place of the loopback one, unless it believes
        # itself on a system where it forms no clusters; its constant is read at import.
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
    # A cluster's machines know nothing of this process's environment.
    there = {"runtime_env": {"env_vars": {PATH_VARIABLE: os.environ[PATH_VARIABLE]}}}
    local: dict[str, Any] = {
        "_node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": 256 * 2**20,  # arrays travel through the cache, not through Ray
    }
    # Ray puts the folder it is started from before everything else on its workers' path:
    # from here, a user's own `search` or `analysis` folder cannot take the place of ours.
    with contextlib.chdir(folder):
        try:
            if address:
                _require_answer(address)
            ray.init(
                address=address or "local",  # not the one that RAY_ADDRESS or a file names
                logging_level=logging.WARNING,
                log_to_driver=True,
                **(there if address else local),
            )
        except Exception as error:  # Ray raises a plain one if its own processes do not come up
            cause = str(error).strip().partition("\n")[0]
            where = f"connect to Ray at {address}" if address else "start Ray"
            hint = _REFUSED if address and "Failed to connect" in cause else ""
            raise KdcurveError(f"cannot {where}: {cause}{hint}") from error


def _require_answer(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PROBE_S).close()


def concurrent_trials(
    spec: SearchSpec, address: str | None = None, say: Callable[[str], None] = lambda _: None
) -> int:
    """Trials at a time: as asked for, or as many as fit once all machines are up.

    Where `ray up` started the cluster and no machine has room yet, one is asked for and awaited.

    Args:
        spec: the search.
        address: of the cluster; None for a Ray that was started for this search.
        say: takes note of a line.

    Raises:
        KdcurveError: not even one fits; it would wait for ever.
    """
    later = _launched_by_ray_up() if address else {}
    fits = _fits_now(spec.resources)
    if not fits and may_grow(spec.resources, later, len(_alive())):
        fits = _await_machine(spec.resources, later, say)
    if not fits:
        available = ray.cluster_resources()  # type: ignore[no-untyped-call]
        raise KdcurveError(
            f"resources: a trial asks for {spec.resources.cpu:g} CPUs and "
            f"{spec.resources.gpu:g} GPUs of one machine, but Ray has "
            f"{available.get('CPU', 0):g} and {available.get('GPU', 0):g}"
        )
    return spec.resources.concurrent or max(fits, fit_later(spec.resources, later))


def fit(resources: Resources, offered: Mapping[str, float]) -> int:
    """Trials that one machine has room for at a time."""
    fits = int(offered.get("CPU", 0) / resources.cpu + _ROUNDING)
    if resources.gpu:
        fits = min(fits, int(offered.get("GPU", 0) / resources.gpu + _ROUNDING))
    return fits


def fit_later(resources: Resources, cluster: Mapping[str, Any]) -> int:
    """Trials that fit once all workers are up that a cluster file allows.

    Args:
        resources: of a trial.
        cluster: the file; empty for none.
    """
    left, fits = cluster.get("max_workers", 0), 0
    kinds = [
        (fit(resources, kind.get("resources", {})), kind.get("max_workers", left))
        for name, kind in cluster.get("available_node_types", {}).items()
        if name != cluster.get("head_node_type")
    ]
    for each, most in sorted(kinds, reverse=True):
        number = min(most, left)
        left, fits = left - number, fits + each * number
    return fits


def may_grow(resources: Resources, cluster: Mapping[str, Any], machines: int) -> bool:
    """Whether a machine with room for a trial may still come up.

    Args:
        resources: of a trial.
        cluster: the file of the cluster; empty for none.
        machines: that are up, the head included.
    """
    on_premise = cluster.get("provider", {}).get("type") == "local"  # its file counts no CPUs
    return machines <= cluster.get("max_workers", 0) and (
        on_premise or fit_later(resources, cluster) > 0
    )


def _alive() -> list[dict[str, Any]]:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _fits_now(resources: Resources) -> int:
    return sum(fit(resources, node["Resources"]) for node in _alive())


def _launched_by_ray_up() -> dict[str, Any]:
    """The cluster file that `ray up` left on the head, if this is one."""
    try:
        found = YAML(typ="safe", pure=True).load(_BOOTSTRAP.expanduser())
    except (OSError, YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _await_machine(
    resources: Resources, cluster: Mapping[str, Any], say: Callable[[str], None]
) -> int:
    """Ask the autoscaler for room for a trial and wait for it; returns how many trials fit."""
    say(f"no machine has room for a trial yet; one is asked for (up to {MACHINE_S / 60:.0f} min)")
    deadline = time.monotonic() + MACHINE_S
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    request_resources(bundles=[{kind: amount for kind, amount in wanted.items() if amount}])
    try:
        while not (fits := _fits_now(resources)) and time.monotonic() < deadline:
            if not may_grow(resources, cluster, len(_alive())):
                break
            time.sleep(2)
    finally:
        request_resources(bundles=[])  # else the machine would never be idle
    return fits

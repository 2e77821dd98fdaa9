"""The connection to Ray: a running cluster, or one started on this machine."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from search.errors import KdcurveError
from search.space import SearchSpec
from trainables.parts import PATH_VARIABLE

PROBE_S = 5.0
"""How long a Ray cluster has to accept a connection."""
_TUNE_SETTINGS = {
    # Its own loggers write three files per trial that the record makes superfluous.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Nothing is restored from Tune's snapshots, so none is needed during the run.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
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
                address=address,
                logging_level=logging.WARNING,
                log_to_driver=True,
                **({} if address else local),
            )
        except Exception as error:  # Ray raises a plain one if its own processes do not come up
            cause = str(error).strip().partition("\n")[0]
            where = f"connect to Ray at {address}" if address else "start Ray"
            raise KdcurveError(f"cannot {where}: {cause}") from error


def _require_answer(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PROBE_S).close()


def concurrent_trials(spec: SearchSpec) -> int:
    """Trials at a time: as asked for, or as many as fit.

    Raises:
        KdcurveError: not even one fits; it would wait for ever.
    """
    available = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fits = int(available.get("CPU", 1) // spec.resources.cpu)
    if spec.resources.gpu:
        fits = min(fits, int(available.get("GPU", 0) / spec.resources.gpu))
    if fits < 1:
        raise KdcurveError(
            f"resources: a trial asks for {spec.resources.cpu:g} CPUs and "
            f"{spec.resources.gpu:g} GPUs, but Ray has {available.get('CPU', 0):g} and "
            f"{available.get('GPU', 0):g}"
        )
    return spec.resources.concurrent or fits

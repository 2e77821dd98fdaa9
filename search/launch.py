"""Run a search: connect to Ray, prepare what is shared, let Tune schedule, close the record."""

import contextlib
import importlib.metadata
import logging
import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import ray
from filelock import FileLock, Timeout
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig

from search.cluster import concurrent_trials, connected
from search.errors import KdcurveError
from search.journal import EventKind, Journal, check_name
from search.ledger import Ledger
from search.places import Places
from search.plan import counted, shared_artifacts
from search.recorder import Recorder
from search.scheduler import ContextAsha, InOrder
from search.searcher import CurveSearcher
from search.space import SearchSpec
from search.studies import Studies
from search.tracking import Delivery
from trainables.config import Artifact
from trainables.problem import prepare
from trainables.record import SearchState
from trainables.trial import DistillationTrial, pin_threads

logger = logging.getLogger(__name__)

DELIVERY_NOTICE_S = 5.0
DELIVERY_TIMEOUT_S = 115.0
"""How long the end of a search waits for MLflow, before and after saying so."""
_PACKAGES = ("kdcurve", "torch", "ray", "optuna", "mlflow", "numpy")


class Watcher(Protocol):
    """Whoever wants to follow a search, e.g. `search.display.Display`."""

    def say(self, text: str) -> None:
        """Take note of a line."""

    def watching(self, spec: SearchSpec, ledger: Ledger) -> contextlib.AbstractContextManager[None]:
        """Follow the trials while the context is open."""


class Silent:
    """A watcher that shows nothing."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def watching(self, spec: SearchSpec, ledger: Ledger) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()


@dataclass(frozen=True)
class SearchResult:
    """How a search ended."""

    name: str
    state: SearchState
    ledger: Ledger
    delivered: bool
    """Whether all of the record reached MLflow."""


def run(
    spec: SearchSpec,
    places: Places | None = None,
    *,
    address: str | None = None,
    watcher: Watcher | None = None,
) -> SearchResult:
    """Run a new search to its end.

    Args:
        spec: the search (`search.load_spec` reads one from a file).
        places: where things live; ``./kdcurve-data`` by default.
        address: of a running Ray cluster; by default Ray is started on this machine,
            bound to the loopback interface, and stopped afterwards.
        watcher: follows the progress.

    Raises:
        UsageError: the name is taken.
        KdcurveError: a folder, the record, MLflow or Ray cannot be used, a trial asks for
            more than the cluster has, or a teacher or the scores could not be made.
    """
    places = places or Places.at()
    watcher = watcher or Silent()
    with _alone(places, spec.name):
        with _one_at_a_time(places):
            journal = Journal(places.record)
            check_name(journal, spec.name)
            delivery = Delivery(journal, spec, places)
        delivery.check()
        ledger = Ledger(journal, spec.name)
        with connected(places.folder(spec.name), address), _stopping_cleanly(watcher):
            concurrent = concurrent_trials(spec)
            # From here on the name is taken: all that can be refused has been refused.
            ledger.record(
                EventKind.PLANNED,
                spec=spec.model_dump(mode="json", exclude_none=True),
                versions={name: importlib.metadata.version(name) for name in _PACKAGES},
                git_commit=_git_commit(),
                hardware={"machine": platform.machine(), "cpus": os.cpu_count()},
            )
            return _carry_out(spec, places, ledger, delivery, concurrent, watcher)


def resume(
    name: str,
    places: Places | None = None,
    *,
    address: str | None = None,
    watcher: Watcher | None = None,
) -> SearchResult:
    """Go on with a search that was interrupted; nothing that finished is repeated.

    Trials that were under way are trained again from their start.

    Raises:
        KdcurveError: there is no such search, or one of the places cannot be used.
    """
    places = places or Places.at()
    watcher = watcher or Silent()
    with _alone(places, name):
        with _one_at_a_time(places):
            ledger = Ledger(Journal(places.record), name)
            spec = ledger.spec
            delivery = Delivery(ledger.journal, spec, places)
        delivery.check()
        with connected(places.folder(spec.name), address), _stopping_cleanly(watcher):
            concurrent = concurrent_trials(spec)
            ledger.record(EventKind.RESUMED)
            return _carry_out(spec, places, ledger, delivery, concurrent, watcher)


@contextlib.contextmanager
def _alone(places: Places, name: str) -> Iterator[None]:
    """Refuse a second process that runs the same search from this home."""
    places.make()
    folder = places.folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout as error:
        raise KdcurveError(
            f"another process runs the search {name!r}; see kdcurve status {name}"
        ) from error


@contextlib.contextmanager
def _one_at_a_time(places: Places) -> Iterator[None]:
    """Two first searches in a home must not create its databases at once."""
    with FileLock(places.home / "lock"):
        yield


def _carry_out(
    spec: SearchSpec,
    places: Places,
    ledger: Ledger,
    delivery: Delivery,
    concurrent: int,
    watcher: Watcher,
) -> SearchResult:
    state = SearchState.FAILED
    delivery.start()
    try:
        _prepare(spec, places, ledger, watcher)
        with watcher.watching(spec, ledger):
            _tune(spec, places, ledger, concurrent)
        finished = len(ledger.trials) == spec.trials and not ledger.unfinished()
        state = SearchState.COMPLETE if finished else SearchState.INTERRUPTED
    except KeyboardInterrupt:
        state = SearchState.INTERRUPTED
    finally:
        try:
            ledger.record(EventKind.CLOSED, state=state)
        finally:
            delivered = delivery.finish(DELIVERY_NOTICE_S)
            if not delivered:
                watcher.say("delivering what is left to MLflow")
                delivered = delivery.finish(DELIVERY_TIMEOUT_S)
    return SearchResult(spec.name, state, ledger, delivered)


@contextlib.contextmanager
def _stopping_cleanly(watcher: Watcher) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a search between two reports; a second one ends it at once.

    While Tune runs it ends its loop on SIGUSR1; elsewhere a KeyboardInterrupt does no harm.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the caller's
        return
    stopping = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal stopping
        tune_listens = signal.getsignal(signal.SIGUSR1) is not before[signal.SIGUSR1]
        if stopping or not tune_listens:
            raise KeyboardInterrupt
        stopping = True
        watcher.say("stopping; what has ended is recorded (again to leave at once)")
        signal.raise_signal(signal.SIGUSR1)

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare(spec: SearchSpec, places: Places, ledger: Ledger, watcher: Watcher) -> None:
    """Make teachers and scores as Ray tasks, or find them in the cache."""
    needed = shared_artifacts(spec)
    if not needed:
        return
    watcher.say(f"preparing {counted(needed)}")
    resources = spec.resources
    task = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu)(_prepare_one)
    waiting = {
        task.remote(
            artifact.model_dump(mode="json"), type(artifact), places.cache, resources.cpu
        ): (artifact)
        for artifact in needed
    }
    while waiting:
        done, _ = ray.wait(list(waiting))
        for future in done:
            artifact = waiting.pop(future)
            try:
                metadata = ray.get(future)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                raise KdcurveError(
                    f"could not prepare the {artifact.label}: {type(cause).__name__}: {cause}; "
                    "a changed search file needs another name"
                ) from error
            ledger.record(EventKind.PREPARED, key=artifact.key, metadata=metadata)
            watcher.say(f"  {artifact.label}{_accuracy(metadata)}")


def _prepare_one(
    artifact: dict[str, Any], kind: type[Artifact], cache: Path, cpus: float
) -> dict[str, str]:
    pin_threads(cpus)
    return prepare(kind.model_validate(artifact), cache)


def _accuracy(metadata: dict[str, str]) -> str:
    accuracy = metadata.get("val_accuracy")
    return f": validation accuracy {100 * float(accuracy):.1f}%" if accuracy else ""


def _tune(spec: SearchSpec, places: Places, ledger: Ledger, concurrent: int) -> None:
    """Let Tune run the trials that are left."""
    objective = spec.objective
    resources = spec.resources
    searcher = CurveSearcher(
        spec, ledger, Studies(spec, places.folder(spec.name) / "optuna.journal")
    )
    scheduler = (
        InOrder() if spec.early_stopping.name == "none" else ContextAsha(spec, ledger, objective)
    )
    left = spec.trials - len(ledger.trials) + len(ledger.unfinished())
    if not left:
        return
    folder = places.tune / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(DistillationTrial, {"cpu": resources.cpu, "gpu": resources.gpu}),
        param_space={
            "objective": objective,
            "cache": str(places.cache),
            "cpus": resources.cpu,
        },
        tune_config=tune.TuneConfig(
            metric=objective,
            mode="max",
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=left,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(places.tune),
            callbacks=[Recorder(ledger, {c.key: spec.total_epochs(c) for c in spec.context_list})],
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    # It would warn, trial by trial, that the files of the loggers turned off are missing.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        tuner.fit()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, before)  # Tune leaves its own behind
    if not ledger.unfinished():
        shutil.rmtree(folder, ignore_errors=True)


def _git_commit() -> str | None:
    """Commit of this source tree, if it is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607  (whichever git the user has)
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()

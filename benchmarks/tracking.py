"""What does recording in MLflow cost Tune's event loop, and how much of it arrives a minute?

    python benchmarks/tracking.py [--quick]

The same work on both sides: trials that report 15 metrics an epoch, an epoch of every trial in
turn, with 13 parameters each, from their start to their end in MLflow. Stock is Ray's own
`MLflowLoggerCallback`, whose methods run on the loop. Ours is the recorder, which runs on the
loop, with the threads that write the record and deliver it to MLflow at work beside it; they also
get ten times the trials, since the second between two deliveries counts for much in short work.
Both write to MLflow on SQLite and to an `mlflow server` (over SQLite too). It is checked that all
arrived.

Prints a table, and as its last line one JSON object.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlflow.tracking import MlflowClient
from ray.air.integrations.mlflow import MLflowLoggerCallback
from rich.console import Console
from rich.table import Table

import search
from search.display import quiet
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.recorder import Recorder
from search.tracking import Delivery
from search.writer import writing
from trainables.record import EPOCH, TAG_TRIAL, VAL_R2, SearchState

METRICS = 15
"""A report's metrics, the epoch among them."""
PAUSE_S = 0.005
"""Between two reports to our recorder: Tune's loop waits for workers, too, and the delivery has to
run beside it. At most 12,000 reports a minute, more than is delivered."""
DELIVERY_TIMEOUT_S = 600.0
SERVER_START_S = 120.0


@dataclass(frozen=True)
class Work:
    """What is to be recorded."""

    name: str
    """Of the search, and so of MLflow's experiment."""
    trials: int
    epochs: int

    @property
    def reports(self) -> int:
        """Reports of all trials."""
        return self.trials * self.epochs


@dataclass
class Timing:
    """Seconds that recording took."""

    on_loop_s: list[float] = field(default_factory=list)
    """Of each report, on Tune's event loop."""
    wall_s: float = 0.0
    """From the first trial's start until all has arrived."""

    @contextlib.contextmanager
    def report(self) -> Iterator[None]:
        """Measure one report."""
        began = time.perf_counter()
        yield
        self.on_loop_s.append(time.perf_counter() - began)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Measure all of it."""
        began = time.perf_counter()
        yield
        self.wall_s = time.perf_counter() - began


def metrics(epoch: int, *named: str) -> dict[str, float]:
    """A report: the epoch under its name, and 14 more."""
    others = [f"metric_{i}" for i in range(METRICS - len(named))]
    return {**dict.fromkeys([*named, *others], 1.0 / epoch), named[0]: epoch}


def ridge_search(work: Work) -> search.SearchSpec:
    """A search whose trials run for that many epochs."""
    return search.parse_spec(
        {
            "name": work.name,
            "dataset": {"name": "ridge"},
            "student": "linear",
            "recipe": {"epochs": work.epochs},
            "contexts": {"method": "random", "fraction": 0.5, "teacher": "linear"},
            "budget": {"trials_per_context": max(5, work.trials)},  # 5 is the least
        }
    )


class Trial(SimpleNamespace):
    """As much of Tune's trial as Ray's callback looks at."""

    def __init__(self, number: int, params: dict[str, Any]) -> None:
        super().__init__(number=number, config=params)

    def __hash__(self) -> int:
        return self.number

    def __str__(self) -> str:
        return f"trial-{self.number}"


def stock(work: Work, folder: Path, tracking_uri: str) -> Timing:
    """Ray's callback, driven as Tune drives it."""
    spec = ridge_search(work)
    (context,) = spec.context_list
    params = spec.trial_params(context, spec.trial_config(context, {"kd_weight": 0.5}, 0))
    trials = [Trial(number, params) for number in range(work.trials)]
    callback = MLflowLoggerCallback(tracking_uri, experiment_name=work.name)
    callback.setup()
    timing = Timing()
    with timing.whole():
        for trial in trials:
            callback.log_trial_start(trial)
        for epoch in range(1, work.epochs + 1):
            for trial in trials:
                with timing.report():
                    callback.log_trial_result(0, trial, metrics(epoch, "training_iteration"))
        for trial in trials:
            callback.log_trial_end(trial)
    return timing


def ours(work: Work, folder: Path, tracking_uri: str) -> Timing:
    """The recorder as Tune drives it, with the record's and MLflow's threads beside it."""
    spec = ridge_search(work)
    (context,) = spec.context_list
    places = search.Places.at(folder / work.name, tracking_uri=tracking_uri)
    places.make()
    journal = Journal(places.record)
    timing = Timing()
    with writing(journal, spec.name, places.folder(spec.name)) as writer:
        ledger = Ledger(journal, spec.name, writer.append)
        ledger.record(EventKind.PLANNED, spec=spec.model_dump(mode="json", exclude_none=True))
        writer.flush()
        recorder = Recorder(ledger, {context.key: work.epochs})
        delivery = Delivery(journal, spec, places)
        delivery.start()
        trials: list[Any] = [
            SimpleNamespace(config={"number": number}) for number in range(work.trials)
        ]
        with timing.whole():
            for number, trial in enumerate(trials):
                ledger.record(
                    EventKind.PROPOSED, number,
                    context=context.key, values={"kd_weight": 0.5}, seed=0, start_design=False,
                )  # fmt: skip
                recorder.on_trial_start(0, [], trial)
            for epoch in range(1, work.epochs + 1):
                for trial in trials:
                    result = {"reports": [metrics(epoch, EPOCH, VAL_R2)]}
                    with timing.report():
                        recorder.on_trial_result(0, [], trial, result)
                    time.sleep(PAUSE_S)
            for trial in trials:
                recorder.on_trial_complete(0, [], trial)
            ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
            writer.flush()
            if not delivery.finish(DELIVERY_TIMEOUT_S):
                raise RuntimeError(f"not delivered: {delivery.failure}")
    journal.close()
    return timing


def check_arrival(work: Work, tracking_uri: str) -> None:
    """Make sure that MLflow has every trial, its end, and all epochs of its metrics."""
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(work.name)
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    trials = [r for r in runs if TAG_TRIAL in r.data.tags or "trial_name" in r.data.tags]
    whole = [r for r in trials if r.info.status == "FINISHED" and len(r.data.metrics) == METRICS]
    if len(trials) != work.trials or len(whole) != work.trials:
        raise RuntimeError(f"{work.trials} trials were sent, {len(whole)} are there as a whole")
    for run in (whole[0], whole[-1]):
        for name in run.data.metrics:
            steps = {point.step for point in client.get_metric_history(run.info.run_id, name)}
            if steps != set(range(1, work.epochs + 1)):
                raise RuntimeError(f"{run.info.run_name} has {len(steps)} epochs of {name}")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """An `mlflow server` on the loopback interface; yields its URI."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", (folder / "artifacts").as_uri()),
        ],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,  # it starts workers of its own, and is stopped with them
    )
    try:
        deadline = time.monotonic() + SERVER_START_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


SIDES: dict[str, tuple[Callable[[Work, Path, str], Timing], int]] = {
    "stock": (stock, 1),
    "kdcurve": (ours, 1),
    "kdcurve, 10 × the trials": (ours, 10),
}
"""How a side records, and how many times the trials it gets."""


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(rounds: int, trials: int, epochs: int, console: Console) -> dict[str, Any]:
    """Alternate the sides on every store."""
    timings: dict[tuple[str, str], list[Timing]] = {}
    reports: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "server") as served:
        folder = Path(name)
        stores = {"SQLite": f"sqlite:///{folder / 'mlflow.db'}", "server": served}
        for uri in stores.values():
            MlflowClient(uri).search_experiments()  # makes its tables, which takes seconds
        for number in range(rounds):
            for place, uri in stores.items():
                for i, (side, (record, times)) in enumerate(SIDES.items()):
                    work = Work(f"tracking-{number}-{place.lower()}-{i}", times * trials, epochs)
                    timing = record(work, folder, uri)
                    check_arrival(work, uri)
                    timings.setdefault((side, place), []).append(timing)
                    reports[side] = work.reports
                    console.print(
                        f"round {number + 1}: {side}, {place}: {work.reports} reports, "
                        f"{timing.wall_s:.1f} s"
                    )
    return {
        "n": rounds,
        "epochs": epochs,
        "metrics_per_report": METRICS,
        "pause_ms": 1000 * PAUSE_S,
        "figures": [
            {
                "side": side,
                "store": place,
                "reports": reports[side],
                "on_loop_ms": spread([1000 * statistics.mean(t.on_loop_s) for t in measured]),
                "longest_on_loop_ms": max(1000 * max(t.on_loop_s) for t in measured),
                "reports_per_minute": spread([60 * reports[side] / t.wall_s for t in measured]),
            }
            for (side, place), measured in timings.items()
        ],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What does recording cost Tune's event loop?")
    parser.add_argument("--quick", action="store_true", help="one round of short work")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default 3)")
    options = parser.parse_args()
    rounds, trials, epochs = (1, 2, 25) if options.quick else (options.rounds, 8, 25)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "log") as console:
        console.width = max(console.width, 120)
        figures = measure(rounds, trials, epochs, console)
        stock_rate = {
            f["store"]: f["reports_per_minute"]["median"]
            for f in figures["figures"]
            if f["side"] == "stock"
        }
        table = Table(
            "", "MLflow", "reports", "on the loop (ms)", "longest (ms)", "reports a minute",
            "× stock", box=None,
        )  # fmt: skip
        for f in figures["figures"]:
            f["times_stock"] = f["reports_per_minute"]["median"] / stock_rate[f["store"]]
            table.add_row(
                f["side"],
                f["store"],
                str(f["reports"]),
                "{median:.2f} [{min:.2f}, {max:.2f}]".format(**f["on_loop_ms"]),
                f"{f['longest_on_loop_ms']:.0f}",
                "{median:.0f} [{min:.0f}, {max:.0f}]".format(**f["reports_per_minute"]),
                f"{f['times_stock']:.1f}",
            )
        console.print(table)
    versions = {name: version(name) for name in ("kdcurve", "ray", "mlflow")}
    print(json.dumps({**figures, "cpus": os.cpu_count(), "versions": versions}))


if __name__ == "__main__":
    main()

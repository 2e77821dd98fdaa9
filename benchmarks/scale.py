"""What does a long search need of its head, the database and the storage?

    python benchmarks/scale.py [TRIALS ...]

Searches on the closed-form problem, whose trials train for about a millisecond (9 epochs, two at
a time), with record and MLflow in SQLite: 100, 1,000 and 10,000 trials unless others are named, of
10 trials a context. The first six tenths are the starting design, for which no sampler is asked,
then the curve sampler proposes. Measured are, in the driver: its memory; the time that Tune's
event loop spends on a proposal and on a report (record and early stopping together); how long after
its end a trial is in MLflow; and what the record, MLflow and the storage have grown by. Each
search has a process of its own.

Prints a table, and as its last line one JSON object; what is measured of each search as soon as it
ends, to stderr.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil
from overhead import EPOCHS, SLOTS, Watch, fresh, ridge_search, run_ours
from rich.console import Console
from rich.table import Table

import search
from search.display import quiet
from search.recorder import Recorder
from search.scheduler import ContextRungs, InOrder
from search.searcher import CurveSearcher
from search.tracking import Delivery

SIZES = (100, 1000, 10_000)
PER_CONTEXT = 10
SAMPLE_EVERY_S = 0.2


class Sample(NamedTuple):
    """The driver at one moment."""

    at_s: float
    proposed: int
    ended: int
    delivered: int
    resident: int
    """Bytes of memory."""


class Sampling(Watch):
    """A watcher that samples the driver until `stop` is called."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.deliveries: list[Delivery] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, spec: search.SearchSpec, ledger: Any) -> Iterator[None]:
        """Start to sample; what the delivery does after the last trial is of interest too."""
        self._thread = threading.Thread(target=self._sample, args=(ledger,), daemon=True)
        with super().watching(spec, ledger):
            self._thread.start()
            yield

    def _sample(self, ledger: Any) -> None:
        process = psutil.Process()
        while True:
            proposed = len(ledger.trials)
            ended = proposed - len(ledger.unfinished())
            delivered = self.deliveries[0].delivered
            memory = process.memory_info().rss
            self.samples.append(Sample(time.perf_counter(), proposed, ended, delivered, memory))
            if self._over.wait(SAMPLE_EVERY_S):
                return

    def stop(self) -> None:
        """Take a last sample."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def made(self, *arguments: Any, **keywords: Any) -> Delivery:
        """Make a delivery and keep it in view."""
        self.deliveries.append(Delivery(*arguments, **keywords))
        return self.deliveries[-1]


def timed(owner: type, name: str) -> list[float]:
    """Measure every call of a method from now on; returns the list that takes the seconds."""
    method, seconds = getattr(owner, name), []

    @functools.wraps(method)
    def measured(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*arguments, **keywords)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(owner, name, measured)
    return seconds


def lags(samples: list[Sample]) -> list[float]:
    """Seconds by which MLflow is behind at each sample: how long its next trial has ended."""
    ended = [sample.ended for sample in samples]
    behind = []
    for sample in samples:
        first = bisect_right(ended, sample.delivered)  # when more than these had ended
        since = samples[first].at_s if first < len(samples) else sample.at_s
        behind.append(max(0.0, sample.at_s - since))
    return behind


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder; of a database with its journal."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def measure(trials: int) -> dict[str, float]:
    """Run one search in this process."""
    proposals = timed(CurveSearcher, "suggest")
    reports = [timed(Recorder, "on_trial_result"), timed(InOrder, "on_trial_result")]
    assert "on_trial_result" not in vars(ContextRungs)  # it is measured with the others
    sampling = Sampling()
    with tempfile.TemporaryDirectory() as name, quiet(Path(name) / "log"):
        home = Path(name) / "home"
        places = search.Places.at(home)
        with mock.patch("search.launch.Delivery", side_effect=sampling.made):
            wall_s = run_ours(home, ridge_search(trials, PER_CONTEXT), sampling)["wall_s"]
        sampling.stop()
        record, mlflow = size(home / "record.db"), size(home / "mlflow.db")
        files = size(places.storage) - record - mlflow
    samples, last = sampling.samples, next(s for s in sampling.samples if s.ended == trials)
    return {
        "trials": trials,
        "wall_s": wall_s,
        "trials_per_minute": 60 * trials / (last.at_s - sampling.began),
        "driver_mb": samples[-1].resident / 1e6,
        "driver_kb_per_trial": (samples[-1].resident - samples[0].resident) / 1e3 / trials,
        "proposal_ms": 1000 * statistics.median(proposals),
        "longest_proposal_ms": 1000 * max(proposals),
        "report_ms": 1000 * sum(map(statistics.median, reports)),
        "longest_report_ms": 1000 * max(map(max, reports)),
        "reports_per_trial": len(reports[0]) / trials,
        "lag_s": statistics.median(lags(samples)),
        "longest_lag_s": max(lags(samples)),
        "record_kb_per_trial": record / 1e3 / trials,
        "mlflow_kb_per_trial": mlflow / 1e3 / trials,
        "files_kb_per_trial": files / 1e3 / trials,
    }


ROWS: dict[str, Callable[[dict[str, float]], str]] = {
    "trials a minute": lambda m: f"{m['trials_per_minute']:.0f}",
    "driver's memory (MB)": lambda m: f"{m['driver_mb']:.0f}",
    "  grown (kB a trial)": lambda m: f"{m['driver_kb_per_trial']:.0f}",
    "proposal on the loop (ms), longest": lambda m: (
        f"{m['proposal_ms']:.1f}, {m['longest_proposal_ms']:.0f}"
    ),
    "report on the loop (ms), longest": lambda m: (
        f"{m['report_ms']:.2f}, {m['longest_report_ms']:.0f}"
    ),
    "MLflow behind (s), longest": lambda m: f"{m['lag_s']:.1f}, {m['longest_lag_s']:.1f}",
    "record (kB a trial)": lambda m: f"{m['record_kb_per_trial']:.1f}",
    "MLflow's database (kB a trial)": lambda m: f"{m['mlflow_kb_per_trial']:.1f}",
    "files (kB a trial)": lambda m: f"{m['files_kb_per_trial']:.1f}",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What does a long search need?")
    parser.add_argument("trials", type=int, nargs="*", default=SIZES, help="multiples of 100")
    sizes = parser.parse_args().trials
    if any(trials < 100 or trials % 100 for trials in sizes):
        parser.error("allowed: multiples of 100")
    measured = []
    for trials in sizes:
        measured.append(fresh(measure, trials))
        print(json.dumps(measured[-1]), file=sys.stderr, flush=True)  # the next may take an hour
    table = Table("trials", *(f"{trials:,}" for trials in sizes), box=None)
    for row, show in ROWS.items():
        table.add_row(row, *map(show, measured))
    Console(width=100).print(table)
    versions = {name: version(name) for name in ("kdcurve", "ray", "optuna", "mlflow")}
    about = {"n": 1, "slots": SLOTS, "epochs": EPOCHS, "cpus": os.cpu_count()}
    print(json.dumps({**about, "searches": measured, "versions": versions}))


if __name__ == "__main__":
    main()

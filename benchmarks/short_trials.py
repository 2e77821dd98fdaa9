"""What does it save to leave short trials to Tune's pending queue instead of Ray's FIFO choice?

    python benchmarks/short_trials.py

Alternates whole searches on the closed-form problem (trials of a millisecond, two at a time)
with both ways of choosing the next trial. Prints seconds spent in trials, and as its last line
one JSON object.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler

import search
from search.display import quiet
from search.scheduler import InOrder

ROUNDS = 3
SEARCH = {
    "name": "short",
    "dataset": {"name": "ridge"},
    "student": "linear",
    "recipe": {"epochs": 9},
    "contexts": {"method": "random", "fraction": [0.1, 0.3, 0.5, 0.9], "teacher": "linear"},
    "budget": {"trials_per_context": 18},
    "resources": {"concurrent": 2},
}


class Stopwatch:
    """A watcher that measures how long the trials take."""

    seconds = 0.0

    def say(self, text: str) -> None:
        """Ignore it."""

    @contextmanager
    def watching(self, *_: object) -> Iterator[None]:
        """Measure."""
        began = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - began


def run() -> float:
    """Seconds in trials of one search."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as home, quiet(Path(home) / "log"):
        search.run(search.parse_spec(SEARCH), search.Places.at(home), watcher=watch)
    return watch.seconds


def main() -> None:
    """Measure and print."""
    ours, rays = InOrder.choose_trial_to_run, FIFOScheduler.choose_trial_to_run
    seconds: dict[str, list[float]] = {"pending queue": [], "FIFO choice": []}
    for _ in range(ROUNDS):
        for name, choice in (("pending queue", ours), ("FIFO choice", rays)):
            InOrder.choose_trial_to_run = choice
            seconds[name].append(run())
    for name, values in seconds.items():
        print(f"{name:14} median {statistics.median(values):5.1f} s  {sorted(values)}")
    ratio = statistics.median(seconds["FIFO choice"]) / statistics.median(seconds["pending queue"])
    versions = {name: version(name) for name in ("kdcurve", "ray")}
    print(json.dumps({"seconds": seconds, "ratio": ratio, "n": ROUNDS, "versions": versions}))


if __name__ == "__main__":
    main()

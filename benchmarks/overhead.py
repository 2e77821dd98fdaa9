"""What does a trial cost beyond its training? kdcurve beside the stock tools.

    python benchmarks/overhead.py [--quick]

Searches on the closed-form problem, whose trials train for about a millisecond: 9 epochs, two
trials at a time, ASHA with its rung at epoch 3. Whatever else they take is overhead, from the
proposal to the run in MLflow (SQLite). Each search has a process, a Ray and a database of its own
and is timed from its first trial until all is in MLflow. What is paid once (the first workers, the
end of Ray) is taken out: of two searches of different size, the difference in time by the
difference in trials, times two for the two slots. `stock.py` says what the stock side is.

Prints a table, and as its last line one JSON object.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import stock
from rich.console import Console
from rich.table import Table

import search
from analysis.errors import AnalysisError
from search.display import quiet
from trainables.record import Outcome

SLOTS = 2
"""Trials at a time."""
EPOCHS = 9
FRACTIONS = [round(0.1 * tenth, 1) for tenth in range(1, 11)]
SPACE = {"fractions": FRACTIONS, "seeds": [0, 1], "epochs": EPOCHS}
DELIVERY_TIMEOUT_S = 3600.0

VARIANTS = {
    "stock": ((8, 40), (4, 16)),
    "stock, reuse_actors": ((8, 60), (4, 24)),
    "kdcurve": ((100, 600), (100, 300)),
}
"""Trials of the smaller and the larger search; the same with ``--quick``."""


class Watch:
    """A watcher that notes when trials begin."""

    began = 0.0

    def say(self, text: str) -> None:
        """Ignore it."""

    @contextmanager
    def watching(self, spec: search.SearchSpec, ledger: Any) -> Iterator[None]:
        """Note the time."""
        self.began = time.perf_counter()
        yield


def ridge_search(trials: int, per_context: int) -> search.SearchSpec:
    """A search of so many trials, so many of them in each of its contexts."""
    parts = trials // (per_context * len(FRACTIONS))
    return search.parse_spec(
        {
            "name": "overhead",
            "dataset": {"name": "ridge"},
            "student": "linear",
            "recipe": {"epochs": EPOCHS},
            "contexts": {
                "method": "random",
                "fraction": FRACTIONS,
                "teacher": "linear",
                "teacher_fraction": [round((part + 1) / parts, 6) for part in range(parts)],
            },
            "seeds": {"trials": len(SPACE["seeds"])},
            "budget": {"trials_per_context": per_context},
            "resources": {"concurrent": SLOTS},
        }
    )


def run_ours(folder: Path, spec: search.SearchSpec, watch: Watch) -> dict[str, float]:
    """Run one search of ours; seconds from its first trial to its end."""
    # Answers are for a search, not for a trial, and would hide that MLflow lags behind.
    unanswered = AnalysisError("only the trials are timed")
    with (
        mock.patch("search.launch.publish", side_effect=unanswered),
        # A search of thousands of trials leaves more to MLflow than it waits for by default.
        mock.patch("search.launch.DELIVERY_TIMEOUT_S", DELIVERY_TIMEOUT_S),
    ):
        result = search.run(spec, search.Places.at(folder), watcher=watch)
    wall_s = time.perf_counter() - watch.began
    outcomes = Counter(trial.outcome for trial in result.ledger.trials.values())
    stopped = outcomes[Outcome.STOPPED_EARLY]
    if result.undelivered or outcomes[Outcome.COMPLETE] + stopped != spec.trials:
        raise RuntimeError(f"undelivered: {result.undelivered}; {dict(outcomes)}")
    return {"wall_s": wall_s, "stopped_early": stopped / spec.trials}


def measure(variant: str, trials: int) -> dict[str, float]:
    """Run one search in this process."""
    with tempfile.TemporaryDirectory() as name, quiet(Path(name) / "log"):
        folder = Path(name)
        if variant == "kdcurve":
            return run_ours(folder, ridge_search(trials, trials // len(FRACTIONS)), Watch())
        return stock.run_search(
            folder, SPACE, trials, SLOTS, reuse_actors=variant == "stock, reuse_actors"
        )


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(rounds: int, quick: bool, console: Console) -> dict[str, Any]:
    """Alternate the variants; overhead in seconds that a slot spends on a trial."""
    sizes = {name: both[quick] for name, both in VARIANTS.items()}
    overheads: dict[str, list[float]] = {name: [] for name in VARIANTS}
    stopped: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for size in range(2):
            for name, trials in sizes.items():
                run = fresh(measure, name, trials[size])
                runs[name].append(run)
                wall = f"{run['wall_s']:.1f} s"
                console.print(f"round {number + 1}: {name}, {trials[size]} trials, {wall}")
        for name, (few, many) in runs.items():
            small, large = sizes[name]
            overheads[name].append(SLOTS * (many["wall_s"] - few["wall_s"]) / (large - small))
            stopped[name].append(many["stopped_early"])
    ours = statistics.median(overheads["kdcurve"])
    table = Table("", "trials", "overhead (s)", "× kdcurve", "stopped early", box=None)
    figures = {}
    for name, values in overheads.items():
        seconds, early = spread(values), statistics.median(stopped[name])
        times = seconds["median"] / ours
        figures[name] = {
            "trials": sizes[name],
            "overhead_s": seconds,
            "trials_per_minute": 60 * SLOTS / seconds["median"],
            "times_kdcurve": times,
            "stopped_early": early,
        }
        table.add_row(
            name,
            " and ".join(map(str, sizes[name])),
            "{median:.3f} [{min:.3f}, {max:.3f}]".format(**seconds),
            f"{times:.1f}",
            f"{early:.0%}",
        )
    console.print(table)
    return {"n": rounds, "slots": SLOTS, "epochs": EPOCHS, "variants": figures}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What does a trial cost beyond its training?")
    parser.add_argument("--quick", action="store_true", help="one round of short searches")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default 3)")
    options = parser.parse_args()
    console = Console(width=100)
    figures = compare(1 if options.quick else options.rounds, options.quick, console)
    versions = {name: version(name) for name in ("kdcurve", "ray", "optuna", "mlflow")}
    print(json.dumps({**figures, "cpus": os.cpu_count(), "versions": versions}))


if __name__ == "__main__":
    main()

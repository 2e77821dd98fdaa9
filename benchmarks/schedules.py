"""What do families of schedules lose at fractions that nobody ran, and do their bands hold?

    python benchmarks/schedules.py [--table T.parquet] [--replications 30] [--sampler curve]

Searches are replayed on a response table (or a table of counts, see `search_efficiency.py`) whose
truth is the mean over all its seeds. Each is answered and gets a schedule. Every fraction is held
out in turn as `fit_schedule` does; what a family loses there is counted by the truth, in points:
the mean score at the truly best KD weight less that at the one the family recommends. Inside the
range that was shown and past its ends are told apart. Regrets are first averaged over the contexts
of a replication; the error is that of the mean over replications.

Rules of choosing a family are judged too: one for the whole schedule or one per method and teacher,
if it is better than the simplest by so many standard errors. Each chooses without the fraction that
it is judged at.

Bands: how often they hold the truly best KD weight (to half a step of the table) at fractions that
were fitted on, and at one inside that was left out of the search's trials altogether.

Prints tables, and as its last line one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from search_efficiency import convert, searches
from threadpoolctl import threadpool_limits

from analysis.choice import choose, compare
from analysis.curve import fit_curve
from analysis.document import HeldOut
from analysis.laws import LAWS
from analysis.scheduling import fit_schedule
from analysis.table import ResponseTable, read_table
from search.frame import runs_frame
from search.places import Places
from search.replay import TableWorld
from search.simulator import simulate
from search.space import SearchSpec
from search.specfile import parse_spec
from search.worlds import settings as settings_of

TABLE = Path(__file__).parent / "data" / "digits.parquet"
RULES = {
    "one family for all, 1 error": (False, 1.0, 0.0),
    "one family for all, 2 errors": (False, 2.0, 0.0),
    "one family for all, 1 error and 0.1 points": (False, 1.0, 0.001),
    "per method, 1 error": (True, 1.0, 0.0),
    "per method, 1 error and 0.1 points": (True, 1.0, 0.001),
}
"""Whether a family is chosen for each method and teacher, and by how much it must be better."""
FINE = np.linspace(0.0, 1.0, 201)

Truth = Callable[[str, float], np.ndarray]
"""Method and fraction → the true mean score at `FINE`."""


@lru_cache(maxsize=1)
def problems(path: Path) -> tuple[ResponseTable, list[dict[str, Any]]]:
    """The table and a search for each of its parts."""
    counts = "correct" in pq.read_schema(path).names
    table = convert(path) if counts else read_table(path)
    return table, searches(table)


@lru_cache
def world_of(path: Path, part: int, sampler: str, trials: int) -> tuple[SearchSpec, TableWorld]:
    """A search on a part of the table, and what answers it."""
    table, raws = problems(path)
    raw = {
        **raws[part],
        "seeds": {"trials": 16},
        "early_stopping": {"name": "none"},
        "sampler": sampler,
        "budget": {"trials_per_context": trials},
    }
    spec = parse_spec(raw, raw["name"])
    return spec, TableWorld(table, spec)


def replay(path: Path, part: int, draw: int, options: dict[str, Any]) -> dict[str, Any]:
    """One search on a part of the table: regrets and bands by the truth."""
    spec, world = world_of(path, part, options["sampler"], options["trials"])
    with threadpool_limits(1):
        played = simulate(spec, world, draw=draw, workers=1)
        runs = runs_frame(played.ledger, Places.at("unused"))
        settings = {
            (context.values["method"], context.values["fraction"]): setting
            for context, setting in settings_of(spec)
        }

        @cache
        def truth(method: str, fraction: float) -> np.ndarray:
            (near,) = [k for k in settings if k[0] == method and np.isclose(k[1], fraction)]
            return world.truth(settings[near], FINE)

        curve = fit_curve(runs)
        schedule = fit_schedule(curve, runs)
        step = 0.5 * np.diff(np.unique(problems(path)[0].rows["kd_weight"])).min()
        return {
            "lost": [
                {"inside": each.inside, **lost}
                for each in schedule.held_out
                for lost in [judged(each, schedule.held_out, truth)]
            ],
            "bands": list(bands(curve, runs, truth, step, draw))
            if draw <= options["bands"]
            else [],
        }


def judged(held: HeldOut, others: Sequence[HeldOut], truth: Truth) -> dict[str, float]:
    """Points lost at a held-out fraction, by family and by rule of choosing one."""
    line = truth(held.method, held.fraction)

    def lost(weight: float) -> float:
        return 100 * float(line.max() - np.interp(weight, FINE, line))

    shown = [each for each in others if each.fraction != held.fraction]
    own = [each for each in shown if (each.method, each.teacher) == (held.method, held.teacher)]
    chosen = {
        rule: choose(compare(own if apart else shown), errors, least)[0]
        for rule, (apart, errors, least) in RULES.items()
    }
    return {
        **{family: lost(weight) for family, weight in held.kd_weight.items()},
        **{rule: lost(held.kd_weight[family]) for rule, family in chosen.items()},
    }


def bands(
    curve: pd.DataFrame, runs: pd.DataFrame, truth: Truth, step: float, draw: int
) -> Iterator[tuple[str, str, bool, float]]:
    """Family, where, whether the band held the truth, and its width."""
    fractions = sorted(curve["fraction"].unique())
    left_out = fractions[1 + draw % (len(fractions) - 2)]
    part = runs[~np.isclose(runs["fraction"], left_out)]
    part.attrs = runs.attrs
    fewer = fit_curve(part)
    for where, known, trials, asked in (
        ("fitted", curve, runs, fractions),
        ("left out", fewer, part, [left_out]),
    ):
        for family in LAWS:
            schedule = fit_schedule(known, trials if family == "surface" else None, family)
            for law in schedule.laws:
                for fraction in asked:
                    named = {"method": law.method, "teacher": law.teacher}
                    low, high = schedule.band(fraction, **named)
                    best = FINE[truth(law.method, fraction).argmax()]
                    yield family, where, low - step <= best <= high + step, high - low


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--replications", type=int, default=30)
    parser.add_argument("--sampler", default="grid-crn", help="of the searches")
    parser.add_argument("--trials", type=int, default=10, help="per context")
    parser.add_argument("--bands", type=int, default=8, help="replications whose bands are tried")
    parser.add_argument("--processes", type=int, default=2)
    options = vars(parser.parse_args())
    path, draws = options["table"], range(1, 1 + options["replications"])
    parts = range(len(problems(path)[1]))
    began = time.perf_counter()
    with ProcessPoolExecutor(options["processes"]) as pool:
        waiting = [
            [pool.submit(replay, path, part, draw, options) for part in parts] for draw in draws
        ]
        found = [[each.result() for each in row] for row in waiting]
    console = Console(width=120)
    figures: dict[str, Any] = {"regret": {}, "bands": {}}
    table = Table("points lost", "inside the range", "less the simplest", "past its ends", box=None)
    simplest = next(iter(LAWS))
    for name in (*LAWS, *RULES):
        means = {
            inside: np.array(
                [
                    [
                        np.mean(
                            [r[column] for one in row for r in one["lost"] if r["inside"] == inside]
                        )
                        for column in (name, simplest)
                    ]
                    for row in found
                ]
            )
            for inside in (True, False)
        }  # fmt: skip
        figures["regret"][name] = {
            "inside": spread(means[True][:, 0]),
            "difference": spread(means[True][:, 0] - means[True][:, 1]),
            "ends": spread(means[False][:, 0]),
            "ends_difference": spread(means[False][:, 0] - means[False][:, 1]),
        }
        row = figures["regret"][name]
        table.add_row(
            name,
            "{:.3f} ± {:.3f}".format(*row["inside"]),
            "{:+.3f} ± {:.3f}".format(*row["difference"]),
            "{:.3f} ± {:.3f}".format(*row["ends"]),
        )
    console.print(table)
    held = pd.DataFrame(
        [band for row in found for one in row for band in one["bands"]],
        columns=["family", "where", "holds", "width"],
    )
    if len(held):
        table = Table("90% bands", "hold, fitted", "width", "hold, left out", "width", box=None)
        for family in LAWS:
            cells = []
            for where in ("fitted", "left out"):
                mine = held[(held["family"] == family) & (held["where"] == where)]
                holds, width = float(mine["holds"].mean()), float(mine["width"].mean())
                figures["bands"][f"{family}, {where}"] = [round(holds, 4), round(width, 4)]
                cells += [f"{holds:.1%}", f"{width:.3f}"]
            table.add_row(family, *cells)
        console.print(table)
    print(
        json.dumps(
            {
                **figures,
                "n": options["replications"],
                "sampler": options["sampler"],
                "trials_per_context": options["trials"],
                "contexts": int(sum(len(one["lost"]) for one in found[0])),
                "seconds": round(time.perf_counter() - began, 1),
                "versions": {name: version(name) for name in ("kdcurve", "numpy", "scipy")},
            }
        )
    )


def spread(values: np.ndarray) -> list[float]:
    """Mean and its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return [round(float(values.mean()), 4), round(float(error), 4)]


if __name__ == "__main__":
    main()

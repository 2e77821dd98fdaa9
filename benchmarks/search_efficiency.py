"""How much compute does each way of searching need for how good an answer?

    python benchmarks/search_efficiency.py [--table T.parquet] [--quick] [--only NAME ...]
    python benchmarks/search_efficiency.py --convert COUNTS.parquet T.parquet

Every strategy searches the same problems, simulated in virtual time by the searcher, scheduler
and record of a real search: the closed-form ridge problem, whose truth is exact, and response
tables (the project's own of digits, unless others are named), whose truth is the mean over all
their seeds and whose runs all have as many epochs. Each replication has seeds of its own; slow
strategies have fewer replications. One sweep is the compute of one full run in every context, in
epochs × kept samples. The regret is the true mean score at the best KD weight minus that at the
recommended one, in points (hundredths of accuracy, or of R²), averaged over contexts. A context
without a complete trial is answered with KD weight 0, that is, without distillation.

Answers are asked of a search under way: what it would say if it were stopped after so many
sweeps. Prints a table, and as its last line one JSON object.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.samplers import TPESampler
from optuna.trial import TrialState as OptunaState
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from analysis.estimators import ESTIMATORS, Trials, quadratic
from analysis.table import ResponseTable, read_table, write_table
from search.designer import Known, Proposal
from search.ledger import TrialState
from search.replay import TableWorld
from search.samplers.coding import likelihoods
from search.samplers.planned import fixed_trials
from search.samplers.table import DESIGNERS
from search.scheduler import ContextRungs
from search.simulator import MakeDesigner, Simulated, simulate, sweep_samples
from search.space import SearchSpec
from search.specfile import parse_spec
from search.studies import Studies, distributions
from search.worlds import RidgeWorld, World
from trainables.record import VAL_ACCURACY, Outcome
from trainables.seeds import derive

CHECKPOINTS = (
    *(1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 11),
    *(13, 16, 20, 25, 33),
)
"""Sweeps at which answers are asked for."""
SHOWN = (1, 2, 3, 4, 5, 8, 10, 11, 16, 20, 33)
TARGETS = (0.25, 0.15, 0.08)
BUDGET = 33
"""Trials per context that a search is planned for; it ends when its compute is spent."""
SEEDS = 64
"""Trial seeds that strategies with independent noise may use; a table may have fewer."""
FINE = np.linspace(0.0, 1.0, 201)
"""KD weights among which the truly best one is looked for."""
TABLE = Path(__file__).parent / "data" / "digits.parquet"
"""Searched when no other table is named."""
TABLE_EPOCHS = (1, 2, 3, 5, 9, 13, 18, 22, 27)
"""Epochs kept of a table of counts."""

Ended = dict[str, list[TrialState]]
"""Trials that ended, by context key."""
Answer = Callable[[SearchSpec, Ended], dict[str, float]]
"""What ended so far to the recommended KD weight of every context."""


def each(answer: Callable[[list[TrialState]], float]) -> Answer:
    """Answer for every context from its own trials alone."""
    return lambda _, ended: {key: answer(trials) for key, trials in ended.items()}


# Ways to answer.


def best_trial(trials: list[TrialState]) -> float:
    """The KD weight of the best complete trial."""
    done = complete(trials)
    top = max(done, key=lambda t: t.scores[t.epoch], default=None)
    return float(top.values["kd_weight"]) if top else 0.0


def best_cell(trials: list[TrialState]) -> float:
    """The KD weight with the best mean over its complete trials."""
    cells: dict[float, list[float]] = {}
    for trial in complete(trials):
        cells.setdefault(trial.values["kd_weight"], []).append(trial.scores[trial.epoch])
    return max(cells, key=lambda weight: float(np.mean(cells[weight])), default=0.0)


def parabola(trials: list[TrialState]) -> float:
    """The maximum of a parabola with seed effects; the best cell where it cannot be fitted."""
    done = complete(trials)
    weights = np.array([t.values["kd_weight"] for t in done])
    scores = np.array([t.scores[t.epoch] for t in done])
    seeds = np.array([t.seed for t in done], dtype=np.int64)
    found = quadratic(Trials(weights, scores, seeds), 0.9).kd_weight.value if done else np.nan
    return best_cell(trials) if np.isnan(found) else found


def joint(spec: SearchSpec, ended: Ended) -> dict[str, float]:
    """The surface shared by all contexts; the best cell where it does not answer."""
    contexts = [c for c in spec.context_list if complete(ended[c.key])]
    given = []
    for context in contexts:
        done = complete(ended[context.key])
        weights = np.array([t.values["kd_weight"] for t in done])
        scores = np.array([t.scores[t.epoch] for t in done])
        seeds = np.array([t.seed for t in done], dtype=np.int64)
        nll = likelihoods(done)
        given.append(Trials(weights, scores, seeds, fixed=dict(context.values), nll=nll))
    answers = dict.fromkeys(ended, 0.0) | {
        context.key: found.kd_weight.value
        for context, found in zip(contexts, ESTIMATORS["surface"](given, 0.9), strict=True)
    }
    return {
        key: best_cell(ended[key]) if np.isnan(weight) else weight
        for key, weight in answers.items()
    }


def complete(trials: Iterable[TrialState]) -> list[TrialState]:
    """Those that had their full budget."""
    return [trial for trial in trials if trial.outcome is Outcome.COMPLETE]


# Ways to choose that the project does not offer: what is usual elsewhere.


class Turns:
    """Contexts take turns; a function chooses from the number of the trial in its context."""

    def __init__(
        self, spec: SearchSpec, choose: Callable[[str, list[TrialState]], tuple[float, int]]
    ) -> None:
        self._spec, self._choose = spec, choose

    def propose(self, known: Known) -> Proposal | None:
        """The next trial of the context with the fewest."""
        context = min(self._spec.context_list, key=lambda c: len(known.get(c.key, ())))
        trials = list(known.get(context.key, ()))
        if len(trials) >= fixed_trials(self._spec):
            return None
        weight, seed = self._choose(context.key, trials)
        return Proposal(context, {"kd_weight": weight}, seed)

    def accepted(self, number: int) -> None:
        """Nothing to remember."""


class StockTpe:
    """Optuna's TPE as it comes, a study a context, every trial with a seed of its own.

    A trial that was stopped early is told as complete with the score that it had, as Ray's
    `OptunaSearch` does.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self._spec, self._space = spec, distributions(spec)
        self._studies: dict[str, optuna.Study] = {}
        self._told: dict[str, int] = {}

    def __call__(self, context: str, trials: list[TrialState]) -> tuple[float, int]:
        """What TPE says of a context, all of whose trials have ended."""
        if context not in self._studies:
            seed = derive(self._spec.seed, "stock", context) % 2**32
            self._studies[context] = optuna.create_study(
                direction="maximize", sampler=TPESampler(seed=seed)
            )
        study = self._studies[context]
        for trial in trials[self._told.get(context, 0) :]:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(trial.values),
                    distributions=self._space,
                    value=trial.scores[trial.epoch],
                )
            )
        self._told[context] = len(trials)
        asked = study.ask(self._space)
        study.tell(asked, state=OptunaState.FAIL)  # it comes back with its score
        return asked.params["kd_weight"], len(trials) % self._spec.seeds.trials


def stock_tpe(spec: SearchSpec, _: Studies) -> Turns:
    """Turns between the studies of all contexts."""
    return Turns(spec, StockTpe(spec))


class StockAsha(ContextRungs):
    """ASHA per context over all seeds alike."""

    def _enter(self, state: TrialState, epoch: int, score: float) -> bool:
        return super()._enter(replace(state, seed=0), epoch, score)


@dataclass(frozen=True)
class Strategy:
    """A way to choose trials, and ways to answer from them."""

    designer: str | MakeDesigner
    """Name of a sampler, or a function that makes a designer."""
    answers: dict[str, Answer]
    """By the name that goes into the table."""
    sections: dict[str, Any] = field(default_factory=dict)
    """Parts of the search file that differ: early stopping is off, a trial has `SEEDS` seeds."""
    sweeps: float = 33
    """Compute that it may spend; answers are not asked for beyond."""
    scheduler: type[ContextRungs] | None = None
    replications: int = 30
    likelihoods: bool = True
    """Whether trials report the likelihood of their logits beside the accuracy."""


def asha(grace: int) -> dict[str, Any]:
    """Early stopping with a grace period of so many epochs."""
    return {"early_stopping": {"name": "asha", "grace_epochs": grace}}


THREE_SEEDS = {"seeds": {"trials": 3}}
STRATEGIES: dict[str, Strategy] = {
    "curve": Strategy("curve", {"curve: knowledge gradient, surface": joint}, sweeps=8),
    "curve-accuracy": Strategy(
        "curve",
        {"curve, from accuracy alone": joint},
        sweeps=8,
        replications=6,
        likelihoods=False,
    ),
    "curve-asha": Strategy(
        "curve",
        {"curve + ASHA, a third as grace": joint},
        {"early_stopping": {"name": "asha"}},
        sweeps=8,
        replications=6,
    ),
    "grid": Strategy("grid", {"grid of 11": each(best_cell)}),
    "grid-crn": Strategy("grid-crn", {"grid of 5, common seeds": each(best_cell)}),
    "tpe": Strategy(
        stock_tpe,
        {
            "TPE per context, best trial": each(best_trial),
            "TPE per context, parabola": each(parabola),
        },
        replications=10,
    ),
    "tpe-surface": Strategy(
        stock_tpe, {"TPE per context, surface": joint}, sweeps=11, replications=4
    ),
    "tpe-asha-1": Strategy(
        stock_tpe, {"TPE + ASHA grace 1": each(best_trial)}, asha(1), 11, StockAsha, 10
    ),
    "tpe-asha-3": Strategy(
        stock_tpe, {"TPE + ASHA grace 3": each(best_trial)}, asha(3), 11, StockAsha, 10
    ),
    "kdcurve-random": Strategy(
        "random", {"random from 0, ½, 1; parabola": each(parabola)}, THREE_SEEDS, 11
    ),
    "kdcurve-tpe": Strategy(
        "tpe", {"TPE from 0, ½, 1; parabola": each(parabola)}, THREE_SEEDS, 11, replications=10
    ),
    "ray-stock": Strategy(
        "ray-stock", {"joint TPE + ASHA": each(best_trial)}, asha(1), 11, replications=10
    ),
    "one-epoch-top-k": Strategy("one-epoch-top-k", {"one epoch, top k": each(best_cell)}, {}, 11),
}
"""Strategies whose sampler this version does not have are left out, and that is said."""


# Problems.


@dataclass(frozen=True)
class Problem:
    """What is searched, and whether it is cheap to know its truth."""

    raw: dict[str, Any]
    table: Path | None = None


RIDGE = {
    "name": "ridge",
    "dataset": {"name": "ridge"},
    "student": "linear",
    "recipe": {"epochs": 27},
    "contexts": {
        "method": "random",
        "fraction": [0.1, 0.2, 0.3, 0.5, 0.7, 0.9],
        "teacher": "linear",
    },
}


def families(tables: list[Path]) -> dict[str, list[Problem]]:
    """Problems by family; searches on the parts of a table are counted together."""
    found = {"ridge": [Problem(RIDGE)]}
    for path in tables:
        found[path.stem] = [Problem(raw, path) for raw in searches(_table(path))]
    return found


def searches(table: ResponseTable) -> list[dict[str, Any]]:
    """A search for every data set, label noise and student of a table."""
    made = []
    for (dataset, noise, student), rows in table.rows.groupby(
        ["dataset", "label_noise", "student"]
    ):
        listed = {
            name: sorted(rows[name].unique().tolist())
            for name in ("method", "fraction", "teacher", "teacher_fraction", "temperature")
        }
        listed["teacher"] = [f"table:{name}" for name in listed["teacher"]]
        made.append(
            {
                "name": f"{dataset.replace('_', '-')}-noise-{round(100 * noise)}",
                "dataset": {"name": dataset, "label_noise": noise},
                "student": f"table:{student}",
                "recipe": {"epochs": int(rows["epoch"].max())},
                "contexts": listed,
                "seeds": {"trials": min(SEEDS, rows["seed"].nunique())},
                "counted": {
                    "train_samples": table.train_samples,
                    "classes": table.classes,
                    "shape": [1],
                },
            }
        )
    return made


def convert(source: Path) -> ResponseTable:
    """A table of counts as a response table.

    Args:
        source: one row per run, with `label_noise`, `method`, `fraction`, `kd_weight`, `seed` and
            `correct`, the number of 797 validation digits right after each of 27 epochs, of
            an MLP 64-16-10 trained on 1,000 digits with a teacher 64-64-10 at temperature 2.
    """
    counts = pd.read_parquet(source)
    correct = np.stack(counts.pop("correct").to_numpy())[:, np.array(TABLE_EPOCHS) - 1]
    rows = counts.loc[counts.index.repeat(len(TABLE_EPOCHS))].assign(
        dataset="digits", student="mlp16", teacher="mlp64", teacher_fraction=1.0, temperature=2.0,
        epoch=np.tile(TABLE_EPOCHS, len(counts)), score=correct.ravel() / 797,
        val_nll_scaled=np.nan,
    )  # fmt: skip
    return ResponseTable(rows.reset_index(drop=True), VAL_ACCURACY, 1000, 10)


@lru_cache(maxsize=4)
def _table(path: Path) -> ResponseTable:
    return read_table(path)


@lru_cache(maxsize=16)
def _world(
    path: Path | None, name: str, text: str, with_likelihoods: bool
) -> tuple[SearchSpec, World]:
    spec = parse_spec(json.loads(text), name)
    if path is None:
        return spec, RidgeWorld()
    table = _table(path)
    if not with_likelihoods:
        table = replace(table, rows=table.rows.assign(val_nll_scaled=np.nan))
    return spec, TableWorld(table, spec)


def _loss(spec: SearchSpec, world: World, key: str) -> Callable[[float], float]:
    """Points that a KD weight loses in a context."""
    (context,) = (c for c in spec.context_list if c.key == key)
    setting = spec.trial_config(context, {"kd_weight": 0.0}, 0).model_dump(mode="json")
    top = float(world.truth(setting, FINE).max())
    return lambda weight: 100 * max(0.0, top - float(world.truth(setting, np.array([weight]))[0]))


# Measurements.


@dataclass(frozen=True)
class Job:
    """One replication of a strategy on a family."""

    family: str
    strategy: str
    draw: int
    problems: tuple[Problem, ...]
    sweeps: float


def measure(job: Job) -> dict[str, Any]:
    """Regret by way of answering and checkpoint, and how fast the simulation was."""
    strategy = STRATEGIES[job.strategy]
    regrets: dict[str, list[list[float]]] = {name: [] for name in strategy.answers}
    trials = seconds = 0.0
    with threadpool_limits(1):
        for problem in job.problems:
            raw = {
                "seeds": {"trials": SEEDS},
                "early_stopping": {"name": "none"},
                **problem.raw,
                **strategy.sections,
                "budget": {"trials_per_context": BUDGET},
            }
            if isinstance(strategy.designer, str):
                raw["sampler"] = strategy.designer
            text = json.dumps(raw, sort_keys=True)
            spec, world = _world(problem.table, raw["name"], text, strategy.likelihoods)
            limit = min(strategy.sweeps, job.sweeps)
            played = simulate(
                spec, world, draw=job.draw, workers=1, sweeps=limit, **_parts(strategy)
            )
            trials += len(played.ledger.trials)
            seconds += played.seconds
            for name, answer in strategy.answers.items():
                regrets[name] += _by_checkpoint(played, world, answer, limit)
    return {
        "family": job.family,
        "strategy": job.strategy,
        "regret": {name: np.mean(rows, axis=0).tolist() for name, rows in regrets.items()},
        "trials": trials,
        "seconds": seconds,
    }


def _parts(strategy: Strategy) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if not isinstance(strategy.designer, str):
        parts["designer"] = strategy.designer
    if strategy.scheduler is not None:
        make = strategy.scheduler
        parts["scheduler"] = lambda spec, ledger: make(spec, ledger, spec.objective)
    return parts


def _by_checkpoint(
    played: Simulated, world: World, answer: Answer, sweeps: float
) -> list[list[float]]:
    """Points lost, a row per context and a column per checkpoint; NaN beyond `sweeps`."""
    spec, sweep = played.spec, sweep_samples(played.spec)
    ended = sorted(played.ledger.trials.values(), key=lambda t: (t.ended, t.number))
    spent = np.cumsum([played.cost(t.number) for t in ended]) / sweep
    losses = {c.key: _loss(played.spec, world, c.key) for c in spec.context_list}
    rows: dict[str, list[float]] = {key: [] for key in losses}
    for checkpoint in CHECKPOINTS:
        known: dict[str, list[TrialState]] = {key: [] for key in losses}
        for trial in itertools.compress(ended, spent <= checkpoint + 1e-9):
            known[trial.context].append(trial)
        weights = {} if checkpoint > sweeps else answer(spec, known)
        for key, row in rows.items():
            row.append(losses[key](weights[key]) if key in weights else np.nan)
    return list(rows.values())


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians and 90th percentiles over the replications of each family and way."""
    groups: dict[tuple[str, str, str], list[list[float]]] = {}
    for result in results:
        for name, regret in result["regret"].items():
            groups.setdefault((result["family"], result["strategy"], name), []).append(regret)
    rows = []
    for (family, strategy, name), regrets in groups.items():
        median = np.median(regrets, axis=0)
        high = np.quantile(regrets, 0.9, axis=0)
        to = {
            str(target): next(
                (c for c, m in zip(CHECKPOINTS, median, strict=True) if m <= target), None
            )
            for target in TARGETS
        }
        shown = {
            str(c): [round(float(m), 4), round(float(h), 4)]
            for c, m, h in zip(CHECKPOINTS, median, high, strict=True)
            if not np.isnan(m)
        }
        rows.append(
            {
                "family": family,
                "strategy": strategy,
                "way": name,
                "n": len(regrets),
                "regret": shown,
                "sweeps_to": to,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A table for each family: median and, behind a stroke, 90th percentile."""
    console = Console(width=200)
    for family, group in itertools.groupby(sorted(rows, key=lambda r: r["family"]),
                                           key=lambda r: r["family"]):  # fmt: skip
        table = Table(
            f"{family}: regret @ sweeps", "n", *map(str, SHOWN), *(f"to {t}" for t in TARGETS),
            box=None,
        )  # fmt: skip
        for row in group:
            cells = [
                "{:.2f}/{:.2f}".format(*row["regret"][str(c)]) if str(c) in row["regret"] else ""
                for c in SHOWN
            ]
            to = ["never" if row["sweeps_to"][str(t)] is None else f"{row['sweeps_to'][str(t)]:g}"
                  for t in TARGETS]  # fmt: skip
            table.add_row(row["way"], str(row["n"]), *cells, *to)
        console.print(table)
        console.print()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--table", type=Path, action="append", metavar="T.parquet")
    parser.add_argument("--quick", action="store_true", help="8 replications, 11 sweeps")
    parser.add_argument("--replications", type=int)
    parser.add_argument("--sweeps", type=float)
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--convert", nargs=2, type=Path, metavar=("COUNTS", "TABLE"))
    options = parser.parse_args()
    if options.convert:
        write_table(convert(options.convert[0]), options.convert[1])
        return
    sweeps = options.sweeps or (11 if options.quick else CHECKPOINTS[-1])
    there = [n for n in options.only
             if not isinstance(d := STRATEGIES[n].designer, str) or d in DESIGNERS]  # fmt: skip
    left_out = [name for name in options.only if name not in there]
    jobs = [
        Job(family, name, draw, tuple(problems), sweeps)
        for family, problems in families(options.table or [TABLE]).items()
        for name in there
        for draw in range(
            1, 1 + (options.replications or min(STRATEGIES[name].replications,
                                                8 if options.quick else 10**6)))
    ]  # fmt: skip
    began = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        results = list(pool.map(measure, jobs))
    rows = summary(results)
    show(rows)
    if left_out:
        print(f"left out, since this version has no such sampler: {', '.join(left_out)}")
    trials = sum(r["trials"] for r in results)
    busy = sum(r["seconds"] for r in results)
    figures = {
        "rows": rows,
        "left_out": left_out,
        "trials": trials,
        "trials_per_minute_and_process": round(60 * trials / busy),
        "seconds": round(time.perf_counter() - began, 1),
        "versions": {name: version(name) for name in ("kdcurve", "numpy", "optuna", "ray")},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""What does a question to a large search cost? kdcurve beside plain MLflow.

    python benchmarks/query.py [--runs N] [--contexts N] [--store sqlite|postgresql]

Writes one search of many runs into MLflow and into a record, in bulk: runs with the parameters,
tags and last metrics that trials have (of the history of a metric only its last value, which no
question reads). Then every question is asked in a process of its own, timed as a whole and with its
peak memory; `inside` are the seconds of the call alone, without Python's start and the imports of
kdcurve (which leave MLflow's to the call).
PostgreSQL is the tests' own server, where it can run.

Prints a table, and as its last line one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from mlflow.entities import RunTag
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table

from analysis.secrets import redacted
from search.journal import Event, EventKind, Journal
from search.places import Places
from trainables import record
from trainables.record import Kind, Outcome, SearchState

NAME = "large"
SEEDS = 5
PER_CONTEXT = 100
"""Trials in a context, unless the number of contexts is given."""
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
EPOCHS = 200
BATCH = 2000
"""Runs written at a time."""
T0_MS = 1_750_000_000_000
ROOT = Path(__file__).parent.parent

QUESTIONS = {
    "import MlflowClient": "from mlflow.tracking import MlflowClient; began = now()",
    "mlflow.search_runs": """
import mlflow
mlflow.set_tracking_uri(uri)
began = now()
assert len(mlflow.search_runs(experiment_names=[name], max_results=2 * runs)) > runs
""",
    "load_runs, first": """
from analysis import load_runs
began = now()
assert len(load_runs(name, uri)) == runs
""",
    "load_runs, second": """
from analysis import load_runs
began = now()
assert len(load_runs(name, uri)) == runs
""",
    "fit_curve": """
import time
from analysis import load_runs, fit_curve
from analysis.recorded import about, to_text
frame = load_runs(name, uri)
began = now()
curve = fit_curve(frame)
done = now()
open(answers, "w").write(to_text(curve, about(curve, runs, time.time())))
""",
}
AROUND = """
import sys, json
from time import perf_counter as now
name, uri, answers, runs = sys.argv[1:4] + [int(sys.argv[4])]
done = None
{code}
print(json.dumps((done or now()) - began))
"""


BEST = """
import sys
from search.cli import main
sys.argv = ["kdcurve", "best", *sys.argv[1:]]
main()
"""
# A process's own account: what its parent is told includes the parent's memory before the exec.
PEAK = """
import atexit, os, re
def note():
    with open("/proc/self/status") as status, open(os.environ["PEAK"], "w") as file:
        file.write(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
atexit.register(note)
"""


class Cost(NamedTuple):
    """Of one process."""

    seconds: float
    cpu: float
    """User and system time: on a busy machine it says more than the clock."""
    inside: float | None
    peak_mb: float


def trials(count: int, contexts: int) -> Iterator[dict[str, Any]]:
    """Made-up trials: a parabola over the KD weight, effects of seeds, noise, every outcome."""
    rng = np.random.default_rng(0)
    groups = -(-contexts // len(FRACTIONS))
    teachers = max(1, round(groups**0.5))
    methods = -(-groups // teachers)
    cells = list(product(range(methods), range(teachers), FRACTIONS))[:contexts]
    best = [float(np.clip(0.3 - 0.2 * np.log(f) + 0.02 * t, 0, 1)) for _, t, f in cells]
    effects = rng.normal(0, 0.005, (len(cells), SEEDS))
    for number in range(count):
        cell = number % len(cells)
        turn = number // len(cells)
        method, teacher, fraction = cells[cell]
        start = turn < 3 * SEEDS
        weight = turn % 3 / 2 if start else float(np.clip(rng.normal(best[cell], 0.2), 0, 1))
        seed = (turn // 3 if start else turn) % SEEDS
        draw = 0.0 if start else rng.random()
        outcome = (
            Outcome.FAILED if draw > 0.98 else Outcome.STOPPED_EARLY if draw > 0.7
            else Outcome.COMPLETE
        )  # fmt: skip
        lack = 0.05 * (weight - best[cell]) ** 2
        score = 0.9 + 0.1 * np.log10(fraction) - lack + effects[cell, seed]
        yield {
            "number": number,
            "context": f"{cell:08x}",
            "label": f"m{method} f={fraction} teacher=t{teacher}",
            "start": start,
            "outcome": outcome,
            "reason": None if outcome is Outcome.COMPLETE else f"reason of {number}",
            "epochs": EPOCHS if outcome is Outcome.COMPLETE else EPOCHS // 3,
            "score": score + rng.normal(0, 0.005),
            "nll": 0.5 + 2 * lack + rng.normal(0, 0.005),
            "params": {
                "dataset": "cifar100", "label_noise": 0.0, "student": "resnet20",
                "method": f"m{method}", "fraction": fraction, "teacher": f"t{teacher}",
                "teacher_fraction": 1.0, "kd_weight": weight, "temperature": 4.0, "seed": seed,
                "teacher_seed": 0, "budget_epochs": EPOCHS, "kept_samples": int(45000 * fraction),
            },
        }  # fmt: skip


def write_mlflow(uri: str, root: str, count: int, contexts: int) -> tuple[MlflowClient, str]:
    """The search in MLflow; returns a client and the parent run's id."""
    client = MlflowClient(uri)
    tags = {record.TAG_SCHEMA: str(record.SCHEMA_VERSION), record.TAG_SEARCH: NAME}
    experiment = client.create_experiment(NAME, root, tags)
    parent = client.create_run(experiment, start_time=T0_MS, run_name=NAME)
    said = {
        record.TAG_KIND: Kind.SEARCH, record.TAG_SEARCH: NAME,
        record.TAG_STATE: SearchState.COMPLETE, record.TAG_OBJECTIVE: record.VAL_ACCURACY,
        record.TAG_TUNED: "kd_weight", record.TAG_KD_WEIGHT_RANGE: "0.0,1.0",
    }  # fmt: skip
    client.log_batch(parent.info.run_id, tags=[RunTag(k, str(v)) for k, v in said.items()])
    client.log_metric(parent.info.run_id, "trials_ended", count)
    engine = sa.create_engine(uri)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":  # nobody misses it after a power cut
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
        for some in _batches(trials(count, contexts)):
            rows = _rows(some, experiment, parent.info.run_id, root)
            for table, each in rows.items():
                connection.execute(sa.insert(table), each)
            connection.commit()
    engine.dispose()
    return client, parent.info.run_id


def _batches(trials: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(trials, BATCH)):
        yield some


def _rows(
    some: list[dict[str, Any]], experiment: str, parent: str, root: str
) -> dict[Any, list[dict[str, Any]]]:
    """Rows by table."""
    rows: dict[Any, list[dict[str, Any]]] = {
        table.__table__: [] for table in (SqlRun, SqlParam, SqlTag, SqlMetric, SqlLatestMetric)
    }
    of_run, of_param, of_tag, of_metric, of_latest = rows.values()
    for trial in some:
        run, number = uuid.uuid4().hex, trial["number"]
        start = T0_MS + 1000 * number
        end = start + 600_000
        of_run.append({
            "run_uuid": run, "name": f"trial-{number}", "source_type": "UNKNOWN",
            "source_name": "", "entry_point_name": "", "user_id": "unknown",
            "status": "FAILED" if trial["outcome"] is Outcome.FAILED else "FINISHED",
            "start_time": start, "end_time": end, "source_version": "", "lifecycle_stage": "active",
            "artifact_uri": f"{root}/{run}/artifacts", "experiment_id": int(experiment),
        })  # fmt: skip
        of_param += [{"run_uuid": run, "key": k, "value": str(v)}
                     for k, v in trial["params"].items()]  # fmt: skip
        said = {
            record.TAG_KIND: Kind.TRIAL, record.TAG_SEARCH: NAME, record.TAG_TRIAL: number,
            record.TAG_CONTEXT: trial["context"], record.TAG_CONTEXT_LABEL: trial["label"],
            record.TAG_OUTCOME: trial["outcome"], "mlflow.parentRunId": parent,
            "mlflow.runName": f"trial-{number}", record.TAG_TEACHER_RUN: uuid.uuid4().hex,
            record.TAG_SCORES_RUN: uuid.uuid4().hex,
            **({record.TAG_START_DESIGN: "true"} if trial["start"] else {}),
            **({record.TAG_REASON: trial["reason"]} if trial["reason"] else {}),
        }  # fmt: skip
        of_tag += [{"run_uuid": run, "key": k, "value": str(v)} for k, v in said.items()]
        metrics = {
            record.EPOCH: trial["epochs"], record.VAL_ACCURACY: trial["score"],
            record.VAL_NLL_SCALED: trial["nll"], record.VAL_LOSS: 1.0, record.VAL_ECE: 0.05,
            record.VAL_TEMPERATURE: 1.5, record.TRAIN_LOSS: 0.2, record.TRAIN_CE: 0.1,
            record.TRAIN_KD: 0.1, record.SECONDS: 600.0, record.SAMPLES_PER_S: 5000.0,
            record.PEAK_MEMORY_BYTES: 1e9,
        }  # fmt: skip
        last = [
            {"run_uuid": run, "key": k, "value": float(v), "timestamp": end,
             "step": trial["epochs"], "is_nan": False}
            for k, v in metrics.items()
        ]  # fmt: skip
        of_metric += last
        of_latest += last
    return rows


def write_record(journal: Journal, count: int, contexts: int) -> None:
    """The same search in the record, four events a trial, before its answers."""
    number = 0

    def event(kind: EventKind, trial: int | None = None, **data: Any) -> Event:
        nonlocal number
        number += 1
        return Event(number, T0_MS / 1000 + number, kind, trial, data)

    journal.write(NAME, [event(EventKind.PLANNED)])
    for some in _batches(trials(count, contexts)):
        events = []
        for each in some:
            trial, weight = each["number"], {"kd_weight": each["params"]["kd_weight"]}
            seed, start = each["params"]["seed"], each["start"]
            events += [
                event(EventKind.PROPOSED, trial, context=each["context"], values=weight,
                      seed=seed, start_design=start),
                event(EventKind.STARTED, trial),
                event(EventKind.REPORTED, trial, epoch=each["epochs"],
                      metrics={record.EPOCH: each["epochs"], record.VAL_ACCURACY: each["score"]}),
                event(EventKind.ENDED, trial, outcome=each["outcome"], reason=each["reason"]),
            ]  # fmt: skip
        journal.write(NAME, events)
    journal.append(NAME, [(EventKind.CLOSED, None, {"state": SearchState.COMPLETE})])


def ask(code: str, arguments: list[str], folder: Path) -> Cost:
    """Run a process to its end."""
    peak = folder / "peak"
    command = [sys.executable, "-c", PEAK + code, *arguments]
    environment = {
        "PEAK": str(peak),
        **os.environ, "XDG_CACHE_HOME": str(folder / "user-cache"), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "COLUMNS": "400",
    }  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(process.stderr.read().decode())
    seconds = time.perf_counter() - began
    try:
        inside = float(output.splitlines()[-1])
    except (IndexError, ValueError):
        inside = None
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu, inside, int(peak.read_text()) / 1024)


@contextmanager
def tracking(store: str, folder: Path) -> Iterator[str]:
    """A tracking URI."""
    if store == "sqlite":
        yield f"sqlite:///{folder / 'home' / 'mlflow.db'}"
        return
    sys.path.insert(0, str(ROOT))
    from tests.postgres import UnavailableError, running  # noqa: PLC0415

    try:
        with running() as server:
            yield server.uri("mlflow")
    except UnavailableError as reason:
        sys.exit(f"PostgreSQL cannot run here: {reason}")


def measure(store: str, count: int, contexts: int, folder: Path) -> dict[str, Cost]:
    """Every question once."""
    home = folder / "home"
    home.mkdir()
    answers = folder / "answers.json"
    with tracking(store, folder) as uri:
        began = time.perf_counter()
        places = Places.at(home, tracking_uri=uri)
        client, parent = write_mlflow(uri, (folder / "artifacts").as_uri(), count, contexts)
        journal = Journal(places.record)
        write_record(journal, count, contexts)
        print(f"{store}: {count} runs written in {time.perf_counter() - began:.0f} s", flush=True)
        costs = {}

        def take(what: str, code: str, arguments: list[str]) -> None:
            costs[what] = cost = ask(code, arguments, folder)
            said = f"{cost.seconds:.1f} s, {cost.cpu:.1f} s of CPU, {cost.peak_mb:.0f} MB"
            print(f"{store}: {what}: {said}", flush=True)

        for what, code in QUESTIONS.items():
            arguments = [NAME, uri, str(answers), str(count)]
            take(what, AROUND.format(code=code), arguments)
        document = json.loads(answers.read_text())
        client.log_artifact(parent, str(answers))
        curve = document.pop("curve")
        data = {"curve": curve, "about": document, "tracking_uri": redacted(uri)}
        journal.append(NAME, [(EventKind.ANSWER, None, data)])
        journal.close()
        best = [NAME, "--tracking-uri", uri, "--home"]
        elsewhere = str(folder / "elsewhere")
        take("best, recorded, from the record", BEST, [*best, str(home)])
        take("best, recorded, from MLflow", BEST, [*best, elsewhere])
        take("best --fresh", BEST, [*best, str(home), "--fresh"])
    return costs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--contexts", type=int, help=f"a context per {PER_CONTEXT} runs by default")
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    contexts = options.contexts or max(10, options.runs // PER_CONTEXT)
    with tempfile.TemporaryDirectory(prefix="kdcurve-query-") as folder:
        costs = measure(options.store, options.runs, contexts, Path(folder))
    table = Table("question", "process (s)", "CPU (s)", "inside (s)", "peak memory (MB)")
    for what, cost in costs.items():
        inside = "" if cost.inside is None else f"{cost.inside:.2f}"
        numbers = (f"{cost.seconds:.2f}", f"{cost.cpu:.2f}", inside, f"{cost.peak_mb:.0f}")
        table.add_row(what, *numbers)
    Console(width=120).print(table)
    figures = {what: cost._asdict() for what, cost in costs.items()}
    versions = {name: version(name) for name in ("mlflow", "sqlalchemy", "pandas")}
    about = {"store": options.store, "runs": options.runs, "contexts": contexts, "n": 1}
    print(json.dumps({**about, "costs": figures, "cpus": os.cpu_count(), **versions}))


if __name__ == "__main__":
    main()

"""A synthetic search with a planted optimum per context, in a real MLflow SQLite store."""

import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from analysis.runs import load_runs
from trainables import record
from trainables.record import Outcome

FRACTIONS = (0.1, 0.3, 0.5, 0.9)
METHODS = ("random", "el2n")
TEACHERS = ("cnn8", "cnn32")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SEEDS = (0, 1)
NOISE = 0.002
LAWS = {
    ("random", "cnn8"): (0.2, -0.25),
    ("random", "cnn32"): (0.35, -0.2),
    ("el2n", "cnn8"): (0.1, -0.3),
    ("el2n", "cnn32"): (0.3, -0.5),
}
"""Planted: best KD weight = clip(a + b ln f, 0, 1); the last one is clipped at f = 0.1."""


def planted(method: str, teacher: str, fraction: float) -> float:
    a, b = LAWS[method, teacher]
    return float(np.clip(a + b * np.log(fraction), 0, 1))


def planted_score(fraction: float, kd_weight: float, best: float) -> float:
    return 0.9 + 0.08 * np.log10(fraction) - 0.1 * (kd_weight - best) ** 2


@dataclass
class Writer:
    """Writes trials as a search does: a run each, metrics per epoch, tags for the outcome."""

    client: MlflowClient
    name: str
    tuned: str = "kd_weight"
    kd_weight_range: str | None = None
    experiment: str = field(init=False)
    parent: str = field(init=False)
    number: int = 0

    def __post_init__(self) -> None:
        self.experiment = self.client.create_experiment(
            self.name,
            tags={record.TAG_SCHEMA: str(record.SCHEMA_VERSION), record.TAG_SEARCH: self.name},
        )
        tags = {
            record.TAG_KIND: record.Kind.SEARCH,
            record.TAG_OBJECTIVE: record.VAL_ACCURACY,
            record.TAG_STATE: record.SearchState.COMPLETE,
            record.TAG_TUNED: self.tuned,
        }
        if self.kd_weight_range is not None:
            tags[record.TAG_KD_WEIGHT_RANGE] = self.kd_weight_range
        self.parent = self.client.create_run(self.experiment, tags=tags).info.run_id

    def trial(self, scores, outcome=Outcome.COMPLETE, reason=None, number=None, **params):
        number = self.number if number is None else number
        self.number = max(self.number, number + 1)
        params = {"dataset": "digits", "student": "cnn4", "teacher_fraction": 1.0} | params
        params = {"temperature": 4.0, "label_noise": 0.2, "budget_epochs": 3} | params
        params = {"kept_samples": round(1000 * params["fraction"])} | params
        key = {name: params[name] for name in record.CONTEXT_PARAMS if name not in self.tuned}
        tags = {
            "mlflow.parentRunId": self.parent,
            record.TAG_KIND: record.Kind.TRIAL,
            record.TAG_TRIAL: str(number),
            record.TAG_CONTEXT: f"{zlib.crc32(str(key).encode()):08x}",
            record.TAG_CONTEXT_LABEL: " ".join(map(str, key.values())),
        }
        if outcome is not None:
            tags[record.TAG_OUTCOME] = outcome
        if reason is not None:
            tags[record.TAG_REASON] = reason
        run = self.client.create_run(self.experiment).info.run_id
        now = 1_700_000_000_000
        metrics = [
            Metric(name, value, now + epoch, epoch)
            for epoch, score in enumerate(scores, start=1)
            for name, value in (
                (record.VAL_ACCURACY, score),
                (record.EPOCH, epoch),
                (record.SECONDS, 2.0 * epoch),
            )
        ]
        self.client.log_batch(
            run,
            metrics,
            [Param(name, str(value)) for name, value in params.items()],
            [RunTag(name, str(value)) for name, value in tags.items()],
        )
        if outcome is not None:
            self.client.set_terminated(run, "FINISHED")
        return number


@pytest.fixture(scope="session")
def world():
    """What was planted, and `Writer`, for tests to use by name."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def client(tmp_path_factory) -> MlflowClient:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    return MlflowClient(tracking_uri=f"sqlite:///{path}")


@pytest.fixture(scope="session")
def uri(client) -> str:
    return client.tracking_uri


@pytest.fixture(scope="session")
def store(client, uri) -> str:
    """The store with the search `planted` in it, and an experiment of someone else's."""
    rng = np.random.default_rng(0)
    writer = Writer(client, "planted")
    for (method, teacher), fraction in ((key, f) for key in LAWS for f in FRACTIONS):
        where = {"method": method, "teacher": teacher, "fraction": fraction}
        best = planted(method, teacher, fraction)
        effects = {seed: rng.normal(0, 0.01) for seed in SEEDS}
        for weight in WEIGHTS:
            for seed in SEEDS:
                noise = effects[seed] + rng.normal(0, NOISE)
                last = planted_score(fraction, weight, best) + noise
                writer.trial([last - 0.2, last - 0.1, last], kd_weight=weight, seed=seed, **where)
        # A trial cut short looks splendid: it must not enter a fit.
        writer.trial([0.999], Outcome.STOPPED_EARLY, kd_weight=0.9, seed=1, **where)
    where = {"method": "random", "teacher": "cnn8", "fraction": 0.1, "seed": 1}
    writer.trial([], Outcome.FAILED, "CUDA error: out of memory <b>", kd_weight=0.6, **where)
    writer.trial([0.5], Outcome.FAILED, "loss is not finite at epoch 2", kd_weight=0.7, **where)
    writer.trial([0.5], Outcome.TIMEOUT, "no report for 600 s", kd_weight=0.7, **where)
    writer.trial([0.5], None, kd_weight=0.8, **where)
    client.create_experiment("someone-elses")
    return uri


@pytest.fixture(scope="session")
def runs(store):
    return load_runs("planted", store)


@pytest.fixture(scope="session")
def curve(runs):
    from analysis.curve import fit_curve

    return fit_curve(runs)


@pytest.fixture(scope="session")
def schedule(runs):
    from analysis.curve import fit_curve
    from analysis.scheduling import fit_schedule

    # What is planted are parabolas: a schedule is tested on optima that have no other error.
    return fit_schedule(fit_curve(runs, "quadratic"), provenance={"commit": "abc1234"})


@pytest.fixture(scope="session")
def compared(runs, curve):
    """A schedule whose family was chosen among all."""
    from analysis.scheduling import fit_schedule

    return fit_schedule(curve, runs)


@pytest.fixture
def missing(tmp_path) -> Path:
    return tmp_path / "none.db"

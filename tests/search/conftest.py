"""Searches rehearsed without Ray: our searcher, scheduler and recorder, Tune's part played here."""

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.places import Places
from search.space import SearchSpec
from search.specfile import parse_spec
from search.studies import Studies
from trainables.record import SearchState

RAW = {
    "name": "rehearsal",
    "dataset": {"name": "digits"},
    "student": "cnn8",
    "recipe": {"epochs": 9, "batch_size": 32},
    "contexts": {"method": ["random"], "fraction": [0.1, 0.9], "teacher": ["cnn4"]},
    "tune": {"kd_weight": {"low": 0.0, "high": 1.0}},
    "seeds": {"trials": 2},
    "sampler": "tpe",
    "budget": {"trials_per_context": 12},
}

Score = Callable[[dict[str, Any], int], float]
"""(a trial's configuration, epoch) -> the objective."""


def planted(trial: dict[str, Any], epoch: int) -> float:
    """A score with its best KD weight at 0.3, lower for small fractions."""
    fraction, weight = trial["fraction"], trial["kd_weight"]
    return 0.5 + 0.3 * fraction + 0.01 * epoch + 0.003 * trial["seed"] - 0.2 * (weight - 0.3) ** 2


class Rehearsal:
    """Plays a search, one trial at a time, as the simulator does; a kill may cut it."""

    def __init__(self, spec: SearchSpec, ledger: Ledger, folder, score: Score = planted) -> None:
        # Here, since Ray takes two seconds to import and few tests need it.
        from search.samplers.table import make_designer
        from search.simulator import Cluster
        from search.stopping import Bounded, Losses

        def reports(trial: dict[str, Any]) -> list[dict[str, float]]:
            context = ledger.trials[self.number].context
            epochs = range(1, totals[context] + 1)
            return [{"epoch": epoch, spec.objective: score(trial, epoch)} for epoch in epochs]

        totals = {c.key: spec.total_epochs(c) for c in spec.context_list}
        self.spec, self.ledger, self.number = spec, ledger, -1
        studies = Studies(spec, folder / "optuna.journal")
        designer = Bounded(
            make_designer(spec, studies), spec, lambda: ledger.active_at(time.time()), Losses(spec)
        )
        # So fast that trials report at their rungs and ends alone.
        self.cluster = Cluster(spec, ledger, designer, reports, samples_per_s=1e9)
        self.searcher, self.scheduler = self.cluster.searcher, self.cluster.scheduler
        self.recorder = self.cluster.recorder

    def run(self, trials: int | None = None, cut_at: int | None = None) -> None:
        """Run trials until the budget or `trials` is spent; cut the last one at an epoch."""
        done = 0
        while trials is None or done < trials:
            config = self.searcher.suggest(f"tune-{len(self.ledger.trials)}-{done}")
            if not isinstance(config, dict):
                return
            done += 1
            self.run_one(config, cut_at if done == trials else None)

    def run_one(self, config: dict[str, Any], cut_at: int | None = None) -> None:
        self.number = config["number"]
        playing = self.cluster.take_up(config)
        while True:
            reports = playing.next_reports()
            if cut_at is not None and reports[-1]["epoch"] > cut_at:
                lived = [report for report in reports if report["epoch"] <= cut_at]
                self.recorder.on_trial_result(0, [], playing.trial, {"reports": lived})
                return
            if self.cluster.deliver(playing, reports):
                return


def failing(config: dict[str, Any], error: BaseException, folder: Path) -> SimpleNamespace:
    """Tune's view of a trial that failed: the exception lies in a file of this machine."""
    from ray import cloudpickle

    path = folder / "error.pkl"
    path.write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(config=config, pickled_error_file=str(path))


AT_ONCE = """
import json, os, sys
import search.writer  # it takes a while, and then they would not start together

count, code, *arguments = sys.argv[1:]
go, start = os.pipe()
end, all_done = os.pipe()
answers = []
for which in range(int(count)):
    answer, write = os.pipe()
    if os.fork() == 0:
        os.close(start), os.close(all_done)
        os.read(go, 1)
        scope = {"which": which, "arguments": arguments, "answer": None}
        try:
            exec(code, scope)
        except Exception as error:
            scope["answer"] = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(scope["answer"]).encode())
        os.close(write)
        os.read(end, 1)
        os._exit(0)
    os.close(write)
    answers.append(os.fdopen(answer))
os.close(start)
print(json.dumps([json.load(answer) for answer in answers]))
"""


@pytest.fixture(scope="session")
def at_once() -> Callable[..., list[Any]]:
    """Run code in several processes that start together and live until all have answered.

    The code finds strings in `arguments`, its number in `which`, and leaves an `answer`; an
    exception is an answer too, as text.
    """

    def run(count: int, code: str, *arguments: str) -> list[Any]:
        command = [sys.executable, "-c", AT_ONCE, str(count), code, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout)

    return run


CLEAR = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DROP SCHEMA public CASCADE;
CREATE SCHEMA public
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def record_uri(request, tmp_path) -> Iterator[str]:
    """Where a record may be made, on each kind of database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'record.db'}"
        return
    server = request.getfixturevalue("postgres")
    uri = server.uri("record")  # one for all tests: to create a database takes longer than most
    yield uri
    with sa.create_engine(uri, poolclass=sa.NullPool).begin() as connection:
        for statement in CLEAR.split(";"):
            connection.exec_driver_sql(statement)


@pytest.fixture
def raw() -> dict[str, Any]:
    """A sound search file as a mapping, free to be spoilt."""
    return copy.deepcopy(RAW)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., SearchSpec]:
    """A valid search; whole sections are replaced by keyword."""
    return lambda **sections: parse_spec({**copy.deepcopy(RAW), **sections})


@pytest.fixture(scope="session")
def plan() -> Callable[[Journal, SearchSpec], Ledger]:
    """Begin a search in a journal."""

    def begin(journal: Journal, spec: SearchSpec) -> Ledger:
        ledger = Ledger(journal, spec.name)
        ledger.record(
            EventKind.PLANNED,
            spec=spec.model_dump(mode="json", exclude_none=True),
            versions={"kdcurve": "0.1"},
            git_commit="abc1234",
            hardware={"cpus": 2},
        )
        return ledger

    return begin


@pytest.fixture(scope="session")
def rehearsal() -> type[Rehearsal]:
    return Rehearsal


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(f"sqlite:///{tmp_path / 'record.db'}")


@pytest.fixture(scope="session")
def places(tmp_path_factory) -> Places:
    """One home for all tests that need MLflow: making its database takes seconds."""
    made = Places.at(tmp_path_factory.mktemp("places") / "home")
    made.make()
    return made


@pytest.fixture(scope="session")
def recorded(places, make_spec, plan) -> SearchSpec:
    """A complete search of 12 trials in each of 4 contexts, recorded and delivered."""
    from search.tracking import Delivery

    contexts = {"method": "random", "fraction": [0.1, 0.3, 0.6, 0.9], "teacher": "cnn4"}
    spec = make_spec(name="recorded", contexts=contexts)
    journal = Journal(places.record)
    ledger = plan(journal, spec)
    Rehearsal(spec, ledger, places.folder(spec.name)).run()
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
    delivery = Delivery(journal, spec, places)
    delivery.start()
    assert delivery.finish()
    return spec

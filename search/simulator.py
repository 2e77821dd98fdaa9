"""Searches replayed in virtual time, without Ray: Tune's part is played here.

Designer, searcher, scheduler and record are those of a real search. Asynchronous workers take
trials up as they become free; a trial lasts as long as its epochs × kept samples take at a
given speed. What it reports comes from a world (`search.worlds`), so that a search of hours is
over in seconds, and what it lost can be told: the world knows the truth.
"""

import heapq
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.designer import Designer
from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger
from search.memory import MemoryJournal
from search.recorder import Recorder
from search.samplers.table import make_designer
from search.scheduler import InOrder, make_scheduler
from search.searcher import CurveSearcher
from search.space import SearchSpec
from search.stopping import Bounded, Losses
from search.studies import Studies
from search.worlds import Metrics, World, untaught
from trainables.record import EPOCH, SECONDS, SearchState

SAMPLES_PER_S = 1000.0
"""Training speed of a worker, unless told otherwise."""
REPORT_EVERY_S = 0.5
"""Epochs shorter than this are reported together, as `trainables.trial` does."""
_BEGIN_S = 1.0
"""When virtual time begins, in seconds since 1970: any moment but 0, which would read as never."""

Reports = Callable[[Mapping[str, Any]], Sequence[Metrics]]
"""A trial's configuration to its metrics after each reported epoch."""


class Clock:
    """Virtual time, in seconds."""

    def __init__(self) -> None:
        self.now = _BEGIN_S

    def __call__(self) -> float:
        """The present."""
        return self.now

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return self.now - _BEGIN_S


@dataclass
class Playing:
    """A trial that a worker is at."""

    trial: Trial
    """A stand-in with a configuration, which is all that is asked of it."""
    epoch_s: float
    """Virtual seconds an epoch."""
    rungs: Sequence[int]
    reports: Sequence[Metrics]
    """All that it will report."""
    delivered: int = 0
    """How many of them have been."""

    @property
    def epoch(self) -> int:
        """Epochs done and reported."""
        return int(self.reports[self.delivered - 1][EPOCH]) if self.delivered else 0

    def next_reports(self) -> list[Metrics]:
        """The reports that come together: up to a rung, the end, or half a second."""
        came: list[Metrics] = []
        for report in itertools.islice(self.reports, self.delivered, None):
            epoch = int(report[EPOCH])
            came.append({**report, SECONDS: epoch * self.epoch_s})
            if epoch in self.rungs or (epoch - self.epoch) * self.epoch_s > REPORT_EVERY_S:
                break
        return came


class Cluster:
    """Workers that take up what the searcher suggests, in virtual time.

    Args:
        spec: the search.
        ledger: its record, planned; with the same clock, if times shall be virtual.
        designer: chooses the trials.
        reports: what a trial reports.
        clock: is moved on.
        workers: trials at a time.
        samples_per_s: training speed of each.
        scheduler: stops trials early; by default the search's own.
    """

    def __init__(
        self,
        spec: SearchSpec,
        ledger: Ledger,
        designer: Designer,
        reports: Reports,
        *,
        clock: Clock | None = None,
        workers: int = 1,
        samples_per_s: float = SAMPLES_PER_S,
        scheduler: InOrder | None = None,
    ) -> None:
        self._ledger, self._reports = ledger, reports
        self._clock, self._workers = clock or Clock(), workers
        contexts = spec.context_list
        self._epoch_s = {c.key: spec.kept_samples(c) / samples_per_s for c in contexts}
        self.searcher = CurveSearcher(spec, ledger, designer, patience_s=None)
        self.scheduler = scheduler or make_scheduler(spec, ledger)
        self.recorder = Recorder(ledger, {c.key: spec.total_epochs(c) for c in contexts})

    def run(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Work until the searcher has nothing more, or what was done is enough.

        Args:
            enough: asked before a trial is taken up; those under way are ended.

        Raises:
            KdcurveError: the sampler failed, or waits though nothing runs.
        """
        suggested = itertools.count()
        queue: list[tuple[float, int, list[Metrics], Playing]] = []
        order = itertools.count()  # among what happens at the same moment
        finished = False

        def schedule(playing: Playing) -> None:
            reports = playing.next_reports()
            lasts_s = (int(reports[-1][EPOCH]) - playing.epoch) * playing.epoch_s
            heapq.heappush(queue, (self._clock.now + lasts_s, next(order), reports, playing))

        while True:
            while len(queue) < self._workers and not finished:
                config: Any = None
                if not (finished := enough()):
                    config = self.searcher.suggest(f"simulated-{next(suggested)}")
                    finished = config == Searcher.FINISHED
                if finished or config is None:
                    break
                schedule(self.take_up(config))
            if not queue:
                break
            self._clock.now, _, reports, playing = heapq.heappop(queue)
            if not self.deliver(playing, reports):
                schedule(playing)
        if not finished:
            raise KdcurveError(
                "the sampler proposes nothing and nothing runs that it could wait for"
            )

    def take_up(self, config: dict[str, Any]) -> Playing:
        """A worker takes a trial up."""
        trial = cast(Trial, SimpleNamespace(config=config))
        self.recorder.on_trial_start(0, [], trial)
        state = self._ledger.trials[config["number"]]
        return Playing(
            trial, self._epoch_s[state.context], config["rungs"], self._reports(config["trial"])
        )

    def deliver(self, playing: Playing, reports: list[Metrics]) -> bool:
        """Hand reports over as Tune does; returns whether that ended the trial."""
        playing.delivered += len(reports)
        trial = playing.trial
        result = {"number": trial.config["number"], **reports[-1], "reports": reports}
        decision = self.scheduler.on_trial_result(cast(TuneController, None), trial, result)
        self.recorder.on_trial_result(0, [], trial, result)
        ended = decision == TrialScheduler.STOP or playing.delivered == len(playing.reports)
        if ended:
            self.recorder.on_trial_complete(0, [], trial)
        return ended


@dataclass(frozen=True)
class Simulated:
    """A search that was simulated to its end."""

    spec: SearchSpec
    ledger: Ledger
    virtual_s: float
    """From its start to its end, in virtual seconds."""
    seconds: float
    """What the simulation took."""

    def cost(self, number: int) -> int:
        """What a trial was billed: its epochs × kept samples."""
        trial = self.ledger.trials[number]
        return trial.epoch * _kept(self.spec)[trial.context]

    @property
    def samples(self) -> int:
        """Compute spent in all, in epochs × kept samples."""
        return _spent(self.spec, self.ledger)

    @property
    def sweeps(self) -> float:
        """The same in full runs of every context."""
        return self.samples / sweep_samples(self.spec)


def sweep_samples(spec: SearchSpec) -> int:
    """Epochs × kept samples of one full run in every context."""
    return sum(spec.total_epochs(c) * spec.kept_samples(c) for c in spec.context_list)


def _kept(spec: SearchSpec) -> dict[str, int]:
    return {context.key: spec.kept_samples(context) for context in spec.context_list}


def _spent(spec: SearchSpec, ledger: Ledger) -> int:
    kept = _kept(spec)
    return sum(trial.epoch * kept[trial.context] for trial in ledger.trials.values())


MakeDesigner = Callable[[SearchSpec, Studies], Designer]
MakeScheduler = Callable[[SearchSpec, Ledger], InOrder]


def simulate(
    spec: SearchSpec,
    world: World,
    *,
    draw: int = 0,
    workers: int | None = None,
    samples_per_s: float = SAMPLES_PER_S,
    designer: MakeDesigner = make_designer,
    scheduler: MakeScheduler = make_scheduler,
    sweeps: float | None = None,
) -> Simulated:
    """Play a search to its end.

    Args:
        spec: the search.
        world: answers for its trials.
        draw: number of the replication: its search seed is the file's plus this number, and
            from 1 on it has trial seeds of its own.
        workers: trials at a time; by default `resources.concurrent`, or one.
        samples_per_s: training speed of a worker.
        designer: makes what chooses trials; by default `spec.sampler`.
        scheduler: makes what stops them early; by default `spec.early_stopping`.
        sweeps: take up no trial once so much compute is spent (see `Simulated.sweeps`).

    Raises:
        KdcurveError: the sampler failed.
    """
    began = time.perf_counter()
    spec = untaught(spec.model_copy(update={"seed": spec.seed + draw}))
    clock = Clock()
    ledger = Ledger(MemoryJournal(clock), spec.name)
    ledger.record(EventKind.PLANNED, spec=spec.model_dump(mode="json", exclude_none=True))
    cluster = Cluster(
        spec,
        ledger,
        Bounded(designer(spec, Studies(spec, None)), spec, lambda: clock.elapsed_s, Losses(spec)),
        lambda trial: world.reports(trial, draw),
        clock=clock,
        workers=workers or spec.resources.concurrent or 1,
        samples_per_s=samples_per_s,
        scheduler=scheduler(spec, ledger),
    )
    limit = math.inf if sweeps is None else sweeps * sweep_samples(spec)
    try:
        cluster.run(lambda: _spent(spec, ledger) >= limit)
    finally:
        cluster.searcher.close()
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
    return Simulated(spec, ledger, clock.elapsed_s, time.perf_counter() - began)

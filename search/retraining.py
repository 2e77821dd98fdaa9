"""A confirmation carried out: its students trained as Ray tasks, each judged once on test."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from analysis.confirmation import with_test
from analysis.curve import fit_curve
from analysis.estimators import DEFAULT
from analysis.recorded import plain
from search.cluster import concurrent_trials, connected
from search.confirmation import DEFAULT_SEEDS, Confirmation, Student, plan_confirmation
from search.errors import KdcurveError
from search.frame import runs_frame, students_frame
from search.journal import EventKind
from search.launch import Silent, Watcher, deliver_rest, one_at_a_time, stopping_cleanly
from search.ledger import Ledger
from search.places import Places
from search.plan import needed_by
from search.preparation import prepare_shared
from search.publish import publish
from search.recovery import reason_of
from search.standing import open_recorded, recorded_spec, require_idle
from search.tracking import Delivery
from search.writer import writing
from trainables.checkpoint import student_folder
from trainables.config import TrialConfig
from trainables.confirmation import require_test, train_and_test
from trainables.memory import keep_freed
from trainables.record import Outcome
from trainables.threads import pin_threads

if TYPE_CHECKING:
    import pandas as pd

    from search.space import SearchSpec


@dataclass(frozen=True)
class Confirmed:
    """How a confirmation ended."""

    plan: Confirmation
    ledger: Ledger
    left: int
    """Students that have not ended, since it was interrupted."""
    curve: "pd.DataFrame | None"
    """The answers with what the test set says of them; None as long as students are left."""
    undelivered: str | None
    """Why not all of the record reached MLflow, if it did not."""


def plan(
    name: str,
    places: Places | None = None,
    *,
    seeds: int = DEFAULT_SEEDS,
    wanted: Mapping[str, str | float | None] | None = None,
    estimator: str = DEFAULT,
) -> tuple[Confirmation, Ledger]:
    """What `confirm` would do, and the search that it is about.

    Raises:
        KdcurveError: as `plan_confirmation`, or there is no such search.
    """
    places = places or Places.at()
    ledger = Ledger(open_recorded(name, places), name)
    return _plan(ledger, places, seeds, wanted, estimator), ledger


def _plan(
    ledger: Ledger,
    places: Places,
    seeds: int,
    wanted: Mapping[str, str | float | None] | None,
    estimator: str,
) -> Confirmation:
    rows = None if estimator == DEFAULT else plain(fit_curve(runs_frame(ledger, places), estimator))
    return plan_confirmation(ledger, seeds, wanted, rows, estimator)


def confirm(  # noqa: PLR0913  (what may be asked, by keyword)
    name: str,
    places: Places | None = None,
    *,
    seeds: int = DEFAULT_SEEDS,
    wanted: Mapping[str, str | float | None] | None = None,
    estimator: str = DEFAULT,
    retry: bool = False,
    take_over: bool = False,
    address: str | None = None,
    watcher: Watcher | None = None,
) -> Confirmed:
    """Train what confirms the answers of a search, and judge it on the test set.

    What an earlier confirmation trained is not trained again; one that was interrupted goes on.

    Args:
        name: of the search.
        places: where things live; ``./kdcurve-data`` by default.
        seeds: students per context and KD weight; see `confirmation.confirmation_seeds`.
        wanted: only contexts with these values (method, fraction, teacher).
        estimator: of the answers; by default those that are recorded.
        retry: train those that failed once more.
        take_over: break the lease of a process on another machine that is gone for good.
        address: of a running Ray cluster; by default Ray is started on this machine.
        watcher: follows the progress.

    Raises:
        UsageError: no such contexts, or fewer than one seed.
        KdcurveError: there is no such search, it is in another process's hands or has no answers,
            there is no test set, or one of the places cannot be used.
    """
    places, watcher = places or Places.at(), watcher or Silent()
    journal = open_recorded(name, places)
    require_idle(journal, name, take_over)
    places.make()
    with one_at_a_time(places):
        delivery = Delivery(journal, recorded_spec(journal, name), places, watcher.say)
        notice = delivery.check()
    with writing(journal, name, places.folder(name), take_over=take_over) as writer:
        ledger = Ledger(journal, name, writer.append)
        planned = _plan(ledger, places, seeds, wanted, estimator)
        students = planned.left(ledger, retry=retry)
        if not students and journal.newest(name).kind is EventKind.ANSWER:
            return Confirmed(planned, ledger, 0, _curve(ledger, places, estimator), None)
        known = dict(ledger.confirmed)
        with stopping_cleanly(watcher):
            if notice:
                watcher.say(notice)
            delivery.start()
            curve = None
            try:
                if students:
                    with connected(places.folder(name), address):
                        _carry_out(planned, places, ledger, students, watcher)
                curve = publish(ledger, places).curve
                if estimator != DEFAULT:
                    curve = _curve(ledger, places, estimator)
            except KeyboardInterrupt:
                pass
            finally:
                undelivered = deliver_rest(ledger, writer, delivery, watcher)
    left = sum(ledger.confirmed.get(each.key) is known.get(each.key) for each in students)
    return Confirmed(planned, ledger, left, curve, undelivered)


def _curve(ledger: Ledger, places: Places, estimator: str) -> "pd.DataFrame":
    return with_test(fit_curve(runs_frame(ledger, places), estimator), students_frame(ledger))


def _carry_out(
    planned: Confirmation,
    places: Places,
    ledger: Ledger,
    students: list[Student],
    watcher: Watcher,
) -> None:
    spec = ledger.spec
    concurrent = concurrent_trials(spec)
    _require_test(spec, places, students[0].config)
    ledger.record(
        EventKind.CONFIRMING,
        answer=planned.answer.number,
        estimator=planned.estimator,
        seeds=list(planned.seeds),
        settings={context: dict(values) for context, values in planned.settings.items()},
    )
    needed = needed_by(student.config for student in students)
    prepare_shared(spec, places, ledger, watcher.say, needed)
    began, done, failed = time.monotonic(), 0, 0

    def line() -> str:
        from search.display import duration  # noqa: PLC0415

        elapsed = time.monotonic() - began
        rest = f", {duration(elapsed * (len(students) - done) / done)} left" if done else ""
        bad = f" ({failed} failed)" if failed else ""
        return f"{done}/{len(students)} students{bad} · {duration(elapsed)}{rest}"

    with watcher.following(line):
        for student, outcome in _trained(spec, places, students, concurrent):
            record_student(ledger, student, outcome)
            done += 1
            failed += isinstance(outcome, BaseException)


def _trained(
    spec: "SearchSpec", places: Places, students: list[Student], concurrent: int
) -> Iterator[tuple[Student, "dict[str, float] | BaseException"]]:
    """Students as they end: their metrics, or why they failed; so many at a time."""
    resources = spec.resources
    task = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu)(_train)
    waiting = list(reversed(students))
    running: dict[Any, Student] = {}
    try:
        while waiting or running:
            while waiting and len(running) < concurrent:
                student = waiting.pop()
                started = task.remote(
                    student.config.model_dump(mode="json"),
                    places.cache,
                    places.confirmed / spec.name if student.chosen else None,
                    student_folder(places.checkpoints / spec.name, student.key),
                    spec.checkpoint_every_s,
                    resources.cpu,
                )
                running[started] = student
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            student = running.pop(ended)
            try:
                yield student, ray.get(ended)
            except ray.exceptions.RayError as error:
                yield student, error
    finally:
        for future in running:
            with contextlib.suppress(Exception):  # whatever Ray says, they shall not go on
                ray.cancel(future, force=True)


def _train(
    dump: dict[str, Any],
    cache: Path,
    weights: Path | None,
    checkpoints: Path,
    checkpoint_every_s: float,
    cpus: float,
) -> dict[str, float]:
    pin_threads(cpus)
    keep_freed()
    return train_and_test(
        TrialConfig.model_validate(dump),
        cache,
        weights=weights,
        checkpoints=checkpoints,
        checkpoint_every_s=checkpoint_every_s,
    )


def _require_test(spec: "SearchSpec", places: Places, config: TrialConfig) -> None:
    """See that there is a test set, where the students will be trained."""
    task = ray.remote(num_cpus=spec.resources.cpu)(_count_test)
    try:
        ray.get(task.remote(config.model_dump(mode="json"), places.cache))
    except ray.exceptions.RayError as error:
        raise KdcurveError(
            f"{spec.name} cannot be confirmed: {reason_of(error).partition(': ')[2]}"
        ) from error


def _count_test(dump: dict[str, Any], cache: Path) -> int:
    return require_test(TrialConfig.model_validate(dump), cache)


def record_student(
    ledger: Ledger, student: Student, outcome: "dict[str, float] | BaseException"
) -> None:
    """Record how a student ended: by its metrics, or by what it raised."""
    failed = isinstance(outcome, BaseException)
    before = ledger.confirmed.get(student.key)
    ledger.record(
        EventKind.CONFIRMED,
        student=student.key,
        attempt=1 if before is None else before.data["attempt"] + 1,
        config=student.config.model_dump(mode="json"),
        context=student.context.key,
        chosen=list(student.chosen),
        outcome=Outcome.FAILED if failed else Outcome.COMPLETE,
        reason=reason_of(outcome) if isinstance(outcome, BaseException) else None,
        metrics={} if isinstance(outcome, BaseException) else outcome,
    )

"""What a confirmation trains: the answers of a search, and what they are compared with.

For every context the chosen KD weight, 0 and 1, under seeds that no trial ever has. A seed is
shared by the three (same subset, initial weights, batches and views), so that gains are paired.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analysis.errors import known
from analysis.estimators import DEFAULT
from search.designer import start_values
from search.errors import KdcurveError, UsageError
from search.journal import Event
from search.ledger import Ledger
from search.plan import needed_by, trial_samples
from search.space import Context, SearchSpec
from trainables.config import Artifact, TrialConfig, student_key
from trainables.record import SEEDS_OF_TRIALS, Outcome, SearchState

DEFAULT_SEEDS = 5
ENDS = (0.0, 1.0)
"""KD weights that every answer is compared with."""


@dataclass(frozen=True)
class Student:
    """One training of a confirmation, maybe shared by several contexts."""

    config: TrialConfig
    context: Context
    """One of those it belongs to."""
    chosen: tuple[str, ...]
    """Keys of the contexts whose answer it is."""

    @cached_property
    def key(self) -> str:
        """Name by all that its training depends on."""
        return student_key(self.config)


@dataclass(frozen=True)
class Confirmation:
    """What is to be confirmed, and by which students."""

    answer: Event
    """The answers that it is about."""
    estimator: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Mapping[str, Any]]
    """The answers themselves: tuned values by context."""
    students: tuple[Student, ...]
    """Seed by seed, so that what is cut off has whole seeds."""
    unanswered: tuple[str, ...] = field(default=())
    """Labels of the contexts that have no answer to confirm."""

    @property
    def needed(self) -> tuple[Artifact, ...]:
        """What the students share, in the order in which it is made."""
        return needed_by(student.config for student in self.students)

    def left(self, ledger: Ledger, *, retry: bool = False) -> list[Student]:
        """Students that have not ended; with `retry` also those that failed."""

        def done(event: Event | None) -> bool:
            return event is not None and not (retry and event.data["outcome"] != Outcome.COMPLETE)

        return [each for each in self.students if not done(ledger.confirmed.get(each.key))]


def confirmation_seeds(count: int) -> tuple[int, ...]:
    """Seeds of a confirmation: 2³² and those after it.

    Trials have the seeds 0 to `seeds.trials` - 1, of which a search file allows 2³²: whatever a
    search is extended by, it never meets these. All randomness derives from a seed by SHA-256
    (`trainables.seeds.derive`), so that neighbours have nothing in common.
    """
    return tuple(range(SEEDS_OF_TRIALS, SEEDS_OF_TRIALS + count))


def plan_confirmation(
    ledger: Ledger,
    seeds: int = DEFAULT_SEEDS,
    wanted: Mapping[str, str | float | None] | None = None,
    curve: list[dict[str, Any]] | None = None,
    estimator: str = DEFAULT,
) -> Confirmation:
    """Say what confirms the newest answers of a search.

    Args:
        ledger: of the search.
        seeds: how many students of each KD weight and context.
        wanted: only contexts with these values, by name (None: all).
        curve: rows of another curve of the same trials, to be confirmed instead of the recorded.
        estimator: what made it.

    Raises:
        UsageError: fewer than one seed.
        KdcurveError: the search has not come to a halt, or has no answers like these.
    """
    name, spec = ledger.search, ledger.spec
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: allowed are numbers from 1 on (an interval needs 2)")
    if ledger.state is SearchState.RUNNING:
        raise KdcurveError(
            f"{name} was cut off before it came to its answers; first: kdcurve resume {name}, "
            f"or kdcurve sync {name} to take it as it is"
        )
    if ledger.answer is None:
        raise KdcurveError(f"{name} has no recorded answers; kdcurve sync {name} makes them")
    rows = rows_like(curve or ledger.answer.data["curve"], spec, wanted or {})
    settings = {row["context"]: _values(row, spec) for row in rows if _known(row["kd_weight"])}
    if not settings:
        raise KdcurveError(f"{name} has no answer for what is asked: {rows[0]['reason']}")
    fresh = confirmation_seeds(seeds)
    return Confirmation(
        ledger.answer,
        estimator,
        fresh,
        settings,
        tuple(_students(spec, settings, fresh)),
        tuple(row["label"] for row in rows if row["context"] not in settings),
    )


def samples(spec: SearchSpec, students: list[Student]) -> int:
    """What students are trained on, in epochs × samples."""
    return sum(trial_samples(spec, student.context) for student in students)


def _students(
    spec: SearchSpec, settings: Mapping[str, Mapping[str, Any]], seeds: tuple[int, ...]
) -> Iterator[Student]:
    contexts = [context for context in spec.context_list if context.key in settings]
    for seed in seeds:
        made: dict[str, Student] = {}
        for context in contexts:
            values = settings[context.key]
            # What was tuned beside the KD weight plays no part where that is 0, and has no value.
            whole = {**start_values(spec, 1), **values}
            ends = ENDS if all(name in values for name in spec.tuned) else ENDS[:1]
            for weight in dict.fromkeys((values["kd_weight"], *ends)):
                config = spec.trial_config(context, {**whole, "kd_weight": weight}, seed)
                mine = (context.key,) if weight == values["kd_weight"] else ()
                student = Student(config, context, mine)
                if (same := made.get(student.key)) is not None:
                    student = Student(same.config, same.context, same.chosen + mine)
                made[student.key] = student
        yield from made.values()


def _values(row: Mapping[str, Any], spec: SearchSpec) -> dict[str, Any]:
    return {name: row[name] for name in spec.tuned if _known(row[name])}


def _known(value: Any) -> bool:
    return value is not None and value == value  # noqa: PLR0124  (NaN)


def rows_like(
    rows: list[dict[str, Any]], spec: SearchSpec, wanted: Mapping[str, str | float | None]
) -> list[dict[str, Any]]:
    """Rows of a curve with these values.

    Raises:
        UsageError: there are none, or a value is of what was tuned.
    """
    for name, value in wanted.items():
        if value is None:
            continue
        if name in spec.tuned:
            raise UsageError(f"--{name}: it was tuned in {spec.name}, and tells no contexts apart")
        there = dict.fromkeys(row[name] for row in rows)
        rows = [row for row in rows if _same(row[name], value)]
        if not rows:
            raise UsageError(f"--{name} {value!r} is not in {spec.name}; known: {known(there)}")
    return rows


def _same(one: Any, other: str | float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other)
    return bool(one == other)

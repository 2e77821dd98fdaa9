"""What a confirmation plans: its seeds, its students and what they are about."""

from collections import Counter

import pytest

from search.confirmation import confirmation_seeds, plan_confirmation, samples
from search.errors import KdcurveError, UsageError
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.plan import trial_samples
from search.space import SearchSpec
from trainables.config import student_key
from trainables.record import SEEDS_OF_TRIALS, Outcome, SearchState

CONTEXTS = {"method": ["random", "el2n"], "fraction": [0.1, 0.9], "teacher": ["cnn4", "cnn16"]}


@pytest.fixture
def answered(plan, journal, make_spec):
    """A search that came to a halt with an answer in every context, or `weights` of them."""

    def make(weights=(0.3, 0.6), tuned=None, **sections):
        spec = make_spec(contexts=CONTEXTS, **sections)
        ledger = plan(journal, spec)
        rows = [
            {
                **{"context": context.key, "label": context.label, "temperature": None},
                **context.values,
                "kd_weight": weights[i % len(weights)],
                "reason": "too few trials",
                **(tuned or {}),
            }
            for i, context in enumerate(spec.context_list)
        ]
        ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
        ledger.record(EventKind.ANSWER, curve=rows)
        return ledger

    return make


def test_no_trial_can_ever_have_a_seed_of_a_confirmation(make_spec):
    """A search file, new or extended, allows seeds below 2³² alone."""
    seeds = confirmation_seeds(5)
    assert len(set(seeds)) == 5
    assert min(seeds) == SEEDS_OF_TRIALS
    with pytest.raises(UsageError, match=r"seeds\.trials"):
        make_spec(seeds={"trials": SEEDS_OF_TRIALS + 1})


def test_more_seeds_add_to_those_that_were_run():
    assert confirmation_seeds(8)[:5] == confirmation_seeds(5)


def test_every_context_has_its_answer_0_and_1_under_every_seed(answered):
    ledger = answered()
    planned = plan_confirmation(ledger, seeds=3)
    assert len(planned.settings) == 8
    by_seed = Counter(student.config.seed for student in planned.students)
    # 8 answers and 8 at KD weight 1; at 0 the teacher plays no part, so that 4 serve 8 contexts.
    assert by_seed == dict.fromkeys(planned.seeds, 20)
    weights = Counter(student.config.kd_weight for student in planned.students)
    assert weights == {0.0: 12, 0.3: 12, 0.6: 12, 1.0: 24}
    assert len({student.key for student in planned.students}) == 60
    chosen = [key for student in planned.students for key in student.chosen]
    assert Counter(chosen) == dict.fromkeys(planned.settings, 3)


def test_kd_weights_of_a_seed_differ_in_nothing_else(answered):
    planned = plan_confirmation(answered(), seeds=1)
    context = planned.students[0].context
    alike = [s.config for s in planned.students if s.context == context and s.config.kd_weight]
    assert len({c.model_copy(update={"kd_weight": 0.5}) for c in alike}) == 1


def test_an_answer_at_0_or_1_is_not_trained_twice(answered):
    planned = plan_confirmation(answered(weights=(0.0, 1.0)), seeds=1)
    assert Counter(s.config.kd_weight for s in planned.students) == {0.0: 4, 1.0: 8}
    assert sum(len(s.chosen) for s in planned.students) == 8


def test_students_without_a_teacher_are_one_whatever_the_teacher_says(make_spec):
    spec = make_spec(contexts=CONTEXTS)
    one, other = (
        spec.trial_config(context, {"kd_weight": 0.0}, 7) for context in spec.context_list[:2]
    )
    assert one.teacher != other.teacher
    assert student_key(one) == student_key(other)
    taught = [c.model_copy(update={"kd_weight": 0.5}) for c in (one, other)]
    assert len({student_key(c) for c in taught}) == 2


def test_filters_leave_the_contexts_that_are_asked_for(answered):
    ledger = answered()
    planned = plan_confirmation(ledger, 1, {"method": "el2n", "fraction": 0.9, "teacher": "cnn4"})
    assert len(planned.settings) == 1
    assert len(planned.students) == 3
    with pytest.raises(UsageError, match=r"--fraction 0\.5 is not in .*; known: 0\.1, 0\.9"):
        plan_confirmation(ledger, 1, {"fraction": 0.5})


def test_contexts_without_an_answer_are_named_not_invented(answered):
    planned = plan_confirmation(answered(weights=(0.3, None)), seeds=1)
    assert len(planned.settings) == len(planned.unanswered) == 4
    with pytest.raises(KdcurveError, match="no answer for what is asked: too few trials"):
        plan_confirmation(answered_none(planned), 1)


def answered_none(planned):
    """The same search, when nothing of it has an answer."""

    class Empty:
        search, state = "none", SearchState.COMPLETE
        spec = type("Spec", (), {"tuned": ("kd_weight",)})
        answer = type(
            "Event",
            (),
            {
                "data": {
                    "curve": [
                        {
                            "context": "a",
                            "label": "a",
                            "kd_weight": None,
                            "reason": "too few trials",
                        }
                    ]
                }
            },
        )

    return Empty


def test_what_was_tuned_beside_the_kd_weight_is_that_of_the_answer(answered):
    tune = {"kd_weight": {"low": 0.0, "high": 1.0}, "temperature": {"low": 1.0, "high": 8.0}}
    planned = plan_confirmation(answered(tuned={"temperature": 3.0}, tune=tune), seeds=1)
    taught = [s.config.temperature for s in planned.students if s.config.kd_weight]
    assert set(taught) == {3.0}


def test_without_a_temperature_of_its_own_an_answer_at_0_is_not_compared_with_1(answered):
    tune = {"kd_weight": {"low": 0.0, "high": 1.0}, "temperature": {"low": 1.0, "high": 8.0}}
    planned = plan_confirmation(answered(weights=(0.0,), tune=tune), seeds=1)
    assert {s.config.kd_weight for s in planned.students} == {0.0}


def test_what_ended_is_not_left_and_what_failed_only_to_be_retried(answered):
    ledger = answered()
    planned = plan_confirmation(ledger, seeds=1)
    for student, outcome in zip(planned.students, (Outcome.COMPLETE, Outcome.FAILED), strict=False):
        ledger.record(EventKind.CONFIRMED, student=student.key, outcome=outcome)
    again = Ledger(ledger.journal, ledger.search)
    assert planned.left(again) == list(planned.students[2:])
    assert planned.left(again, retry=True) == list(planned.students[1:])


def test_its_cost_is_that_of_its_students(answered):
    ledger = answered()
    spec: SearchSpec = ledger.spec
    students = list(plan_confirmation(ledger, seeds=2).students)
    small, large = (trial_samples(spec, spec.context_list[i]) for i in (0, 2))
    assert samples(spec, students) == 20 * (small + large)


def test_a_search_that_has_not_halted_or_not_answered_is_refused(plan, journal, make_spec):
    ledger = plan(journal, make_spec())
    with pytest.raises(KdcurveError, match=r"cut off .* kdcurve resume rehearsal, or kdcurve sync"):
        plan_confirmation(ledger)
    ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
    with pytest.raises(KdcurveError, match="no recorded answers; kdcurve sync rehearsal"):
        plan_confirmation(ledger)


def test_no_seed_is_refused(answered):
    with pytest.raises(UsageError, match="--seeds 0"):
        plan_confirmation(answered(), 0)


def test_the_journal_knows_confirmations_after_it_is_opened_again(answered):
    ledger = answered()
    ledger.record(EventKind.CONFIRMED, student="a", outcome=Outcome.COMPLETE)
    again = Ledger(Journal(ledger.journal.uri), ledger.search)
    assert again.answer == ledger.answer
    assert again.confirmed.keys() == {"a"}

import itertools
import math
import random

import pytest
from ray.tune.schedulers import TrialScheduler

from search.journal import EventKind
from search.ledger import Ledger
from search.scheduler import ContextRungs, InOrder, median
from trainables.record import EPOCH, VAL_ACCURACY, Outcome

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


@pytest.fixture
def spec(make_spec):
    """Rungs at epochs 1, 3 and 9 of 27."""
    return make_spec(
        recipe={"epochs": 27},
        early_stopping={"grace_epochs": 1, "reduction_factor": 3},
        budget={"trials_per_context": 60},
    )


def propose(ledger, number, context, *, start_design=False, **more):
    ledger.record(
        EventKind.PROPOSED,
        number,
        context=context.key,
        values={"kd_weight": 0.5},
        seed=0,
        start_design=start_design,
        **more,
    )


def report(scheduler, ledger, number, epoch, score):
    """Tell the scheduler and then the record, as Tune does."""
    result = {"number": number, EPOCH: epoch, VAL_ACCURACY: score}
    decision = scheduler.on_trial_result(None, None, result)
    metrics = {EPOCH: epoch, VAL_ACCURACY: score}
    ledger.record(EventKind.REPORTED, number, epoch=epoch, metrics=metrics)
    return decision


def run_trial(scheduler, ledger, spec, number, score):
    """One trial from its first rung to its end; the epoch it got to."""
    context = next(c for c in spec.context_list if c.key == ledger.trials[number].context)
    total = spec.total_epochs(context)
    for epoch in (*spec.rungs(context), total):
        if report(scheduler, ledger, number, epoch, score(epoch)) == STOP and epoch < total:
            break
    outcome = Outcome.COMPLETE if epoch == total else Outcome.STOPPED_EARLY
    ledger.record(EventKind.ENDED, number, outcome=outcome, reason=None)
    return epoch


def decisions(journal, spec):
    return [
        (e.trial, e.data["epoch"], e.data["stop"])
        for e in journal.events(spec.name)
        if e.kind is EventKind.RUNG
    ]


def test_a_context_of_low_scores_is_not_starved_by_one_of_high_scores(spec, journal, plan):
    """Scores of 0.2 and 0.9 by fraction: each context lets its own best third go on."""
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    draw = random.Random(0)
    level = dict(zip((c.key for c in spec.context_list), (0.2, 0.9), strict=True))
    reached = {key: [] for key in level}
    for number in range(120):
        context = spec.context_list[number % 2]
        propose(ledger, number, context)
        luck = draw.random() / 20
        reached[context.key].append(
            run_trial(
                scheduler, ledger, spec, number, lambda _, c=context, x=luck: level[c.key] + x
            )
        )
    for epochs in reached.values():
        past_first = sum(epoch > 1 for epoch in epochs)
        assert 15 <= past_first <= 35
        assert 2 <= sum(epoch == 27 for epoch in epochs) <= past_first


def test_the_second_of_two_is_stopped_at_each_rung_if_it_is_worse(spec, journal, plan):
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    context = spec.context_list[0]
    propose(ledger, 0, context)
    assert run_trial(scheduler, ledger, spec, 0, lambda _: 0.5) == 27
    for number, bad in enumerate(spec.rungs(context), start=1):
        propose(ledger, number, context)
        score = lambda epoch, bad=bad: 0.1 if epoch == bad else 0.6  # noqa: E731
        assert run_trial(scheduler, ledger, spec, number, score) == bad


@pytest.mark.parametrize(
    ("factor", "epochs"), [*itertools.product([1.5, 2, 2.4, 3, 4], [10, 27, 81])]
)
def test_every_rung_of_the_search_is_one_of_rays(make_spec, journal, plan, factor, epochs):
    """Whatever the rounding, a trial is compared at each epoch that the search calls a rung."""
    spec = make_spec(
        recipe={"epochs": epochs}, early_stopping={"grace_epochs": 2, "reduction_factor": factor}
    )
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    context = spec.context_list[0]
    numbers = itertools.count()
    for bad in spec.rungs(context):
        for score in (lambda _: 0.5, lambda epoch, bad=bad: -1.0 if epoch == bad else 0.5):
            number = next(numbers)
            propose(ledger, number, context)
            reached = run_trial(scheduler, ledger, spec, number, score)
        assert reached == bad


def test_trials_of_the_starting_design_are_never_stopped_but_set_the_bar(spec, journal, plan):
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    context = spec.context_list[0]
    for number, level in enumerate((0.9, 0.5, 0.1)):
        propose(ledger, number, context, start_design=True)
        assert run_trial(scheduler, ledger, spec, number, lambda _, x=level: x) == 27
    propose(ledger, 3, context)
    assert run_trial(scheduler, ledger, spec, 3, lambda _: 0.2) == 1


def test_nothing_is_decided_between_rungs_and_at_the_end(spec, journal, plan):
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    context = spec.context_list[0]
    for number in range(2):
        propose(ledger, number, context)
        for epoch in (2, 4, 8, 10, 26, 27):
            assert report(scheduler, ledger, number, epoch, -number) == CONTINUE
    assert decisions(journal, spec) == []


def test_a_decision_is_recorded_before_tune_acts_on_it(spec, journal, plan):
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number, score in enumerate((0.9, 0.1)):
        propose(ledger, number, spec.context_list[0])
        result = {"number": number, EPOCH: 1, VAL_ACCURACY: score}
        stop = scheduler.on_trial_result(None, None, result) == STOP
        assert decisions(journal, spec)[-1] == (number, 1, stop)
        assert ledger.trials[number].stopped_at == (1 if stop else None)
    assert stop


@pytest.mark.parametrize("every", [1, 2, 7])
def test_rungs_replayed_from_the_record_decide_as_undisturbed_ones(spec, journal, plan, every):
    """A search whose scheduler is made anew every few trials stops the same trials."""

    def search(name, renew):
        own = spec.model_copy(update={"name": name})
        ledger = plan(journal, own)
        scheduler = ContextRungs(own, ledger, VAL_ACCURACY)
        draw = random.Random(1)
        for number in range(40):
            if renew and number % every == 0:
                ledger = Ledger(journal, name)
                scheduler = ContextRungs(own, ledger, VAL_ACCURACY)
            propose(ledger, number, own.context_list[number % 2], start_design=number < 6)
            noise = [draw.gauss(0, 0.02) for _ in range(28)]
            skill = draw.random()
            run_trial(scheduler, ledger, own, number, lambda t, s=skill, n=noise: s / 5 + n[t])
        return decisions(journal, own)

    undisturbed = search("undisturbed", renew=False)
    assert search("renewed", renew=True) == undisturbed
    assert 10 < sum(stop for *_, stop in undisturbed) < 34


def test_what_was_decided_stands_for_a_trial_taken_up_again(spec, journal, plan):
    """It comes to the rung a second time: one record, one place in the rung, one decision."""
    ledger = plan(journal, spec)
    first = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number in range(3):
        propose(ledger, number, spec.context_list[0])
    assert report(first, ledger, 0, 1, 0.5) == CONTINUE
    assert report(first, ledger, 1, 1, 0.9) == CONTINUE  # and then the power fails
    again = ContextRungs(spec, Ledger(journal, spec.name), VAL_ACCURACY)
    again._ledger.record(EventKind.STARTED, 0)
    before = len(list(journal.events(spec.name)))
    assert report(again, again._ledger, 0, 1, 0.5) == CONTINUE, "though it is now the worse of two"
    events = list(journal.events(spec.name))[before:]
    assert EventKind.RUNG not in {event.kind for event in events}
    assert report(again, again._ledger, 2, 1, 0.6) == STOP, "the bar is that of the first life"


def test_budgets_too_short_for_a_rung_are_never_stopped(make_spec, journal, plan):
    spec = make_spec(recipe={"epochs": 1})
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number, score in enumerate((0.9, 0.1)):
        propose(ledger, number, spec.context_list[0])
        assert report(scheduler, ledger, number, 1, score) == CONTINUE


def test_contexts_of_different_budgets_have_rungs_of_their_own(make_spec, journal, plan):
    """With fixed iterations, a tenth of the data takes many epochs and nine tenths few."""
    spec = make_spec(recipe={"iterations": 100, "batch_size": 32})
    small, large = spec.context_list
    assert (spec.rungs(small), spec.rungs(large)) == ((7,), (1,))
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number, (context, score) in enumerate(itertools.product((small, large), (0.9, 0.1))):
        propose(ledger, number, context)
        report(scheduler, ledger, number, spec.rungs(context)[0], score)
    assert decisions(journal, spec) == [(0, 7, False), (1, 7, True), (2, 1, False), (3, 1, True)]


def test_the_median_rule_is_that_of_ray(make_spec):
    """Random curves, none of them of the starting design: Ray's own rule decides alike."""
    from types import SimpleNamespace

    from ray.tune.schedulers import MedianStoppingRule

    class Same(SimpleNamespace):
        __hash__ = object.__hash__

    draw = random.Random(0)
    rungs = (2, 4, 8)
    theirs = MedianStoppingRule(
        EPOCH, "score", "max", grace_period=2, min_samples_required=3, min_time_slice=math.inf
    )
    ours = median(2, 9, 2.0)
    stopped = 0
    for number in range(60):
        level, trial = draw.random(), Same(trial_id=number)
        for epoch in rungs:
            score = level + 0.1 * draw.random()
            decision = theirs.on_trial_result(None, trial, {EPOCH: epoch, "score": score})
            loses = ours(number, epoch, score)
            assert loses == (decision == STOP)
            if loses:
                stopped += 1
                break
    assert 10 < stopped < 50


def test_trials_of_the_starting_design_go_on_under_the_median_rule_and_compete(
    make_spec, journal, plan
):
    spec = make_spec(
        recipe={"epochs": 27},
        early_stopping={"name": "median", "grace_epochs": 3, "reduction_factor": 3},
    )
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number, score in enumerate((0.9, 0.8, 0.7, 0.6)):
        propose(ledger, number, spec.context_list[0], start_design=True)
        assert run_trial(scheduler, ledger, spec, number, lambda _, s=score: s) == 27
    for number, score, end in ((4, 0.74, 3), (5, 0.75, 27), (6, 0.7, 3)):
        propose(ledger, number, spec.context_list[0])
        assert run_trial(scheduler, ledger, spec, number, lambda _, s=score: s) == end


def test_a_search_taken_up_again_remembers_the_medians(make_spec, journal, plan):
    spec = make_spec(early_stopping={"name": "median", "grace_epochs": 3})
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number, score in enumerate((0.9, 0.8, 0.7)):
        propose(ledger, number, spec.context_list[0])
        report(scheduler, ledger, number, 3, score)
    again = Ledger(journal, spec.name)
    propose(again, 3, spec.context_list[0])
    assert report(ContextRungs(spec, again, VAL_ACCURACY), again, 3, 3, 0.79) == STOP


def test_the_choice_of_the_next_trial_is_left_to_tune(spec, journal, plan):
    ledger = plan(journal, spec)
    assert InOrder(ledger, VAL_ACCURACY).choose_trial_to_run(None) is None
    assert ContextRungs(spec, ledger, VAL_ACCURACY).choose_trial_to_run(None) is None


def test_nothing_of_the_scheduler_is_pickled(spec, journal, plan):
    import pickle

    pickled = pickle.dumps(ContextRungs(spec, plan(journal, spec), VAL_ACCURACY))
    assert len(pickled) < 100
    assert math.isfinite(len(vars(pickle.loads(pickled))))


@pytest.mark.parametrize("early_stopping", ["asha", "none"])
def test_a_trial_that_is_to_end_somewhere_ends_there_and_not_before(
    make_spec, journal, plan, early_stopping
):
    stopping = {"name": early_stopping, "grace_epochs": 1}
    spec = make_spec(recipe={"epochs": 27}, early_stopping=stopping)
    ledger = plan(journal, spec)
    context = spec.context_list[0]
    kind = ContextRungs(spec, ledger, VAL_ACCURACY)
    if early_stopping == "none":
        kind = InOrder(ledger, VAL_ACCURACY)
    for number, until in enumerate((2, 4, None)):
        more = {} if until is None else {"until_epoch": until}
        propose(ledger, number, context, **more)
    assert ledger.trials[0].until_epoch == 2
    for number, until in enumerate((2, 4)):
        said = [report(kind, ledger, number, epoch, -number) for epoch in range(1, until + 1)]
        assert said == [CONTINUE] * (until - 1) + [STOP]
        assert ledger.trials[number].stopped_at == until
    # It says again what was decided, and is no measure for others.
    assert report(kind, Ledger(journal, spec.name), 0, 2, 9.0) == STOP
    again = ContextRungs(spec, Ledger(journal, spec.name), VAL_ACCURACY)
    for scheduler in (kind, again):
        assert report(scheduler, ledger, 2, 1, -5.0) == CONTINUE


def test_the_stock_baseline_compares_all_contexts_and_seeds(make_spec, journal, plan):
    """Fixed iterations: 20 and 3 epochs. The first rung stands at a third of the longest."""
    spec = make_spec(
        sampler="ray-stock",
        recipe={"iterations": 100, "batch_size": 32},
        early_stopping={"grace_epochs": 1, "reduction_factor": 4},
    )
    small, large = spec.context_list
    assert (spec.rungs(small), spec.rungs(large)) == ((1, 4, 16), (1,))
    ledger = plan(journal, spec)
    scheduler = ContextRungs(spec, ledger, VAL_ACCURACY)
    for number, context in enumerate((large, small)):
        propose(ledger, number, context)
    assert report(scheduler, ledger, 0, 1, 0.9) == CONTINUE
    assert report(scheduler, ledger, 1, 1, 0.2) == STOP
    default = spec.model_copy(update={"early_stopping": spec.early_stopping.model_copy(
        update={"grace_epochs": None})})  # fmt: skip
    assert (default.rungs(small), default.rungs(large)) == ((7,), ())

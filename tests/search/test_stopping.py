import math

import pytest

from analysis.loss import Loss
from search import stopping
from search.designer import Proposal, start_values
from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import TrialState
from search.stopping import EXHAUSTED, HOPELESS, Bounded, Losses, Spent, reached, shares
from trainables.record import SECONDS, Outcome


def trial(
    number, context, epochs=9, *, outcome=Outcome.COMPLETE, seconds=0.0, weight=0.5, score=None
):
    scores = dict.fromkeys(range(1, epochs + 1), 0.5 if score is None else score)
    return TrialState(
        number, context.key, {"kd_weight": weight}, number % 2, False,
        scores=scores, last={SECONDS: seconds}, outcome=outcome, reason="out of luck",
    )  # fmt: skip


@pytest.fixture
def search(make_spec):
    """A search with that budget and what is known of it, from trials in its two contexts."""

    def make(budget, small=(), large=(), **sections):
        spec = make_spec(budget=budget, **sections)
        first, second = spec.context_list
        numbers = iter(range(1000))
        return spec, {
            context.key: [trial(next(numbers), context, **each) for each in trials]
            for context, trials in ((first, small), (second, large))
        }

    return make


def test_without_any_criterion_there_are_twelve_trials_per_context(make_spec):
    assert make_spec(budget={}).budget.trials_per_context == 12
    assert make_spec(budget={"wall_time_s": 60}).budget.trials_per_context is None
    assert make_spec(budget={"wall_time_s": 60}).trials is None
    both = make_spec(budget={"wall_time_s": 60, "trials_per_context": 5})
    assert both.trials == 10


def test_trials_are_counted_over_all_contexts(search):
    """A sampler may give some contexts more of them than others."""
    spec, known = search({"trials_per_context": 5}, small=[{}] * 7, large=[{}] * 2)
    assert reached(spec, known, 0.0) is None
    spec, known = search({"trials_per_context": 5}, small=[{}] * 7, large=[{}] * 3)
    assert reached(spec, known, 0.0) == "5 trials per context"


def test_epochs_times_kept_samples_count_trials_that_still_run(search):
    samples = 9 * 129 + 4 * 1164
    running = {"epochs": 4, "outcome": None}
    for limit, ends in ((samples, True), (samples + 1, False)):
        spec, known = search({"epoch_samples": limit}, small=[{}], large=[running])
        assert Spent(spec, known, 0.0).epoch_samples == samples
        assert (reached(spec, known, 0.0) is not None) == ends


def test_gpu_hours_and_money_are_measured_seconds_times_gpus(search):
    gpus = {"gpu": 0.25}
    trials = {"small": [{"seconds": 3600.0}], "large": [{"seconds": 7200.0, "outcome": None}]}
    spec, known = search({"gpu_hours": 0.75}, **trials, resources=gpus)
    assert reached(spec, known, 0.0) == "0.75 GPU hours used, of 0.75 allowed"
    spec, known = search({"gpu_hours": 0.76}, **trials, resources=gpus)
    assert reached(spec, known, 0.0) is None
    price = {"cost_per_gpu_hour": 4.0}
    spec, known = search({"money": 3, **price}, **trials, resources=gpus)
    assert reached(spec, known, 0.0) == "3 spent on GPU hours, of 3 allowed"
    spec, known = search({"money": 3.01, **price}, **trials, resources=gpus)
    assert reached(spec, known, 0.0) is None


def test_only_the_time_that_was_worked_counts(search):
    spec, known = search({"wall_time_s": 60})
    assert reached(spec, known, 59.9) is None
    assert reached(spec, known, 60.0) == "60 s worked on it, of 60 allowed"
    assert shares(spec, Spent(spec, known, 30.0)) == {"wall_time_s": 0.5}


def test_pauses_between_two_lives_are_not_worked(spec_ledger):
    ledger = spec_ledger
    began = ledger.last
    assert ledger.active_at(began + 5) == pytest.approx(ledger.active_s + 5)
    ledger.record(EventKind.CLOSED, state="interrupted", reason=None)
    closed = ledger.active_s
    assert ledger.active_at(ledger.last + 1000) == closed
    ledger.record(EventKind.RESUMED)
    assert ledger.active_at(ledger.last) == pytest.approx(closed)


@pytest.fixture
def spec_ledger(make_spec, journal, plan):
    return plan(journal, make_spec())


def test_a_good_answer_ends_a_search_only_with_the_confidence_asked_for(search):
    spec, known = search({"until": {"regret": 0.1, "confidence": 0.9}})
    assert reached(spec, known, 0.0, lambda _: None) is None
    assert reached(spec, known, 0.0, lambda _: Loss(0.05, 0.1)) is None
    reason = reached(spec, known, 0.0, lambda _: Loss(0.05, 0.09))
    assert reason == (
        "an expected loss of 0.05 points, with 90% confidence below 0.09, where 0.1 was asked for"
    )


def parabola(weights, context, start=0, wobble=1e-4):
    """Complete trials on a parabola with its top at 0.4, nearly without noise."""
    scores = [0.9 - 0.2 * (w - 0.4) ** 2 + wobble * (-1) ** (i // 2) for i, w in enumerate(weights)]
    both = enumerate(zip(weights, scores, strict=True), start)
    return [trial(number, context, weight=w, score=score) for number, (w, score) in both]


def test_the_expected_loss_is_known_once_every_context_has_an_answer(make_spec):
    spec = make_spec(budget={"until": {"regret": 0.1}})
    first, second = spec.context_list
    weights = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.3, 0.3]
    losses = Losses(spec)
    assert losses({}) is None
    assert losses({first.key: parabola(weights, first)}) is None
    known = {c.key: parabola(weights, c, 100 * i) for i, c in enumerate((first, second))}
    loss = losses(known)
    assert 0 < loss.expected < loss.upper < 0.1
    assert loss == Losses(spec)(known), "a search that is taken up again sees the same"


def test_a_long_search_is_judged_after_every_hundredth_part_more(make_spec, monkeypatch):
    """Whoever takes it up again judges the same trials."""
    judged = []

    def judge(arrays, _):
        judged.append([float(score) for each in arrays for score in each.score])

    monkeypatch.setattr(stopping, "expected_loss", judge)
    spec = make_spec(budget={"until": {"regret": 0.1}})
    history = [
        trial(
            number, spec.context_list[number % 2], weight=number % 3 / 2, score=0.9 - number / 1e4
        )
        for number in range(412)
    ]
    losses = Losses(spec)
    for count in [*range(50, 56), *range(400, 412)]:
        known = {
            c.key: [t for t in history[:count] if t.context == c.key] for c in spec.context_list
        }
        losses(known)
        Losses(spec)(known)
        assert judged.pop() == judged[-1]
        assert len(judged[-1]) <= count < 1.02 * len(judged[-1])
    assert [len(scores) for scores in judged[:6]] == [50, 51, 52, 53, 54, 55]
    assert 6 < len(judged) <= 6 + 4


def test_more_noise_means_a_larger_expected_loss(make_spec):
    spec = make_spec(budget={"until": {"regret": 0.1}})
    weights = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.3, 0.3]
    little, much = (
        Losses(spec)({c.key: parabola(weights, c, wobble=wobble) for c in spec.context_list})
        for wobble in (1e-3, 1e-2)
    )
    assert much.expected > 2 * little.expected
    assert much.upper > 2 * little.upper


def test_trials_that_were_stopped_or_run_say_nothing_of_the_loss(make_spec):
    spec = make_spec(budget={"until": {"regret": 0.1}})
    weights = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.3, 0.3]
    known = {c.key: parabola(weights, c) for c in spec.context_list}
    loss = Losses(spec)(known)
    for outcome in (None, Outcome.STOPPED_EARLY, Outcome.FAILED):
        more = {
            c.key: [*known[c.key], trial(50, c, outcome=outcome, weight=0.4, score=0.1)]
            for c in spec.context_list
        }
        assert Losses(spec)(more) == loss
    diverged = {c.key: [*known[c.key], trial(50, c, score=math.nan)] for c in spec.context_list}
    assert Losses(spec)(diverged) == loss


def test_where_all_trials_score_the_same_nothing_can_be_lost(make_spec):
    spec = make_spec(budget={"until": {"regret": 0.1}})
    known = {
        c.key: [trial(i, c, weight=w) for i, w in enumerate((0.0, 0.5, 1.0, 0.2, 0.7))]
        for c in spec.context_list
    }
    assert Losses(spec)(known) == (0.0, 0.0)


class Endless:
    """A designer that always proposes, and counts."""

    def __init__(self, spec, end=1000):
        self.spec, self.end, self.asked, self.taken = spec, end, 0, []

    def propose(self, known):
        self.asked += 1
        if self.asked > self.end:
            return None
        return Proposal(self.spec.context_list[0], start_values(self.spec, 1), 0)

    def accepted(self, number):
        self.taken.append(number)


def test_nothing_more_is_proposed_once_a_criterion_is_reached(make_spec):
    spec = make_spec(budget={"wall_time_s": 60})
    clock = iter([0.0, 59.0, 60.0])
    inner = Endless(spec)
    designer = Bounded(inner, spec, lambda: next(clock))
    assert designer.propose({}) is not None
    designer.accepted(0)
    assert (designer.propose({}) is not None, designer.reason) == (True, None)
    assert designer.propose({}) is None
    assert (inner.asked, inner.taken) == (2, [0])
    assert designer.reason == "60 s worked on it, of 60 allowed"


def test_a_designer_that_comes_to_its_end_ends_the_search(make_spec):
    spec = make_spec(budget={"wall_time_s": 60})
    designer = Bounded(Endless(spec, end=0), spec, lambda: 0.0)
    assert designer.propose({}) is None
    assert designer.reason == EXHAUSTED


def test_a_search_of_failures_alone_gives_up_where_no_number_of_trials_would_end_it(make_spec):
    spec = make_spec(budget={"epoch_samples": 1e6})
    context = spec.context_list[0]
    failed = [trial(i, context, outcome=Outcome.FAILED) for i in range(HOPELESS + 1)]
    designer = Bounded(Endless(spec), spec, lambda: 0.0)
    assert designer.propose({context.key: []}) is not None
    assert designer.propose({context.key: failed[: HOPELESS - 1]}) is not None
    with pytest.raises(KdcurveError, match=r"last 10 trials of .*f=0\.1.* failed.*out of luck"):
        designer.propose({context.key: failed[:HOPELESS]})
    resumed = Bounded(Endless(spec), spec, lambda: 0.0)
    assert resumed.propose({context.key: failed[:HOPELESS]}) is not None, "it may be mended now"
    limited = make_spec(budget={"epoch_samples": 1e6, "trials_per_context": 50})
    designer = Bounded(Endless(limited), limited, lambda: 0.0)
    designer.propose({})
    assert designer.propose({context.key: failed}) is not None


@pytest.mark.parametrize(
    ("budget", "trials"), [({"epoch_samples": 30_000}, 6), ({"trials_per_context": 6}, 12)]
)
def test_a_search_taken_up_again_ends_where_the_undisturbed_one_does(
    make_spec, journal, plan, rehearsal, tmp_path, budget, trials
):
    from search.ledger import Ledger

    spec = make_spec(budget=budget)
    rehearsal(spec, whole := plan(journal, spec), tmp_path / "whole").run()
    assert len(whole.trials) == trials
    other = make_spec(budget=budget, name="parts")
    plan(journal, other)
    for _ in range(trials + 2):
        rehearsal(other, Ledger(journal, other.name), tmp_path / "parts").run(trials=1)
    assert len(Ledger(journal, other.name).trials) == trials

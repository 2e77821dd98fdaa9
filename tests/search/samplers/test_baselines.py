from collections import Counter

import pytest

from search.designer import Later
from search.journal import EventKind
from search.ledger import Ledger, TrialState
from search.samplers.grid import grid, grid_crn
from search.samplers.one_epoch import blocks, one_epoch_top_k
from search.samplers.planned import other_values, spread
from search.samplers.ray_stock import RayStock
from search.samplers.table import make_designer
from search.studies import Studies
from trainables.record import Outcome

BASELINES = ["grid", "grid-crn", "one-epoch-top-k", "ray-stock"]
TENTHS = [i / 10 for i in range(11)]


def facts(trials):
    return [(t.context, dict(t.values), t.seed, t.until_epoch) for t in trials]


def of(spec, trials, index=0):
    """Trials of one context."""
    return [t for t in trials if t.context == spec.context_list[index].key]


def best_at(optimum):
    return lambda trial: 0.9 - (trial.values["kd_weight"] - optimum) ** 2


@pytest.fixture(params=BASELINES)
def spec(request, make_spec):
    return make_spec(
        sampler=request.param,
        seeds={"trials": 3},
        budget={"trials_per_context": 14},
        contexts={"method": "random", "fraction": [0.1, 0.5, 0.9]},
        tune={
            "kd_weight": {"low": 0.2, "high": 0.7},
            "temperature": {"low": 1, "high": 16, "log": True},
            "teacher": ["cnn4", "cnn8"],
        },
    )


# What all of them promise


def test_the_budget_is_met_exactly(spec, play):
    trials = play(spec)
    assert len(trials) == spec.trials == 42
    if not spec.pooled:
        assert set(Counter(t.context for t in trials).values()) == {14}


def test_values_lie_within_their_ranges_and_seeds_among_those_allowed(spec, play):
    trials = play(spec)
    weights = {t.values["kd_weight"] for t in trials}
    assert all(0.2 <= weight <= 0.7 for weight in weights - {0.0})
    # Gains are measured from KD weight 0, whatever the range; the stock study knows no such thing.
    assert (0.0 in weights) == (not spec.pooled)
    assert all(1 <= t.values["temperature"] <= 16 for t in trials)
    assert {t.values["teacher"] for t in trials} <= {"cnn4", "cnn8"}
    assert {t.seed for t in trials} <= {0, 1, 2}


def test_the_same_knowledge_gives_the_same_proposal_after_any_restart(spec, play):
    whole = play(spec, score=best_at(0.4))
    parts = []
    while len(parts) < len(whole):
        parts = play(spec, upto=len(parts) + 5, known=parts, score=best_at(0.4))
    assert facts(parts) == facts(whole)


def test_it_lives_with_failures_constant_scores_and_scores_that_are_no_numbers(spec, tmp_path):
    designer = make_designer(spec, Studies(spec, tmp_path / "o"))
    known, outcomes = {}, list(Outcome)
    number = 0
    while (proposal := designer.propose(known)) is not None:
        trial = TrialState(number, proposal.context.key, proposal.values, proposal.seed, False)
        trial.outcome = outcomes[number % len(outcomes)]
        trial.scores = ({1: float("nan")}, {1: 0.5}, {})[number % 3]
        known.setdefault(trial.context, []).append(trial)
        designer.accepted(number)
        number += 1
    assert number == spec.trials


def test_a_whole_search_with_each(spec, journal, plan, rehearsal, tmp_path):
    """Through searcher, scheduler and record; cut off within a trial, it goes on as it was."""
    whole = plan(journal, spec)
    rehearsal(spec, whole, tmp_path / "whole").run()
    assert len(whole.trials) == spec.trials
    assert not whole.unfinished()
    other = spec.model_copy(update={"name": "cut"})
    plan(journal, other)
    for _ in range(3):
        rehearsal(other, Ledger(journal, other.name), tmp_path / "parts").run(7, cut_at=2)
    rehearsal(other, Ledger(journal, other.name), tmp_path / "parts").run()
    again = Ledger(journal, other.name)
    assert facts(again.trials.values()) == facts(whole.trials.values())
    assert again.outcomes() == whole.outcomes()


# Grids


def test_the_grid_has_eleven_kd_weights_and_a_seed_of_its_own_for_every_trial(make_spec, play):
    spec = make_spec(sampler="grid", seeds={"trials": 33}, budget={"trials_per_context": 33})
    own = of(spec, play(spec))
    assert [t.values["kd_weight"] for t in own] == TENTHS * 3
    assert [t.seed for t in own] == list(range(33))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 11, 12, 22, 23])
def test_with_fewer_seeds_no_kd_weight_meets_one_twice(make_spec, seeds):
    trials = 11 * seeds
    spec = make_spec(
        sampler="grid", seeds={"trials": seeds}, budget={"trials_per_context": trials},
        contexts={"method": "random", "fraction": 0.5, "teacher": "cnn4"},
    )  # fmt: skip
    (context,) = spec.context_list
    met = set()
    for done in range(trials):
        proposal = grid(spec, {context.key: [None] * done})
        met.add((proposal.values["kd_weight"], proposal.seed))
    assert len(met) == trials


def test_the_grid_with_common_random_numbers_finishes_one_seed_after_the_other(make_spec, play):
    spec = make_spec(sampler="grid-crn", seeds={"trials": 3}, budget={"trials_per_context": 15})
    trials = play(spec)
    own = of(spec, trials, 1)
    assert [t.values["kd_weight"] for t in own] == [0.0, 0.25, 0.5, 0.75, 1.0] * 3
    assert [t.seed for t in own] == [0] * 5 + [1] * 5 + [2] * 5
    assert [t.context for t in trials[:4]] == [c.key for c in spec.context_list] * 2


def test_lists_take_turns_in_every_combination_and_ranges_stand_at_their_middle(make_spec):
    spec = make_spec(
        contexts={"fraction": 0.5},
        tune={
            "temperature": {"low": 1, "high": 16, "log": True},
            "method": ["random", "el2n"],
            "teacher": ["cnn4", "cnn8", "cnn16"],
        },
    )
    met = [other_values(spec, block) for block in range(12)]
    assert len({(v["method"], v["teacher"]) for v, _ in met}) == 6
    assert [rounds for _, rounds in met] == [0] * 6 + [1] * 6
    assert [v["temperature"] for v, _ in met] == [pytest.approx(4.0)] * 12


def test_kd_weights_are_spread_over_the_range_with_the_reference_at_0(make_spec):
    def weights(count, **tuned):
        return spread(make_spec(tune={"kd_weight": tuned}), count)

    assert weights(11, low=0, high=1) == tuple(TENTHS)
    assert weights(4, low=0.2, high=0.6) == (0, 0.2, 0.4, 0.6)
    assert weights(4, low=0.01, high=1, log=True) == (0, 0.01, pytest.approx(0.1), 1)


def test_a_context_that_lags_behind_is_served_first(make_spec):
    spec = make_spec(sampler="grid-crn", seeds={"trials": 3})
    first, second = spec.context_list
    known = {first.key: [None] * 7, second.key: [None] * 6}
    assert grid_crn(spec, known).context == second
    assert grid_crn(spec, {c.key: [None] * 12 for c in spec.context_list}) is None


# One epoch, then the best


@pytest.mark.parametrize("budget", range(5, 60))
def test_blocks_add_up_to_the_budget(budget):
    made = blocks(budget)
    assert sum(points + kept for points, kept in made) == budget
    assert all(2 <= points <= 11 and 1 <= kept <= points for points, kept in made)


def test_the_best_after_one_epoch_are_run_in_full_best_first(make_spec, play):
    spec = make_spec(sampler="one-epoch-top-k", budget={"trials_per_context": 28})
    own = of(spec, play(spec, score=best_at(0.43)))
    for block, trials in enumerate((own[:14], own[14:])):
        assert [t.values["kd_weight"] for t in trials] == [*TENTHS, 0.4, 0.5, 0.3]
        assert [t.until_epoch for t in trials] == [1] * 11 + [9] * 3
        assert {t.seed for t in trials} == {block}


def test_it_waits_for_the_looks_of_a_context_but_not_for_other_contexts(make_spec):
    spec = make_spec(sampler="one-epoch-top-k", budget={"trials_per_context": 14})
    first, second = spec.context_list
    looks = {
        context.key: [
            TrialState(n, context.key, {"kd_weight": w}, 0, False, 1, outcome=Outcome.FAILED)
            for n, w in enumerate(TENTHS)
        ]
        for context in spec.context_list
    }
    looks[first.key][4].outcome = None
    proposal = one_epoch_top_k(spec, looks)
    assert (proposal.context, proposal.until_epoch) == (second, 9), "failed looks have ended too"
    looks[second.key][4].outcome = None
    assert isinstance(one_epoch_top_k(spec, looks), Later)


def test_a_search_looks_once_and_runs_the_rest_whole(make_spec, journal, plan, rehearsal, tmp_path):
    spec = make_spec(sampler="one-epoch-top-k", budget={"trials_per_context": 14})
    ledger = plan(journal, spec)
    rehearsal(spec, ledger, tmp_path).run()
    for trials in ledger.by_context.values():
        assert [t.epoch for t in trials] == [1] * 11 + [9] * 3
        assert [t.outcome for t in trials] == [Outcome.STOPPED_EARLY] * 11 + [Outcome.COMPLETE] * 3
        # Planted at 0.3.
        assert [t.values["kd_weight"] for t in trials[11:]] == [0.3, 0.2, 0.4]
    proposed = [e.data for e in journal.events(spec.name) if e.kind is EventKind.PROPOSED]
    assert [data["until_epoch"] for data in proposed] == [1] * 22 + [9] * 6


def test_while_looks_run_tune_is_told_to_wait(make_spec, journal, plan, rehearsal, tmp_path):
    contexts = {"method": "random", "fraction": 0.5, "teacher": "cnn4"}
    spec = make_spec(
        sampler="one-epoch-top-k", contexts=contexts, budget={"trials_per_context": 14}
    )
    ledger = plan(journal, spec)
    played = rehearsal(spec, ledger, tmp_path)
    configs = [played.searcher.suggest(str(number)) for number in range(11)]
    assert [config["rungs"] for config in configs] == [(1,)] * 11
    assert played.searcher.suggest("more") is None
    for config in configs[:-1]:
        played.run_one(config)
        assert played.searcher.suggest("more") is None
    played.run_one(configs[-1])
    assert played.searcher.suggest("more")["trial"]["kd_weight"] == 0.3


# What Ray's documentation says


def test_the_stock_study_drifts_to_the_contexts_that_score_best(make_spec, play):
    spec = make_spec(
        sampler="ray-stock", budget={"trials_per_context": 20},
        contexts={"method": "random", "fraction": [0.1, 0.5, 0.9], "teacher": "cnn4"},
    )  # fmt: skip
    fractions = {c.key: c.values["fraction"] for c in spec.context_list}
    trials = play(spec, score=lambda t: fractions[t.context] - t.values["kd_weight"] ** 2 / 10)
    counts = Counter(fractions[t.context] for t in trials)
    assert counts[0.9] > 30
    assert sum(counts.values()) == 60


def test_the_stock_study_takes_what_was_stopped_early_for_complete(make_spec, tmp_path):
    spec = make_spec(sampler="ray-stock")
    designer = RayStock(spec, Studies(spec, tmp_path / "o"))
    key = spec.context_list[0].key
    outcomes = (Outcome.COMPLETE, Outcome.STOPPED_EARLY, Outcome.FAILED, None)
    trials = [
        TrialState(n, key, {"kd_weight": 0.2}, 0, False, scores={1: 0.1, 3: 0.3}, outcome=outcome)
        for n, outcome in enumerate(outcomes)
    ]
    designer.propose({key: trials})
    told = [(t.state.name, t.value) for t in designer._study.trials[:4]]
    assert told == [("COMPLETE", 0.3), ("COMPLETE", 0.3), ("FAIL", None), ("RUNNING", None)]

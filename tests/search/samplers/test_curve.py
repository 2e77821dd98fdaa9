"""The curve sampler, played without Ray."""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from analysis.surface import fit
from search.ledger import TrialState
from search.plan import trial_samples
from search.samplers import curve
from search.samplers.coding import Coding, complete
from search.samplers.curve import Curve
from trainables.record import VAL_NLL_SCALED, Outcome

FOUR = {"method": ["random", "el2n"], "fraction": [0.1, 0.8], "teacher": "cnn4"}


def planted(context, values, seed):
    """Best at 0.3 where much is kept, at 0.8 where little is; every seed has its luck."""
    fraction = context.values["fraction"]
    best = 0.3 if fraction > 0.5 else 0.8
    luck = np.random.default_rng([seed, round(100 * fraction)]).normal()
    return 0.9 - (0.3 / fraction**0.5) * (values["kd_weight"] - best) ** 2 + 0.002 * luck


def play(spec, designer=None, upto=10_000, score=planted, known=None, pending=0, nll=None):
    """Run proposals one after the other; the newest `pending` have not ended."""
    designer = designer or Curve(spec)
    known = {} if known is None else {key: list(trials) for key, trials in known.items()}
    proposals = []
    open_trials = []
    while len(proposals) < upto and (proposal := designer.propose(known)) is not None:
        number = sum(map(len, known.values()))
        designer.accepted(number)
        proposals.append(proposal)
        trial = TrialState(
            number, proposal.context.key, proposal.values, proposal.seed, proposal.start_design
        )
        known.setdefault(trial.context, []).append(trial)
        open_trials.append((trial, score(proposal.context, proposal.values, proposal.seed)))
        while len(open_trials) > pending:
            ended, value = open_trials.pop(0)
            ended.scores[9], ended.ended = value, float(ended.number)
            if nll is not None:
                ended.last = {VAL_NLL_SCALED: nll(proposal.context, ended.values, ended.seed)}
            ended.outcome = Outcome.COMPLETE if np.isfinite(value) else Outcome.FAILED
    return proposals, known


def facts(proposals):
    return [(p.context.key, dict(p.values), p.seed, p.start_design) for p in proposals]


@pytest.fixture(scope="module")
def spec(make_spec):
    return make_spec(
        sampler="curve", contexts=FOUR, seeds={"trials": 5}, budget={"trials_per_context": 9}
    )


@pytest.fixture(scope="module")
def played(spec):
    return play(spec)


def test_contexts_start_with_0_half_and_1_and_cheap_ones_under_further_seeds(spec, played):
    proposals, _ = played
    for context in spec.context_list:
        start = [
            (p.seed, p.values["kd_weight"])
            for p in proposals
            if p.context == context and p.start_design
        ]
        seeds = 1 if context.values["fraction"] > 0.5 else 2
        assert start == [(seed, weight) for seed in range(seeds) for weight in (0.0, 0.5, 1.0)]
    begun = [p.start_design for p in proposals]
    assert not any(begun[begun.index(False) :]), "the start comes before anything else"


def test_the_budget_counts_the_trials_of_all_contexts_together(spec, played):
    proposals, known = played
    assert len(proposals) == spec.trials == 36
    assert Curve(spec).propose(known) is None


def test_nothing_is_proposed_twice(played):
    proposals, _ = played
    seen = Counter((p.context.key, p.values["kd_weight"], p.seed) for p in proposals)
    assert max(seen.values()) == 1


def recommended(spec, known, context):
    """The choice whose posterior mean is highest."""
    coding = Coding(spec)
    surface = fit(coding.observed(complete([t for own in known.values() for t in own])))
    return coding.choices[int(surface.mean(coding.grid([context])).argmax())]


def test_what_is_recommended_comes_near_the_best_kd_weight(spec, played):
    _, known = played
    for context in spec.context_list:
        best = 0.3 if context.values["fraction"] > 0.5 else 0.8
        assert recommended(spec, known, context)["kd_weight"] == pytest.approx(best, abs=0.11)


def coarse(context, values, seed):
    """The planted score in steps of a point, as few validation samples give it."""
    return round(planted(context, values, seed), 2)


def likelihood(context, values, seed):
    """Finer than the coarse score, and best where it is."""
    return 3 - 3 * planted(context, values, seed)


def test_a_likelihood_that_agrees_is_learned_from(spec):
    seeing, _ = play(spec, score=coarse, nll=likelihood)
    assert facts(seeing) != facts(play(spec, score=coarse)[0])


def test_a_likelihood_that_disagrees_changes_nothing(spec):
    misled, _ = play(spec, nll=lambda context, values, seed: values["kd_weight"])
    assert facts(misled) == facts(play(spec)[0])


def test_no_context_is_left_behind(spec, played):
    proposals, _ = played
    further = Counter(p.context.key for p in proposals if not p.start_design)
    mean = sum(further.values()) / len(spec.context_list)
    assert min(further[c.key] for c in spec.context_list) >= int(mean / 4)


@pytest.mark.parametrize("cheap", range(4))
def test_what_a_trial_teaches_is_weighed_against_its_cost(spec, cheap):
    _, known = play(spec, upto=18)
    designer = Curve(spec)
    designer._costs = np.where(np.arange(4) == cheap, 1.0, 1e6)
    assert designer.propose(known).context == spec.context_list[cheap]


def test_a_trial_costs_what_it_trains_on(spec):
    designer = Curve(spec)
    assert designer._costs.tolist() == [trial_samples(spec, c) for c in spec.context_list]


@pytest.mark.parametrize("at", [4, 17, 19, 30])
def test_a_search_taken_up_again_goes_on_as_it_would_have(spec, played, at):
    proposals, _ = played
    _, known = play(spec, upto=at)
    again, _ = play(spec, designer=Curve(spec), upto=3, known=known)
    assert facts(again) == facts(proposals[at : at + 3])


def test_what_is_under_way_is_not_asked_for_again(spec):
    _, known = play(spec, upto=18)
    first = Curve(spec).propose(known)
    trial = TrialState(18, first.context.key, first.values, first.seed, start_design=False)
    known[first.context.key] = [*known[first.context.key], trial]
    second = Curve(spec).propose(known)
    assert facts([second]) != facts([first])
    near = abs(second.values["kd_weight"] - first.values["kd_weight"]) < 0.11
    assert not (near and second.seed == first.seed and second.context == first.context)


def test_free_workers_get_distinct_trials_before_anything_has_ended(make_spec):
    one = {"method": "random", "fraction": 0.5, "teacher": "cnn4"}
    spec = make_spec(sampler="curve", contexts=one, seeds={"trials": 2})
    proposals, _ = play(spec, upto=10, pending=10)
    assert len({(p.values["kd_weight"], p.seed) for p in proposals}) == 10


def test_stopped_and_failed_trials_are_not_learnt_from(spec):
    _, known = play(spec, upto=20)
    without = Curve(spec).propose(known)
    for outcome in (Outcome.FAILED, Outcome.STOPPED_EARLY):
        trials = {key: [replace(trial) for trial in own] for key, own in known.items()}
        key = spec.context_list[1].key
        spoilt = TrialState(99, key, {"kd_weight": 0.123}, 4, False, scores={2: -5.0})
        spoilt.outcome = outcome
        trials[key].append(spoilt)
        found = Curve(spec).propose(trials)
        assert (found.context, found.values) == (without.context, without.values)


@pytest.mark.parametrize(
    "score",
    [
        lambda context, values, seed: 0.5,
        lambda context, values, seed: np.nan if values["kd_weight"] > 0.4 else 0.5,
        lambda context, values, seed: np.nan,
    ],
    ids=["constant", "diverging", "nothing finite"],
)
def test_it_works_with_what_it_gets(spec, score):
    proposals, _ = play(spec, score=score)
    assert len(proposals) == spec.trials


def test_it_ends_when_nothing_new_is_left(make_spec):
    one = {"method": "random", "fraction": 0.5, "teacher": "cnn4"}
    spec = make_spec(
        sampler="curve", contexts=one, seeds={"trials": 1}, budget={"trials_per_context": 40}
    )
    proposals, _ = play(spec)
    assert len(proposals) == 21


def test_all_that_is_tuned_is_chosen_together(make_spec):
    spec = make_spec(
        sampler="curve",
        contexts={"method": "random", "fraction": [0.2, 0.8]},
        tune={
            "kd_weight": {"low": 0.2, "high": 0.9},
            "temperature": {"low": 1.0, "high": 16.0, "log": True},
            "teacher": ["cnn4", "cnn16"],
        },
        seeds={"trials": 3},
        budget={"trials_per_context": 14},
    )

    def score(context, values, seed):
        better = 0.05 if values["teacher"] == "cnn16" else 0.0
        heat = 0.02 * np.log(values["temperature"] / 4.0) ** 2
        return 0.8 + values["kd_weight"] * (better - heat)

    proposals, known = play(spec, score=score)
    assert all(0.2 <= p.values["kd_weight"] <= 0.9 for p in proposals if not p.start_design)
    for context in spec.context_list:
        best = recommended(spec, known, context)
        assert (best["kd_weight"], best["teacher"]) == (0.9, "cnn16")
        assert best["temperature"] == pytest.approx(4.0)


@pytest.fixture
def long_search(make_spec, monkeypatch):
    """A search whose batches hold several trials from the end of its start on."""
    monkeypatch.setattr(curve, "BATCH", 8)
    monkeypatch.setattr(curve, "LEFT", 2)
    return make_spec(
        sampler="curve",
        contexts=FOUR | {"teacher": ["cnn4", "cnn8"]},
        seeds={"trials": 5},
        budget={"trials_per_context": 9},
    )


def count_surfaces(monkeypatch):
    """A list that grows by one whenever a surface chooses."""
    chosen = []
    real = curve.knowledge_gradient
    monkeypatch.setattr(
        curve, "knowledge_gradient", lambda *given: chosen.append(1) or real(*given)
    )
    return chosen


def test_in_a_long_search_a_surface_chooses_several_trials(long_search, monkeypatch):
    chosen = count_surfaces(monkeypatch)
    proposals, known = play(long_search)
    assert len(proposals) == long_search.trials == 72
    after = [p for p in proposals if not p.start_design]
    assert len(chosen) < len(after) / 3
    seen = Counter((p.context.key, p.values["kd_weight"], p.seed) for p in proposals)
    assert max(seen.values()) == 1
    for context in long_search.context_list:
        best = 0.3 if context.values["fraction"] > 0.5 else 0.8
        assert recommended(long_search, known, context)["kd_weight"] == pytest.approx(
            best, abs=0.11
        )


def test_a_batch_is_one_trial_a_context_and_starts_with_the_best(long_search, monkeypatch):
    """From the first trial after the start, there are as many as the size of a batch says."""
    start, known = play(long_search, upto=sum(Curve(long_search)._start_trials.values()))
    together, _ = play(long_search, known=known, upto=len(start) // 8)
    assert len({p.context.key for p in together}) == len(together) > 2
    monkeypatch.setattr(curve, "BATCH", 10_000)
    alone, _ = play(long_search, known=known, upto=1)
    assert facts(alone) == facts(together[:1])


@pytest.mark.parametrize("at", [37, 40, 43, 51])
def test_a_long_search_taken_up_in_the_middle_of_a_batch_goes_on(long_search, at):
    proposals, _ = play(long_search)
    first, known = play(long_search, upto=at)
    rest, _ = play(long_search, known=known)
    assert facts(first + rest) == facts(proposals)


def test_after_a_batch_that_holds_less_than_its_size_trials_come_singly(long_search, monkeypatch):
    """As where of some contexts every trial was run."""
    real = Curve._best
    monkeypatch.setattr(Curve, "_best", lambda self, known: real(self, known)[:1])
    proposals, _ = play(long_search)
    assert len(proposals) == long_search.trials
    seen = Counter((p.context.key, p.values["kd_weight"], p.seed) for p in proposals)
    assert max(seen.values()) == 1


def test_of_very_many_trials_a_surface_heeds_a_part_of_those_in_question(spec, played, monkeypatch):
    _, known = played
    observed = Coding(spec).observed(complete([t for own in known.values() for t in own]))
    contexts = np.arange(2)
    assert curve._near(observed, contexts) is observed
    monkeypatch.setattr(curve, "MOST_OBSERVED", 12)
    near = curve._near(observed, contexts)
    assert np.bincount(near.at.context).tolist() == pytest.approx([6, 6], abs=1)
    assert near.at.kd_weight.min() == 0.0
    # What was chosen depends on no score, and is what these trials scored.
    other = curve._near(replace(observed, value=-observed.value), contexts)
    assert (near.value == -other.value).all()
    # Where all contexts in question have failed so far, the others say what they can.
    elsewhere = observed.take(observed.at.context > 1)
    assert len(curve._near(elsewhere, contexts)) == 12


def test_a_part_of_the_trials_leads_near_the_best_kd_weight_too(spec, monkeypatch):
    monkeypatch.setattr(curve, "MOST_OBSERVED", 20)
    _, known = play(spec)
    for context in spec.context_list:
        best = 0.3 if context.values["fraction"] > 0.5 else 0.8
        assert recommended(spec, known, context)["kd_weight"] == pytest.approx(best, abs=0.16)


def test_500_contexts(make_spec):
    many = {
        "method": ["random", "el2n", "forgetting", "grand", "aum"],
        "fraction": [round(0.05 * i, 2) for i in range(1, 21)],
        "teacher": ["cnn4", "cnn8", "cnn16", "cnn32", "cnn64"],
    }
    spec = make_spec(
        sampler="curve", contexts=many, seeds={"trials": 5}, budget={"trials_per_context": 8}
    )
    designer = Curve(spec)
    known, number = {}, 0
    for context in spec.context_list:
        for weight in (0.0, 0.5, 1.0):
            values = {"kd_weight": weight}
            trial = TrialState(number, context.key, values, 0, True, ended=float(number))
            trial.scores[9] = planted(context, values, 0)
            trial.outcome = Outcome.COMPLETE
            known.setdefault(context.key, []).append(trial)
            number += 1
    designer._start_trials = dict.fromkeys(designer._start_trials, 3)
    first = designer.propose(known)  # learns its hyperparameters
    assert first is not None
    trial = TrialState(number, first.context.key, first.values, first.seed, False, ended=number)
    trial.scores[9] = planted(first.context, first.values, first.seed)
    trial.outcome = Outcome.COMPLETE
    known[trial.context].append(trial)
    began = time.process_time()
    assert designer.propose(known) is not None
    assert time.process_time() - began < 10.0

import numpy as np
import pytest

import analysis.acquisition
import analysis.surface
from analysis.acquisition import expected_rise, knowledge_gradient
from analysis.surface import Observations, Settings, fit

WEIGHTS = np.linspace(0, 1, 21)


def places(kd_weight, context, fraction):
    return Settings(context, 0, fraction, 0, 1.0, 2.0, kd_weight)


def observed(noise=0.01, contexts=3):
    rng = np.random.default_rng(0)
    context = np.repeat(np.arange(contexts), 6)
    kd_weight, seed = np.tile([0, 0.5, 1] * 2, contexts), np.tile([0, 0, 0, 1, 1, 1], contexts)
    fraction = np.array([0.1, 0.3, 0.9] * 10)[context]
    value = 0.8 - 0.1 * (kd_weight - 0.6) ** 2 + rng.normal(0, noise, len(context))
    return Observations(places(kd_weight, context, fraction), value, seed)


@pytest.fixture(scope="module")
def surface():
    return fit(observed())


TARGETS = Settings.concatenate([places(WEIGHTS, c, f) for c, f in enumerate([0.1, 0.3, 0.9])])


def test_the_expected_rise_equals_monte_carlo():
    rng = np.random.default_rng(0)
    mean, change = rng.normal(0, 1, (30, 8)), rng.normal(0, 1, (30, 8))
    z = np.random.default_rng(1).standard_normal(200_000)
    for row in range(30):
        lines = mean[row][:, None] + np.outer(change[row], z)
        rise = lines.max(axis=0) - mean[row].max() - change[row][mean[row].argmax()] * z
        assert expected_rise(mean[[row]], change[[row]])[0] == pytest.approx(
            rise.mean(), abs=5 * rise.std() / np.sqrt(len(z))
        )


def test_the_expected_rise_of_two_lines_is_the_closed_form():
    # E[max(0, Z)] of two lines that cross at 0.
    rise = expected_rise(np.zeros((1, 2)), np.array([[0.0, 1.0]]))
    assert rise == pytest.approx(1 / np.sqrt(2 * np.pi))


@pytest.mark.parametrize(
    ("mean", "change"),
    [([1.0, 2.0], [0.3, 0.3]), ([1.0, 1.0], [0.0, 0.0]), ([5.0], [2.0]), ([0, 1e9], [1.0, 2.0])],
)
def test_nothing_is_gained_where_the_choice_cannot_change(mean, change):
    assert expected_rise(np.array([mean]), np.array([change]))[0] == pytest.approx(0.0, abs=1e-12)


def test_equal_lines_count_once():
    one = expected_rise(np.array([[0.0, 0.1]]), np.array([[0.0, 1.0]]))
    many = expected_rise(np.array([[0.0, 0.1] * 5]), np.array([[0.0, 1.0] * 5]))
    assert many == pytest.approx(one)


def test_the_knowledge_gradient_equals_refitting_on_samples(surface):
    candidate, seed = places([0.75], 1, 0.3), np.array([0])
    mean, change = surface.mean(TARGETS), surface.lookahead(candidate, seed, TARGETS)[0]
    z = np.random.default_rng(1).standard_normal(100_000)
    rise = 0.0
    for context in range(3):
        rows = TARGETS.context == context
        lines = mean[rows] + np.outer(z, change[rows])
        rise += (lines.max(axis=1) - lines[:, mean[rows].argmax()]).mean()
    value = knowledge_gradient(surface, candidate, seed, TARGETS)
    assert value[0] == pytest.approx(rise, rel=0.03)


def test_candidates_are_worth_the_same_in_blocks_of_any_size(surface, monkeypatch):
    seeds = np.arange(len(TARGETS)) % 4
    whole = knowledge_gradient(surface, TARGETS, seeds, TARGETS)
    for module in (analysis.surface, analysis.acquisition):
        monkeypatch.setattr(module, "BLOCK", 10)
    in_blocks = knowledge_gradient(surface, TARGETS, seeds, TARGETS)
    assert in_blocks == pytest.approx(whole, rel=1e-9, abs=1e-15)


def test_cost_divides_and_candidates_do_not_disturb_each_other(surface):
    candidates, seeds = places([0.2, 0.7, 0.7], [0, 1, 1], [0.1, 0.3, 0.3]), np.array([0, 1, 9])
    whole = knowledge_gradient(surface, candidates, seeds, TARGETS)
    cost = np.array([1.0, 4.0, 9.0])
    divided = knowledge_gradient(surface, candidates, seeds, TARGETS, cost)
    assert divided == pytest.approx(whole / cost)
    for i in range(3):
        alone = knowledge_gradient(surface, candidates.take([i]), seeds[[i]], TARGETS)
        assert alone[0] == pytest.approx(whole[i])


def test_the_order_of_targets_and_unequal_numbers_of_them_are_no_matter(surface):
    candidates, seeds = places([0.2, 0.7], [0, 1], [0.1, 0.3]), np.array([0, 1])
    keep = (TARGETS.context != 1) | (TARGETS.kd_weight > 0.3)
    part = np.flatnonzero(keep)
    shuffled = np.random.default_rng(0).permutation(part)
    one = knowledge_gradient(surface, candidates, seeds, TARGETS.take(part))
    other = knowledge_gradient(surface, candidates, seeds, TARGETS.take(shuffled))
    assert one == pytest.approx(other)


def test_a_trial_is_worth_less_while_the_same_is_pending(surface):
    candidate, seed = places([0.75], 1, 0.3), np.array([5])
    before = knowledge_gradient(surface, candidate, seed, TARGETS)
    waiting = surface.with_pending(candidate, np.array([4]))
    assert knowledge_gradient(waiting, candidate, seed, TARGETS) < before


def test_noisy_contexts_are_worth_more_than_settled_ones():
    """One context was run ten times as often as its sibling."""
    rng = np.random.default_rng(0)
    context = np.repeat([0, 1], [60, 6])
    kd_weight, seed = np.tile([0, 0.5, 0.75, 1, 0.25, 0.65], 11), np.repeat(np.arange(11), 6)
    value = 0.8 - 0.1 * (kd_weight - 0.6) ** 2 + rng.normal(0, 0.01, 66)
    fraction = np.where(context == 0, 0.5, 0.3)
    surface = fit(Observations(places(kd_weight, context, fraction), value, seed))
    targets = Settings.concatenate([places(WEIGHTS, c, f) for c, f in enumerate([0.5, 0.3])])
    candidates = places([0.75, 0.75], [0, 1], [0.5, 0.3])
    settled, open_ = knowledge_gradient(surface, candidates, np.array([99, 99]), targets)
    assert open_ > settled


def test_a_constant_metric_is_survived():
    constant = Observations(observed().at, np.full(18, 0.5), observed().seed)
    value = knowledge_gradient(fit(constant), places([0.3], 0, 0.1), np.array([0]), TARGETS)
    assert np.isfinite(value).all()
    assert (value >= 0).all()

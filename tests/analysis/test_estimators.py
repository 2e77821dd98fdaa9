import warnings

import numpy as np
import pytest

from analysis.estimators import ESTIMATORS, Trials, grid, quadratic

GRID = np.repeat([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 2)
SEEDS = np.tile([0, 1], 6)


def parabola(weight, best=0.6, height=0.9, curvature=0.1):
    return height - curvature * (weight - best) ** 2


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # what other tests left to be collected
        yield


def test_intervals_of_the_quadratic_cover_the_truth():
    rng = np.random.default_rng(1)
    best, gain = 0.45, 0.1 * 0.45**2
    hits = np.zeros(3)
    replications = 300
    for _ in range(replications):
        effects = rng.normal(0, 0.01, 2)
        score = parabola(GRID, best) + effects[SEEDS] + rng.normal(0, 0.004, 12)
        answer = quadratic(Trials(GRID, score, SEEDS), 0.9)
        truth = (best, gain, 0.9 + effects.mean())
        got = (answer.kd_weight, answer.gain, answer.score)
        hits += [each.low <= true <= each.high for each, true in zip(got, truth, strict=True)]
    kd_weight, gained, _ = hits / replications
    assert 0.83 <= kd_weight <= 0.96
    assert 0.83 <= gained <= 0.96


def test_an_exact_parabola_is_solved_exactly():
    answer = quadratic(Trials(GRID, parabola(GRID, 0.37), SEEDS), 0.9)
    assert answer.kd_weight == pytest.approx((0.37, 0.37, 0.37))
    assert answer.gain == pytest.approx((0.1 * 0.37**2,) * 3)
    assert answer.score.value == pytest.approx(0.9)


@pytest.mark.parametrize(("best", "end"), [(-0.5, 0.0), (1.5, 1.0)])
def test_an_optimum_outside_is_answered_by_the_end(best, end):
    answer = quadratic(Trials(GRID, parabola(GRID, best), SEEDS), 0.9)
    assert answer.kd_weight == pytest.approx((end, end, end))


def test_no_kd_gains_exactly_nothing():
    rng = np.random.default_rng(0)
    score = parabola(GRID, -0.5) + rng.normal(0, 0.01, 12)
    assert quadratic(Trials(GRID, score, SEEDS), 0.9).gain == (0.0, 0.0, 0.0)


def test_the_answer_is_the_fitted_maximum_not_the_best_trial():
    score = parabola(GRID)
    score[GRID == 1.0] += [0.2, 0.0]
    answer = quadratic(Trials(GRID, score, SEEDS), 0.9)
    assert answer.score.value < score.max()


def test_seeds_that_shift_everything_do_not_widen_the_gain():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.001, 12)
    calm = quadratic(Trials(GRID, parabola(GRID) + noise, SEEDS), 0.9)
    shifted = quadratic(Trials(GRID, parabola(GRID) + noise + 0.3 * SEEDS, SEEDS), 0.9)
    assert shifted.gain == pytest.approx(calm.gain)
    assert shifted.kd_weight == pytest.approx(calm.kd_weight)


def test_trials_that_each_have_a_seed_of_their_own_are_fitted_without_intercepts():
    weight = np.linspace(0, 1, 6)
    answer = quadratic(Trials(weight, parabola(weight), np.arange(6)), 0.9)
    assert answer.kd_weight.value == pytest.approx(0.6)


def test_the_order_of_trials_does_not_matter():
    rng = np.random.default_rng(0)
    score = parabola(GRID) + rng.normal(0, 0.003, 12)
    order = rng.permutation(12)
    one = quadratic(Trials(GRID, score, SEEDS), 0.9)
    other = quadratic(Trials(GRID[order], score[order], SEEDS[order]), 0.9)
    assert one.kd_weight == pytest.approx(other.kd_weight)


def test_tuned_temperature_and_teacher_are_recommended_together():
    rng = np.random.default_rng(0)
    n = 60
    weight, temperature = rng.random(n), np.exp(rng.uniform(0, np.log(10), n))
    teacher = rng.choice(["large", "small"], n)
    log = np.log(temperature / 3)
    score = 0.8 + weight * (0.12 - 0.05 * log**2 - 0.03 * (teacher == "large")) - 0.1 * weight**2
    others = {"temperature": temperature, "teacher": teacher}
    answer = quadratic(Trials(weight, score, np.arange(n) % 3, others), 0.9)
    assert answer.kd_weight.value == pytest.approx(0.6, abs=0.01)
    assert answer.others["teacher"] == "small"
    assert answer.others["temperature"] == pytest.approx(3, rel=0.1)


def test_at_kd_weight_0_no_teacher_is_recommended():
    teacher = np.tile(["a", "b"], 6)
    score = parabola(GRID, -0.5) - 0.01 * GRID * (teacher == "b")
    answer = quadratic(Trials(GRID, score, np.zeros(12, dtype=int), {"teacher": teacher}), 0.9)
    assert answer.kd_weight.value == 0.0
    assert answer.others == {}


@pytest.mark.parametrize("seed", range(20))
def test_a_setting_that_few_trials_hint_at_is_not_extrapolated(seed):
    # Nine start trials share one setting; five adaptive ones are all there is of the others.
    rng = np.random.default_rng(seed)
    weight = np.append(np.tile([0.0, 0.5, 1.0], 3), rng.random(5))
    seeds = np.append(np.repeat([0, 1, 2], 3), rng.integers(0, 3, 5))
    others = {
        "method": np.array(["el2n"] * 9 + rng.choice(["el2n", "random"], 5).tolist()),
        "teacher": np.array(["small"] * 9 + rng.choice(["small", "large"], 5).tolist()),
        "temperature": np.append(np.full(9, 4.0), np.exp(rng.uniform(0, np.log(10), 5))),
    }
    score = parabola(weight, height=0.6) + rng.normal(0, 0.01, 14)
    answer = quadratic(Trials(weight, score, seeds, others), 0.9)
    if answer.reason is None:
        assert 0.4 < answer.score.value < 0.8
        assert abs(answer.gain.value) < 0.2


def test_trials_that_determine_no_setting_give_no_answer():
    # The best of [0.8, 1] is far from all trials.
    weight = np.tile([0.0, 0.05, 0.1], 3)
    score = weight + np.tile([0.0, 0.001, 0.0], 3)
    answer = quadratic(Trials(weight, score, np.arange(9), kd_weight_range=(0.8, 1.0)), 0.9)
    assert answer.reason == "the complete trials do not determine any setting well enough"
    assert np.isnan(answer.kd_weight).all()


@pytest.mark.parametrize(("best", "end"), [(0.6, 0.4), (0.1, 0.2), (0.3, 0.3)])
def test_the_answer_stays_inside_the_range(best, end):
    answer = quadratic(Trials(GRID, parabola(GRID, best), SEEDS, kd_weight_range=(0.2, 0.4)), 0.9)
    assert answer.kd_weight == pytest.approx((end, end, end))
    assert answer.gain.value == pytest.approx(0.1 * (best**2 - (end - best) ** 2))
    mean, _, _ = answer.line(np.array([0.0, 1.0]))
    assert mean == pytest.approx(parabola(np.array([0.0, 1.0]), best))


def test_intervals_stay_inside_the_range_too():
    rng = np.random.default_rng(0)
    score = parabola(GRID, 0.3) + rng.normal(0, 0.02, 12)
    for name, estimator in ESTIMATORS.items():
        trials = Trials(GRID, score, SEEDS, kd_weight_range=(0.2, 0.4))
        (kd_weight,) = (answer.kd_weight for answer in estimator([trials], 0.9))
        assert 0.2 <= kd_weight.low <= kd_weight.high <= 0.4, name


@pytest.mark.parametrize(
    ("weights", "scores", "says"),
    [
        ([0, 1, 0, 1, 0, 1], [1, 2, 1, 2, 1, 2], "needs 3 KD weights with complete trials, has 2"),
        ([0, 0.5, 1], [1, 2, 1], "needs 5 complete trials, has 3"),
        ([0, 0.5, 1, 0, 0.5, 1], [0.7] * 6, "scored the same"),
    ],
)
def test_no_answer_is_invented_and_the_reason_is_said(weights, scores, says):
    weights, scores = np.array(weights, float), np.array(scores, float)
    answer = quadratic(Trials(weights, scores, np.zeros(len(weights), dtype=int)), 0.9)
    assert says in answer.reason
    assert np.isnan(answer.kd_weight).all()
    assert np.isnan(answer.gain).all()


def test_the_grid_recommends_a_setting_that_was_run_with_paired_gain():
    score = parabola(GRID) + 0.3 * SEEDS
    answer = grid(Trials(GRID, score, SEEDS), 0.9)
    assert answer.kd_weight.value == 0.6
    assert answer.gain == pytest.approx((0.036, 0.036, 0.036))
    assert answer.score_without_kd == pytest.approx(score[:2].mean())


def test_the_grid_recommends_inside_the_range_and_gains_over_no_kd():
    answer = grid(Trials(GRID, parabola(GRID), SEEDS, kd_weight_range=(0.1, 0.5)), 0.9)
    assert answer.kd_weight.value == 0.4
    assert answer.gain == pytest.approx((0.032, 0.032, 0.032))
    answer = grid(Trials(GRID, parabola(GRID), SEEDS, kd_weight_range=(0.5, 0.55)), 0.9)
    assert answer.reason == "no KD weight in [0.5, 0.55] has two complete trials"


def test_the_grid_needs_a_repeated_setting():
    answer = grid(Trials(np.array([0.0, 0.5, 1.0]), np.arange(3.0), np.arange(3)), 0.9)
    assert answer.reason == "no KD weight has two complete trials"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_duplicates_work(name):
    weight = np.repeat([0.0, 0.5, 1.0], 4)
    score = parabola(weight) + np.tile([0, 0.001, 0, 0.001], 3)
    (answer,) = ESTIMATORS[name]([Trials(weight, score, np.zeros(12, dtype=int))], 0.9)
    assert answer.reason is None

import numpy as np
import pytest

from analysis.estimators import ESTIMATORS, Trials
from analysis.optimum import FREEDOM, KD_WEIGHT_SCALE, TOLERANCE, find_optimum, find_worth
from analysis.surface import Observations, Settings, fit

GRID = np.repeat([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 2)
SEEDS = np.tile([0, 1], 6)


def places(kd_weight, **columns):
    settings = {"context": 0, "method": 0, "fraction": 0.5, "teacher": 0, "teacher_fraction": 1.0}
    return Settings(kd_weight=kd_weight, **{**settings, "temperature": 2.0, **columns})


OPTION = places([0.0])


def parabola(weight, best=0.6, height=0.9, curvature=0.1):
    return height - curvature * (weight - best) ** 2


def fitted(value, kd_weight=GRID, seeds=SEEDS):
    return fit(Observations(places(kd_weight), value, seeds))


def found(value, kd_weight=GRID, seeds=SEEDS, **options):
    return find_optimum(fitted(value, kd_weight, seeds), OPTION, **options)


CALM = parabola(GRID) + np.random.default_rng(0).normal(0, 0.002, 12)


@pytest.fixture(scope="module")
def optimum():
    return found(CALM)


@pytest.fixture(scope="module")
def worth(optimum):
    return find_worth(fitted(CALM), optimum.at)


def test_a_planted_optimum_is_found_with_its_gains(optimum, worth):
    assert optimum.kd_weight.value == pytest.approx(0.6, abs=0.05)
    assert worth.score.value == pytest.approx(0.9, abs=0.004)
    assert worth.gain.value == pytest.approx(0.036, abs=0.004)
    assert worth.gain_over_1.value == pytest.approx(0.016, abs=0.004)
    assert worth.score.value - worth.score_without_kd == pytest.approx(worth.gain.value)


def test_intervals_hold_the_truth_and_their_point(optimum, worth):
    for estimate, truth in (
        (optimum.kd_weight, 0.6),
        (worth.gain, 0.036),
        (worth.gain_over_1, 0.016),
    ):
        assert estimate.low <= truth <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high


def test_the_flat_part_is_where_the_score_lacks_less_than_the_tolerance(optimum):
    half = np.sqrt(TOLERANCE / 0.1)
    assert optimum.flat == pytest.approx((0.6 - half, 0.6 + half), abs=0.06)
    assert optimum.flat[0] < optimum.kd_weight.value < optimum.flat[1]


def test_a_higher_level_and_more_noise_widen_the_intervals(optimum, worth):
    sure = found(CALM, level=0.99)
    assert sure.kd_weight.high - sure.kd_weight.low > optimum.kd_weight.high - optimum.kd_weight.low
    surer = find_worth(fitted(CALM), optimum.at, level=0.99)
    assert surer.gain.low < worth.gain.low
    noise = parabola(GRID) + np.random.default_rng(0).normal(0, 0.02, 12)
    noisy = found(noise)
    gain = find_worth(fitted(noise), noisy.at).gain
    assert gain.high - gain.low > 2 * (worth.gain.high - worth.gain.low)
    assert noisy.loss.mean() > 2 * optimum.loss.mean() > 0


def test_the_expected_loss_is_that_of_draws_of_the_truth():
    """Over worlds drawn from the posterior of a flat curve it is what a wrong choice costs."""
    surface = fit(Observations(places([0.0, 0.5, 1.0]), [0.5, 0.51, 0.5], [0, 0, 0]))
    optimum = find_optimum(surface, OPTION)
    weights = np.linspace(0, 1, 41)
    where = np.append(optimum.kd_weight.value, weights)
    mean, covariance = surface.posterior(places(where))
    rng = np.random.default_rng(5)
    worlds = rng.multivariate_normal(np.zeros(len(where)), covariance, 4000, method="eigh")
    wider = KD_WEIGHT_SCALE * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, 4000))
    worlds = mean + worlds * wider[:, None]
    loss = np.maximum(worlds[:, 1:].max(axis=1) - worlds[:, 0], 0)
    assert optimum.loss.mean() == pytest.approx(loss.mean(), rel=0.1)


@pytest.mark.parametrize(("best", "end"), [(-0.5, 0.0), (1.5, 1.0)])
def test_an_optimum_outside_is_answered_by_the_end(best, end):
    score = parabola(GRID, best) + np.random.default_rng(0).normal(0, 0.001, 12)
    optimum = found(score)
    assert optimum.kd_weight == pytest.approx((end, end, end), abs=0.02)
    worth = find_worth(fitted(score), optimum.at)
    gain = worth.gain if end == 0.0 else worth.gain_over_1
    assert gain == pytest.approx((0.0, 0.0, 0.0), abs=1e-4)


@pytest.mark.parametrize(("best", "end"), [(0.6, 0.4), (0.1, 0.2)])
def test_the_answer_and_its_interval_stay_inside_the_range(best, end):
    score = parabola(GRID, best) + np.random.default_rng(0).normal(0, 0.002, 12)
    optimum = found(score, kd_weight_range=(0.2, 0.4))
    assert optimum.kd_weight.value == pytest.approx(end, abs=0.01)
    assert 0.2 <= optimum.kd_weight.low <= optimum.kd_weight.high <= 0.4
    assert 0.2 <= optimum.flat[0] <= optimum.flat[1] <= 0.4


def test_temperature_and_teacher_are_recommended_together():
    rng = np.random.default_rng(0)
    n = 60
    weight, temperature = rng.random(n), np.exp(rng.uniform(0, np.log(10), n))
    teacher = rng.integers(0, 2, n)
    log = np.log(temperature / 3)
    score = 0.8 + weight * (0.12 - 0.05 * log**2 - 0.03 * teacher) - 0.1 * weight**2
    score += rng.normal(0, 0.001, n)
    at = places(weight, temperature=temperature, teacher=teacher)
    tried = np.geomspace(1, 10, 9)
    options = places(0.0, temperature=np.tile(tried, 2), teacher=np.repeat([0, 1], 9))
    optimum = find_optimum(fit(Observations(at, score, np.arange(n) % 3)), options)
    assert optimum.kd_weight.value == pytest.approx(0.6, abs=0.1)
    assert optimum.at.teacher[0] == 0
    assert optimum.at.temperature[0] == pytest.approx(3, rel=0.35)
    assert options.take([optimum.option]).temperature[0] == optimum.at.temperature[0]


def test_a_constant_metric_and_one_trial_are_survived():
    for value, weight in ((np.full(12, 0.5), GRID), (np.array([0.5]), np.array([0.3]))):
        optimum = found(value, weight, np.zeros(len(value), int))
        assert np.isfinite(optimum.kd_weight).all()
        assert np.isfinite(optimum.loss).all()


def contexts(rng, bests=(0.3, 0.5, 0.7), noise=0.002):
    made = []
    for fraction, best in zip((0.9, 0.5, 0.2), bests, strict=True):
        effects = rng.normal(0, noise, 2)
        score = parabola(GRID, best) + effects[SEEDS] + rng.normal(0, noise, 12)
        made.append(Trials(GRID, score, SEEDS, fixed={"fraction": fraction, "method": "random"}))
    return made


def surface(trials, level=0.9):
    return ESTIMATORS["surface"](trials, level)


def test_every_context_gets_its_own_answer_in_any_order():
    made = contexts(np.random.default_rng(0))
    answers = surface(made)
    assert [a.kd_weight.value for a in answers] == pytest.approx([0.3, 0.5, 0.7], abs=0.08)
    backwards = surface(made[::-1])[::-1]
    for one, other in zip(answers, backwards, strict=True):
        assert one.kd_weight == pytest.approx(other.kd_weight, abs=0.02)
        assert one.gain == pytest.approx(other.gain, abs=1e-3)


def test_siblings_narrow_an_interval():
    made = contexts(np.random.default_rng(1), bests=(0.5, 0.5, 0.5), noise=0.004)
    few = np.isin(GRID, [0.0, 0.4, 1.0])
    short = Trials(GRID[few], made[1].score[few], SEEDS[few], fixed=made[1].fixed)
    (alone,) = surface([short])
    together = surface([made[0], short, made[2]])[1]
    width = alone.kd_weight.high - alone.kd_weight.low
    assert together.kd_weight.high - together.kd_weight.low < width


def test_a_context_that_cannot_be_answered_says_so_and_informs_the_others():
    made = contexts(np.random.default_rng(0))
    nothing = Trials(np.empty(0), np.empty(0), np.empty(0, np.int64))
    two = Trials(GRID[:4], made[2].score[:4], SEEDS[:4], fixed=made[2].fixed)
    same = Trials(GRID, np.full(12, 0.7), SEEDS, fixed={"fraction": 0.1, "method": "random"})
    answers = surface([made[0], nothing, two, same])
    assert answers[0].reason is None
    assert answers[1].reason == "no complete trial"
    assert answers[2].reason == "needs 3 KD weights with complete trials, has 2"
    assert "scored the same" in answers[3].reason
    (few,) = surface([Trials(np.array([0.0, 0.5, 1.0]), np.arange(3.0), np.zeros(3, np.int64))])
    assert few.reason == "needs 5 complete trials, has 3"
    assert np.isnan(few.kd_weight).all()


def test_the_line_passes_through_the_answer_inside_its_band():
    answer = surface(contexts(np.random.default_rng(0)))[1]
    mean, low, high = answer.line(np.array([answer.kd_weight.value, 0.0]))
    assert mean[0] == pytest.approx(answer.score.value)
    assert mean[1] == pytest.approx(answer.score_without_kd)
    assert (low < mean).all()
    assert (mean < high).all()
    assert (low[0], high[0]) == pytest.approx(answer.score[1:], rel=0.01)


def test_a_recommended_kd_weight_of_0_names_no_teacher_or_temperature():
    rng = np.random.default_rng(0)
    score = parabola(GRID, -0.5) + rng.normal(0, 0.001, 12)
    others = {"temperature": np.tile([1.0, 2.0, 4.0], 4), "teacher": np.tile(["a", "b"], 6)}
    (answer,) = surface([Trials(GRID, score, SEEDS, others)])
    assert answer.kd_weight.value == 0.0
    assert answer.others == {}


def test_many_contexts_are_answered_in_portions_as_well_as_together(monkeypatch):
    from analysis import joint

    made = contexts(np.random.default_rng(0)) * 4
    together = surface(made)
    monkeypatch.setattr(joint, "TOGETHER", 50)
    monkeypatch.setattr(joint, "PORTION", 60)
    for one, other in zip(together, surface(made), strict=True):
        assert other.kd_weight.value == pytest.approx(one.kd_weight.value, abs=0.05)


def test_likelihoods_that_agree_choose_the_kd_weight_and_scores_say_what_it_is_worth():
    rng = np.random.default_rng(0)
    made, finer = [], []
    for fraction, best in ((0.9, 0.3), (0.5, 0.5), (0.2, 0.7)):
        score = parabola(GRID, best) + rng.normal(0, 0.006, 12)
        nll = 0.4 - 5 * parabola(GRID, best) + rng.normal(0, 0.003, 12)
        fixed = {"fraction": fraction, "method": "random"}
        made.append(Trials(GRID, score, SEEDS, fixed=fixed))
        finer.append(Trials(GRID, score, SEEDS, fixed=fixed, nll=nll))
    coarse, fine = surface(made), surface(finer)
    assert {answer.signal for answer in coarse} == {
        "KD weights are learned from the score: the trials left nothing finer."
    }
    assert all("learned from the likelihood" in answer.signal for answer in fine)
    assert [a.kd_weight.value for a in fine] == pytest.approx([0.3, 0.5, 0.7], abs=0.04)
    for one, other in zip(fine, coarse, strict=True):
        assert one.score_without_kd == pytest.approx(other.score_without_kd)
        assert one.expected_loss < other.expected_loss


def test_likelihoods_with_another_optimum_are_not_heeded():
    made = contexts(np.random.default_rng(0))
    misled = [
        Trials(t.kd_weight, t.score, t.seed, fixed=t.fixed, nll=1.0 - 0.5 * t.kd_weight)
        for t in made
    ]
    answers = surface(misled)
    assert [a.kd_weight.value for a in answers] == [a.kd_weight.value for a in surface(made)]
    assert "not shown to agree" in answers[0].signal


def test_a_trial_without_likelihood_leaves_the_score_as_the_signal():
    made = contexts(np.random.default_rng(0))
    nll = 0.4 - 5 * made[0].score
    nll[3] = np.nan
    made[0] = Trials(GRID, made[0].score, SEEDS, fixed=made[0].fixed, nll=nll)
    assert "learned from the score" in surface(made)[0].signal

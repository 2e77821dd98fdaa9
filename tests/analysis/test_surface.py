import warnings

import numpy as np
import pytest

from analysis.kernel import NAMES, PRIORS, prior
from analysis.surface import (
    Hyperparameters,
    Observations,
    Settings,
    Unit,
    _arranged,
    _Problem,
    condition,
    fit,
)

FRACTIONS = np.array([0.05, 0.1, 0.3, 0.6, 0.9])


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # what other tests left to be collected
        yield


def places(kd_weight, context=0, **columns):
    settings = {"method": 0, "fraction": 0.5, "teacher": 0, "teacher_fraction": 1.0}
    settings |= {"temperature": 2.0} | columns
    return Settings(context=context, kd_weight=kd_weight, **settings)


def best(context):
    return 0.2 - 0.25 * np.log(FRACTIONS[context])


def truth(context, kd_weight):
    """Steeper and noisier at small fractions, like real curves."""
    height = 0.9 + 0.1 * np.log10(FRACTIONS[context])
    return height - 0.05 * FRACTIONS[context] ** -0.5 * (kd_weight - best(context)) ** 2


def search(rng, noise=0.002, weights=(0.0, 0.25, 0.5, 0.75, 1.0), seeds=2):
    """Every KD weight with every seed in every context."""
    context, kd_weight, seed = (
        each.ravel()
        for each in np.meshgrid(range(len(FRACTIONS)), weights, range(seeds), indexing="ij")
    )
    effects = rng.normal(0, noise, (len(FRACTIONS), seeds))
    value = truth(context, kd_weight) + effects[context, seed]
    value += rng.normal(0, noise, len(value))
    at = places(kd_weight, context, fraction=FRACTIONS[context])
    return Observations(at, value, seed)


@pytest.fixture(scope="module")
def observed():
    return search(np.random.default_rng(0))


@pytest.fixture(scope="module")
def surface(observed):
    return fit(observed)


ALPHA = np.linspace(0, 1, 101)


def test_planted_curves_are_recovered(surface):
    for context in range(len(FRACTIONS)):
        at = places(ALPHA, context, fraction=FRACTIONS[context])
        mean, covariance = surface.posterior(at)
        assert np.abs(mean - truth(context, ALPHA)).max() < 0.008
        assert ALPHA[mean.argmax()] == pytest.approx(best(context), abs=0.1)
        assert np.sqrt(covariance.diagonal()).max() < 0.008
        assert np.linalg.eigvalsh(covariance).min() > -1e-9
        assert surface.mean(at) == pytest.approx(mean)


def test_siblings_answer_for_a_fraction_with_one_trial(observed):
    few = (observed.at.context != 2) | ((observed.at.kd_weight == 0.0) & (observed.seed == 0))
    part = Observations(observed.at.take(few), observed.value[few], observed.seed[few])
    mean, covariance = fit(part).posterior(places(ALPHA, 2, fraction=FRACTIONS[2]))
    assert ALPHA[mean.argmax()] == pytest.approx(best(2), abs=0.15)
    gain = covariance[50, 50] + covariance[0, 0] - 2 * covariance[50, 0]
    known = fit(observed).posterior(places(ALPHA, 2, fraction=FRACTIONS[2]))[1]
    assert gain > 2 * (known[50, 50] + known[0, 0] - 2 * known[50, 0])


def varied(rng, n=60):
    at = Settings(
        context=rng.integers(0, 6, n),
        method=rng.integers(0, 2, n),
        fraction=rng.choice(FRACTIONS, n),
        teacher=rng.integers(0, 3, n),
        teacher_fraction=rng.choice([0.5, 1.0], n),
        temperature=np.exp(rng.uniform(0, 2, n)),
        kd_weight=rng.choice([0.0, 0.3, 0.7, 1.0], n),
    )
    return Observations(at, rng.normal(0.5, 0.1, n), rng.integers(0, 3, n), rng.random(n) * 0.01)


@pytest.mark.parametrize("draw", range(3))
def test_gradients_equal_finite_differences(draw):
    rng = np.random.default_rng(draw)
    observed, groups = _arranged(varied(rng))
    problem = _Problem(observed, groups, Unit(0.5, 0.1, 9.0))
    z = rng.normal(0, 0.3, len(problem.centers))
    vector = problem.centers + problem.spreads * z
    _, slope = problem.likelihood(problem.unpacked(vector))
    assert len(slope) == len(NAMES) + 3 * 6
    for j, step in enumerate(1e-5 * np.eye(len(z))):
        up, down = (problem.likelihood(problem.unpacked(vector + s * step))[0] for s in (1, -1))
        assert slope[j] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-4), j


def test_the_order_of_observations_does_not_matter():
    rng = np.random.default_rng(4)
    observed = varied(rng)
    order = rng.permutation(len(observed))
    other = Observations(
        observed.at.take(order),
        observed.value[order],
        observed.seed[order],
        observed.extra_noise[order],
    )
    at = observed.at.take(slice(0, 10))
    one, two = fit(observed).posterior(at), fit(other).posterior(at)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_units_do_not_matter(observed, surface):
    scaled = Observations(observed.at, 100 * observed.value - 3, observed.seed)
    at = observed.at.take(slice(0, 20))
    mean, covariance = surface.posterior(at)
    other, spread = fit(scaled).posterior(at)
    assert other == pytest.approx(100 * mean - 3, abs=1e-4)
    assert spread == pytest.approx(1e4 * covariance, rel=1e-3, abs=1e-6)


def test_teacher_and_temperature_have_no_effect_without_kd():
    surface = fit(varied(np.random.default_rng(1)))
    at = places(np.zeros(6), 3, teacher=[0, 1, 2, 0, 1, 2], temperature=[1, 2, 3, 9, 5, 1])
    mean, covariance = surface.posterior(at)
    assert np.ptp(mean) < 1e-12
    assert np.ptp(covariance) < 1e-12


def test_pending_trials_lower_the_variance_and_keep_the_mean(surface):
    at = places(ALPHA[::5], 1, fraction=FRACTIONS[1])
    mean, covariance = surface.posterior(at)
    waiting = surface.with_pending(places([0.4, 0.9], 1, fraction=FRACTIONS[1]), np.array([7, 8]))
    new_mean, new_covariance = waiting.posterior(at)
    np.testing.assert_array_equal(mean, new_mean)
    fall = covariance.diagonal() - new_covariance.diagonal()
    assert fall.min() >= -1e-12
    assert fall.max() > 0.1 * covariance.diagonal().max()
    twice = waiting.with_pending(places([0.4], 1, fraction=FRACTIONS[1]), np.array([9]))
    assert (twice.posterior(at)[1].diagonal() <= new_covariance.diagonal() + 1e-12).all()


def test_pending_equals_refitting_with_the_expected_value(observed, surface):
    """Kriging believer, at the same hyperparameters."""
    at = places(ALPHA[::10], 3, fraction=FRACTIONS[3])
    pending, seed = places([0.6], 3, fraction=FRACTIONS[3]), np.array([0])
    again = refitted(observed, surface, pending, seed, expected(observed, surface, pending, seed))
    waiting = surface.with_pending(pending, seed)
    assert again.posterior(at)[0] == pytest.approx(waiting.posterior(at)[0], abs=1e-7)
    assert again.posterior(at)[1] == pytest.approx(waiting.posterior(at)[1], abs=1e-9)


def expected(observed, surface, at, seed):
    """Mean of what a trial would return: with its seed's effect, so not `Surface.mean`."""
    from analysis.kernel import covariance

    theta, unit = surface.hyperparameters, surface.unit
    across = covariance(at, surface.at, theta, unit.level, (seed, surface.seed))
    return unit.center + unit.scale * across @ surface.weights


def refitted(observed, surface, at, seed, value):
    """The observations and more, standardised as before, at the same hyperparameters."""
    more = Observations(
        Settings.concatenate([observed.at, at]),
        np.append(observed.value, value),
        np.append(observed.seed, seed),
    )
    return condition(more, surface.hyperparameters, surface.unit)


@pytest.mark.parametrize("seed", [0, 5])
def test_lookahead_equals_refitting_on_a_sampled_value(observed, surface, seed):
    """For a seed that ran in the context and for a new one."""
    candidate, seeds = places([0.8], 1, fraction=FRACTIONS[1]), np.array([seed])
    targets = Settings.concatenate(
        [places(ALPHA[::10], c, fraction=FRACTIONS[c]) for c in range(len(FRACTIONS))]
    )
    change = surface.lookahead(candidate, seeds, targets)[0]
    surprise = 1.7
    sd = np.sqrt(surface.predicted_variance(candidate, seeds))
    value = expected(observed, surface, candidate, seeds) + surprise * sd
    moved = refitted(observed, surface, candidate, seeds, value).mean(targets)
    assert moved - surface.mean(targets) == pytest.approx(surprise * change, abs=1e-7)
    assert np.abs(change).max() > 1e-5


def test_a_shared_seed_tells_more_of_differences_than_of_levels():
    """With strong seed effects a known seed is the better one for a gain."""
    rng = np.random.default_rng(2)
    context, seed = np.repeat(0, 12), np.tile([0, 1, 2], 4)
    kd_weight = np.repeat([0.0, 0.3, 0.7, 1.0], 3)
    value = 0.2 * kd_weight * (1 - kd_weight) + np.array([0.03, 0.0, -0.03])[seed]
    surface = fit(Observations(places(kd_weight, context), value + rng.normal(0, 0.002, 12), seed))
    mean, covariance = surface.posterior(places([0.0, 0.5]))
    assert mean[1] - mean[0] == pytest.approx(0.05, abs=0.01)
    gain = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert gain < 0.5 * covariance[0, 0]
    known = np.diff(surface.lookahead(places([0.5]), np.array([0]), places([0.0, 0.5])))
    fresh = np.diff(surface.lookahead(places([0.5]), np.array([9]), places([0.0, 0.5])))
    assert abs(known[0, 0]) > abs(fresh[0, 0])


def test_the_variance_of_a_trial_is_that_of_the_covariance():
    observed = varied(np.random.default_rng(2))
    from analysis.kernel import covariance, noise_variance, variance

    theta, at, seed = fit(observed).hyperparameters, observed.at, observed.seed
    diagonal = covariance(at, at, theta, 4.0).diagonal()
    assert variance(at, theta, 4.0, returned=False) == pytest.approx(diagonal)
    diagonal = covariance(at, at, theta, 4.0, (seed, seed)).diagonal() + noise_variance(at, theta)
    assert variance(at, theta, 4.0, returned=True) == pytest.approx(diagonal)


def test_distinct_places_are_found():
    at = places([0.1, 0.5, 0.1, 0.1], [0, 0, 0, 1])
    few, which = at.distinct()
    assert len(few) == 3
    assert few.take(which).kd_weight.tolist() == at.kd_weight.tolist()
    assert few.take(which).context.tolist() == at.context.tolist()


def test_extra_noise_lowers_the_weight_of_an_observation(observed):
    at = places([0.5], 0, fraction=FRACTIONS[0])
    more = Settings.concatenate([observed.at, at])
    value, seed = np.append(observed.value, truth(0, 0.5) + 0.1), np.append(observed.seed, 9)

    def mean(extra):
        noise = np.append(np.zeros(len(observed)), extra)
        return fit(Observations(more, value, seed, noise), prior(), steps=0).mean(at)[0]

    assert mean(0.0) > mean(0.01) > mean(100.0)
    without = fit(observed, prior(), steps=0).mean(at)[0]
    assert mean(1e6) == pytest.approx(without, abs=2e-3)


def test_a_fit_continues_from_an_earlier_one(observed, surface):
    again = fit(observed, surface.hyperparameters, steps=3)
    at = observed.at.take(slice(0, 20))
    assert again.mean(at) == pytest.approx(surface.mean(at), abs=1e-3)


def test_a_context_never_seen_gets_no_factor_of_its_own():
    own = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    theta = Hyperparameters(prior().values, np.array([2, 5]), own)
    found = theta.factors_of(np.array([5, 0, 2, 9]))
    assert found.tolist() == [[0.2, 0.0, 0.1, 0.0], [0.4, 0.0, 0.3, 0.0], [0.6, 0.0, 0.5, 0.0]]
    assert set(theta.values) == set(PRIORS)


@pytest.mark.parametrize(
    "observations",
    [
        Observations(places([0.3]), np.array([0.7]), np.array([0])),
        Observations(places([0.3] * 5), np.array([0.7] * 5), np.zeros(5, int)),
        Observations(places([0.0, 0.5, 1.0] * 3), np.full(9, 93.0), np.arange(9) // 3),
        Observations(places([0.5] * 6), np.array([1, 2, 1, 2, 1, 2.0]), np.zeros(6, int)),
        Observations(places(np.zeros(40), np.arange(40)), np.arange(40.0), np.arange(40)),
        Observations(places(ALPHA), 1e9 * ALPHA, np.arange(101)),
        Observations(places(ALPHA), 1e-9 * ALPHA + 1e3, np.zeros(101, int)),
    ],
    ids=["one", "same", "constant", "twice", "one-each", "huge", "tiny"],
)
def test_odd_observations_are_survived(observations):
    mean, covariance = fit(observations).posterior(places(ALPHA[::10]))
    assert np.isfinite(mean).all()
    assert np.isfinite(covariance).all()
    assert (covariance.diagonal() >= -1e-9 * max(1.0, np.abs(covariance).max())).all()


def test_many_contexts_are_fitted_in_groups():
    rng = np.random.default_rng(0)
    context = np.repeat(np.arange(250), 4)
    kd_weight = np.tile([0.0, 0.3, 0.6, 1.0], 250)
    fraction = FRACTIONS[context % 5]
    value = truth(context % 5, kd_weight) + rng.normal(0, 0.002, 1000)
    at = places(kd_weight, context, fraction=fraction, method=context // 125)
    surface = fit(Observations(at, value, np.zeros(1000, int)), steps=5)
    assert np.abs(surface.mean(at) - truth(context % 5, kd_weight)).max() < 0.02


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: places([np.nan]), "kd_weight: a value is not finite"),
        (lambda: places([1.5]), "kd_weight: outside"),
        (lambda: places([0.5], fraction=0.0), "fraction: outside"),
        (lambda: places([0.5], temperature=-1.0), "temperature: outside"),
        (lambda: places([0.5, 0.6, 0.7], [0, 1]), "context: 2 values"),
        (lambda: Observations(places([0.5]), [np.nan], [0]), "value: a value is not finite"),
        (lambda: Observations(places([0.5]), [1.0, 2.0], [0]), "value: 2 values at 1 places"),
        (lambda: Observations(places([0.5]), [1.0], [0], [-1.0]), "extra_noise"),
        (lambda: fit(Observations(places([]), [], [])), "at least one observation"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(make, says):
    with pytest.raises(ValueError, match=says):
        make()

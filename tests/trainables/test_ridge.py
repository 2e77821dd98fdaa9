import time

import numpy as np
import pytest

from trainables import ridge
from trainables.config import Recipe, RidgeDataset, TrialConfig

CONFIG = RidgeDataset(name="ridge")
SMALL = RidgeDataset(name="ridge", samples=30, dimension=5)


def _trial(dataset=CONFIG, **changes):
    values = {
        "student": "linear",
        "teacher": "linear",
        "method": "random",
        "recipe": Recipe(epochs=9),
        "fraction": 0.3,
        "kd_weight": 0.4,
        "seed": 3,
    }
    return TrialConfig(dataset=dataset, **values | changes)


def test_signal_has_unit_variance():
    problem = ridge.load(CONFIG)
    w = problem.coefficients
    assert w @ (problem.spectrum * w) == pytest.approx(1.0)
    assert problem.features.shape == (CONFIG.samples, CONFIG.dimension)


@pytest.mark.parametrize("kd_weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("teacher_fraction", [0.5, 1.0])
def test_last_epoch_is_the_realised_error_exactly(kd_weight, teacher_fraction):
    training = ridge.RidgeTraining(_trial(kd_weight=kd_weight, teacher_fraction=teacher_fraction))
    while training.epoch < training.epochs:
        metrics = training.step()
    error = ridge.realised_error(CONFIG, 0.3, teacher_fraction, kd_weight, seed=3)
    assert metrics["val_r2"] == pytest.approx(1 - float(error), abs=1e-10)
    with pytest.raises(RuntimeError, match="done"):
        training.step()


def test_student_minimises_the_mixed_ridge_objective():
    """The student solves its own normal equations with labels (1-α) y + α X ŵ_T."""
    config, seed, alpha = SMALL, 4, 0.3
    problem = ridge.load(config)
    training = ridge.RidgeTraining(_trial(config, fraction=1.0, kd_weight=alpha, seed=seed))
    x, eye = problem.features, config.ridge * np.eye(5)
    noise = ridge._label_noise(config, seed)
    y = x @ problem.coefficients + noise
    teacher = np.linalg.inv(x.T @ x / 30 + eye) @ x.T @ y / 30
    mixed = (1 - alpha) * y + alpha * x @ teacher
    gradient = x.T @ (x @ training.solution - mixed) / 30 + config.ridge * training.solution
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_error_is_the_populations():
    """1 - R² on many fresh noiseless samples approaches the exact value."""
    problem = ridge.load(SMALL)
    training = ridge.RidgeTraining(_trial(SMALL))
    fresh = np.random.default_rng(0).standard_normal((200_000, 5)) * np.sqrt(problem.spectrum)
    signal = fresh @ problem.coefficients
    miss = fresh @ training.solution - signal
    error = ridge.realised_error(SMALL, 0.3, 1.0, 0.4, seed=3)
    assert (miss @ miss) / (signal @ signal) == pytest.approx(float(error), rel=0.02)


@pytest.mark.parametrize("teacher_ridge", [None, 0.5])
@pytest.mark.parametrize(("fraction", "teacher_fraction"), [(0.3, 1.0), (0.6, 0.5)])
def test_expected_error_agrees_with_monte_carlo(
    monkeypatch, fraction, teacher_fraction, teacher_ridge
):
    alphas = np.array([0.0, 0.5, 1.0])
    problem = SMALL.model_copy(update={"teacher_ridge": teacher_ridge})
    expected = ridge.expected_error(problem, fraction, teacher_fraction, alphas, seed=7)
    rng = np.random.default_rng(1)
    monkeypatch.setattr(
        ridge, "_label_noise", lambda config, seed: config.noise * rng.standard_normal(30)
    )
    draws = np.array(
        [
            ridge.realised_error(problem, fraction, teacher_fraction, alphas, seed=7)
            for _ in range(4000)
        ]
    )
    standard_error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - expected.total) < 4 * standard_error).all()


def test_without_label_noise_nothing_varies():
    quiet = SMALL.model_copy(update={"noise": 0.0})
    expected = ridge.expected_error(quiet, 0.5, 1.0, [0.2, 0.8], seed=1)
    assert not expected.variance.any()
    realised = ridge.realised_error(quiet, 0.5, 1.0, [0.2, 0.8], seed=1)
    np.testing.assert_allclose(expected.bias, realised, rtol=1e-10)


def test_exact_kd_weight_minimises_the_mean_error_on_a_grid():
    seeds = range(20)
    grid = np.linspace(0, 1, 1001)
    for fraction in (0.1, 0.5, 0.9):
        mean = np.mean([ridge.realised_error(CONFIG, fraction, 1.0, grid, s) for s in seeds], 0)
        exact = ridge.exact_kd_weight(CONFIG, fraction, 1.0, seeds)
        assert exact == pytest.approx(grid[mean.argmin()], abs=0.001)


def test_best_kd_weight_of_the_default_problem_falls_with_the_fraction():
    best = [ridge.exact_kd_weight(CONFIG, f, 1.0, range(40)) for f in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert best == sorted(best, reverse=True)
    assert 0.85 < best[0] < 0.99
    assert 0.05 < best[-1] < 0.35


def test_kd_weights_of_a_seed_share_noise_and_subsets():
    """Common random numbers make a seed's error exactly quadratic in the KD weight."""
    alphas = np.linspace(0, 1, 7)
    errors = [1 - _last(_trial(kd_weight=alpha))["val_r2"] for alpha in alphas]
    fit = np.polynomial.Polynomial.fit(alphas, errors, 2)
    np.testing.assert_allclose(fit(alphas), errors, atol=1e-10)


def _last(config):
    training = ridge.RidgeTraining(config)
    while training.epoch < training.epochs:
        metrics = training.step()
    return metrics


def test_resumed_training_continues_exactly():
    one, two = (ridge.RidgeTraining(_trial()) for _ in range(2))
    for _ in range(3):
        one.step()
    two.load_state_dict(one.state_dict())
    assert two.epoch == 3
    assert one.step()["val_r2"] == two.step()["val_r2"]


@pytest.mark.parametrize("key", ["student", "teacher", "method"])
def test_unknown_names_are_refused_with_the_known_one(key):
    with pytest.raises(ValueError, match=f"{key}: 'el2n'.*(linear|random)"):
        ridge.RidgeTraining(_trial(**{key: "el2n"}))


def test_a_trial_takes_about_a_millisecond():
    ridge.RidgeTraining(_trial())
    start = time.perf_counter()
    for seed in range(50):
        _last(_trial(seed=seed))
    assert (time.perf_counter() - start) / 50 < 0.02  # a loaded machine is forgiven a lot


def test_the_mean_error_is_that_of_its_seeds_at_any_kd_weight():
    weights = [0.0, 0.3, 0.8, 1.0]
    each = [ridge.expected_error(SMALL, 0.4, 0.9, weights, seed).total for seed in range(3)]
    found = ridge.mean_error(SMALL, 0.4, 0.9, weights, range(3))
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-12)

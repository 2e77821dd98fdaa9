from pathlib import Path

import pytest
import torch

from trainables import engine, problem, sizes
from trainables.config import (
    ImageDataset,
    Recipe,
    RidgeDataset,
    TrialConfig,
    artifacts,
)

RECIPE = Recipe(epochs=2, batch_size=64, lr=0.05)


def _trial(**changes):
    values = {
        "dataset": ImageDataset(name="digits", label_noise=0.2),
        "student": "cnn4",
        "teacher": "cnn8",
        "method": "random",
        "recipe": RECIPE,
        "fraction": 0.1,
        "kd_weight": 0.5,
        "seed": 1,
        "score_seeds": 1,
    }
    return TrialConfig(**values | changes)


def _initial(training):
    return torch.cat([p.detach().flatten() for p in training.model.parameters()]).cpu()


@pytest.mark.parametrize("method", ["random", "el2n", "forgetting"])
def test_a_trial_of_every_method_runs_on_prepared_artifacts(tmp_path, method):
    config = _trial(method=method)
    for artifact in artifacts(config):
        problem.prepare(artifact, tmp_path)
    prepared = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(prepared) == (1 if method == "random" else 2)
    training = problem.open_training(config, tmp_path)
    assert training.objective == "val_accuracy"
    assert training.epochs == sizes.total_epochs(config) == 2
    assert len(training.train_samples.labels) == sizes.kept_samples(config) == 129
    engine.train(training)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == prepared


def test_seed_draws_subset_and_weights_and_the_kd_weight_does_not(tmp_path):
    one, two, other = (
        problem.open_training(_trial(kd_weight=kd_weight, seed=seed), tmp_path)
        for kd_weight, seed in ((0.2, 1), (0.9, 1), (0.2, 2))
    )
    assert torch.equal(one.train_samples.images, two.train_samples.images)
    assert torch.equal(_initial(one), _initial(two))
    assert not torch.equal(one.train_samples.images, other.train_samples.images)
    assert not torch.equal(_initial(one), _initial(other))


def test_scored_subset_is_the_same_for_all_seeds(tmp_path):
    one, two = (problem.open_training(_trial(method="el2n", seed=s), tmp_path) for s in (1, 2))
    assert torch.equal(one.train_samples.images, two.train_samples.images)


def test_plain_training_needs_no_teacher(tmp_path):
    problem.open_training(_trial(kd_weight=0.0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"'best'.*random, el2n, forgetting"):
        problem.open_training(_trial(method="best"), tmp_path)
    with pytest.raises(ValueError, match=r"'vgg'.*cnn4"):
        problem.open_training(_trial(student="vgg"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ridge_trials_open_through_the_same_door():
    config = _trial(dataset=RidgeDataset(name="ridge"), student="linear", teacher="linear")
    training = problem.open_training(config, Path("unused"))
    assert training.objective == "val_r2"
    assert training.epochs == sizes.total_epochs(config) == 2
    assert 0 < engine.train(training)["val_r2"] < 1

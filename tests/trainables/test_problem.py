import shutil
from pathlib import Path

import pytest
import torch

from trainables import problem, sizes, teachers
from trainables.config import (
    ImageDataset,
    Recipe,
    RidgeDataset,
    ScoresSpec,
    SoftLabelsSpec,
    TeacherFile,
    TrialConfig,
    artifacts,
    teacher_spec,
)
from trainables.training import train

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


def _images(training):
    images = training.cohort.train_images
    return images.render(torch.arange(len(images), device=training.device)).cpu()


@pytest.mark.parametrize("method", ["random", "el2n", "forgetting"])
def test_a_trial_of_every_kind_of_method_runs_on_prepared_artifacts(tmp_path, method):
    config = _trial(method=method)
    needed = artifacts(config)
    for artifact in needed:
        problem.prepare(artifact, tmp_path)
    assert any(isinstance(each, ScoresSpec) for each in needed) == (method != "random")
    prepared = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    training = problem.open_training(config, tmp_path)
    assert training.objective == "val_accuracy"
    assert training.epochs == sizes.total_epochs(config) == 2
    assert len(training.cohort.train_labels) == sizes.kept_samples(config) == 129
    train(training)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == prepared


def test_prepared_artifacts_say_what_they_are(tmp_path):
    config = _trial(method="el2n")
    for artifact in artifacts(config):
        first = problem.prepare(artifact, tmp_path)
        assert problem.prepare(artifact, tmp_path) == first
        expected = {
            SoftLabelsSpec: {"views": "1"},
            ScoresSpec: {"samples": "1293"},
        }.get(type(artifact), {})
        assert first.items() >= expected.items()


def test_seed_draws_subset_and_weights_and_the_kd_weight_does_not(tmp_path):
    one, two, other = (
        problem.open_training(_trial(kd_weight=kd_weight, seed=seed), tmp_path)
        for kd_weight, seed in ((0.2, 1), (0.9, 1), (0.2, 2))
    )
    assert torch.equal(_images(one), _images(two))
    assert torch.equal(_initial(one), _initial(two))
    assert not torch.equal(_images(one), _images(other))
    assert not torch.equal(_initial(one), _initial(other))


def test_scored_subset_is_the_same_for_all_seeds(tmp_path):
    one, two = (problem.open_training(_trial(method="el2n", seed=s), tmp_path) for s in (1, 2))
    assert torch.equal(_images(one), _images(two))


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_where_the_soft_labels_come_from_is_a_matter_of_cost_or_of_recipe(tmp_path, augmentation):
    """A table of all views is the teacher itself; one of the clean images is another recipe."""
    logits = {}
    dataset = ImageDataset(name="digits", augmentation=augmentation)
    for source in ("views", "online", "fixed"):
        training = problem.open_training(
            _trial(dataset=dataset, soft_labels=source, kd_weight=1.0), tmp_path
        )
        train(training)
        logits[source] = training.val_logits
    scale = logits["online"].abs().max()
    assert torch.allclose(logits["views"], logits["online"], atol=2 * float(scale) * 2**-11)
    same = torch.allclose(logits["fixed"], logits["online"], atol=20 * float(scale) * 2**-11)
    assert same == (augmentation == "none")


def test_online_teachers_need_no_table(tmp_path):
    config = _trial(soft_labels="online")
    for artifact in artifacts(config):
        problem.prepare(artifact, tmp_path)
    problem.open_training(config, tmp_path)
    assert not list(tmp_path.glob("logits-*"))


def test_a_brought_teacher_teaches_like_the_one_it_was_copied_from(tmp_path):
    made = _trial(kd_weight=1.0)
    expected = train(problem.open_training(made, tmp_path))
    shutil.copy(tmp_path / f"{teacher_spec(made).key}.safetensors", tmp_path / "mine.safetensors")
    brought = _trial(
        kd_weight=1.0,
        teacher_file=TeacherFile(file=str(tmp_path / "mine.safetensors")),
    )
    found = train(problem.open_training(brought, tmp_path))
    assert found["val_loss"] == expected["val_loss"]


def test_plain_training_needs_no_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "make_teacher", None)
    train(problem.open_training(_trial(kd_weight=0.0), tmp_path))
    assert not list(tmp_path.glob("teacher-*")) + list(tmp_path.glob("logits-*"))


def test_unknown_students_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"'vgg'.*cnn4"):
        problem.open_training(_trial(student="vgg"), tmp_path)
    assert not list(tmp_path.glob("teacher-*")) + list(tmp_path.glob("scores-*"))


def test_unknown_methods_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"best.*el2n"):
        problem.open_training(_trial(method="best"), tmp_path)
    assert not list(tmp_path.glob("scores-*"))


def test_ridge_trials_open_through_the_same_door():
    config = _trial(dataset=RidgeDataset(name="ridge"), student="linear", teacher="linear")
    training = problem.open_training(config, Path("unused"))
    assert training.objective == "val_r2"
    assert training.epochs == sizes.total_epochs(config) == 2
    assert 0 < train(training)["val_r2"] < 1


def test_what_has_parts_is_put_together_from_them(tmp_path):
    """Seeds of scores and views of a table; what they were made for is then only put together."""
    config = _trial(
        dataset=ImageDataset(name="digits", augmentation="crop"), method="el2n", score_seeds=2
    )
    needed = artifacts(config)
    assert [problem.parts(each) for each in needed] == [0, 2, 0, 9]
    for artifact in needed:
        for index in range(problem.parts(artifact)):
            problem.prepare_part(artifact, index, tmp_path)
        made = problem.parts(artifact) > 0
        again = (lambda *_: pytest.fail("made anew")) if made else None
        problem.prepare(artifact, tmp_path, again)
        assert (tmp_path / f"{artifact.key}.safetensors").exists() or not problem.parts(artifact)
    assert not list(tmp_path.glob("*-shard*"))
    assert len(list(tmp_path.glob("*-seed*"))) == 2

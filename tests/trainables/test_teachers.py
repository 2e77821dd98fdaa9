import json

import pytest
import torch

from trainables import cache, datasets, engine, models, teachers
from trainables.config import ImageDataset, Recipe, RidgeDataset, TeacherSpec

RECIPE = Recipe(epochs=8, batch_size=64, lr=0.05)


def _spec(**changes):
    values = {"label_noise": 0.0, "architecture": "cnn16", "recipe": RECIPE, "seed": 0} | changes
    dataset = ImageDataset(name="digits", label_noise=values.pop("label_noise"))
    return TeacherSpec(dataset=dataset, **values)


def test_teacher_learns_digits_in_few_epochs(tmp_path):
    metadata = teachers.prepare(_spec(), tmp_path)
    assert float(metadata["val_accuracy"]) > 0.9
    assert json.loads(metadata["spec"])["architecture"] == "cnn16"
    assert int(metadata["parameters"]) == models.count_parameters(
        models.build("cnn16", (1, 8, 8), 10, 0)
    )


def test_cached_logits_are_those_of_the_cached_weights(tmp_path):
    spec = _spec(recipe=Recipe(epochs=2), fraction=0.3)
    logits = teachers.load_logits(spec, tmp_path)
    tensors, _ = cache.load(tmp_path, spec.key)
    model = models.build("cnn16", (1, 8, 8), 10, seed=99)
    model.load_state_dict(
        {
            name.removeprefix(teachers.WEIGHTS): value
            for name, value in tensors.items()
            if name != teachers.LOGITS
        }
    )
    images = datasets.training_samples(datasets.load(spec.dataset)).images
    assert logits.shape == (1293, 10)
    assert logits.dtype == torch.float32
    if engine.default_device().type == "cpu":
        assert torch.equal(logits, engine.predict_logits(model, images))


def test_teacher_is_trained_once_and_is_the_same_anew(tmp_path):
    spec = _spec(recipe=Recipe(epochs=1), label_noise=0.2)
    one = teachers.load_logits(spec, tmp_path / "a")
    (path,) = (tmp_path / "a").iterdir()
    written = path.stat().st_mtime_ns
    teachers.prepare(spec, tmp_path / "a")
    assert path.stat().st_mtime_ns == written
    assert torch.equal(one, teachers.load_logits(spec, tmp_path / "b"))
    other = teachers.load_logits(spec.model_copy(update={"seed": 1}), tmp_path / "a")
    assert not torch.equal(one, other)


def test_the_closed_form_problem_has_no_cached_teacher():
    spec = TeacherSpec(
        dataset=RidgeDataset(name="ridge"), architecture="linear", recipe=RECIPE, seed=0
    )
    with pytest.raises(TypeError, match="ridge"):
        teachers.make_teacher(spec)

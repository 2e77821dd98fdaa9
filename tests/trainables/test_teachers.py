import hashlib
import json
import pickle

import pytest
import safetensors.torch
import torch

from trainables import cache, datasets, engine, models, record, teachers
from trainables.config import (
    ImageDataset,
    Recipe,
    RidgeDataset,
    SoftLabelsSpec,
    TeacherFile,
    TeacherSpec,
)
from trainables.soft_labels import Online, Table

RECIPE = Recipe(epochs=8, batch_size=64, lr=0.05)
SHORT = Recipe(epochs=1, batch_size=64, lr=0.05)
CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


def _spec(**changes):
    values = {"label_noise": 0.0, "augmentation": "auto", "architecture": "cnn16"}
    values |= {"recipe": RECIPE, "seed": 0} | changes
    dataset = ImageDataset(
        name="digits",
        label_noise=values.pop("label_noise"),
        augmentation=values.pop("augmentation"),
    )
    return TeacherSpec(dataset=dataset, **values)


def _prepare(spec, folder):
    return cache.get_or_make(folder, spec.key, lambda: teachers.make_teacher(spec, folder))


def _equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_teacher_learns_digits_in_few_epochs(tmp_path):
    progress = []
    _, metadata = teachers.make_teacher(_spec(), tmp_path, lambda *done: progress.append(done))
    assert float(metadata[record.VAL_ACCURACY]) > 0.9
    assert json.loads(metadata["spec"])["architecture"] == "cnn16"
    assert int(metadata["parameters"]) == models.count_parameters(
        models.build("cnn16", SHAPE, 10, 0)
    )
    assert progress == [(epoch, 8) for epoch in range(1, 9)]


def test_teacher_is_made_once_and_is_the_same_anew(tmp_path):
    spec = _spec(recipe=SHORT, label_noise=0.2)
    one, metadata = _prepare(spec, tmp_path / "a")
    path = tmp_path / "a" / f"{spec.key}.safetensors"
    written = path.stat().st_mtime_ns
    teachers.load_teacher(spec, tmp_path / "a", CPU)
    assert path.stat().st_mtime_ns == written
    two, again = _prepare(spec, tmp_path / "b")
    assert _equal(one, two)
    assert metadata == again
    other, _ = _prepare(spec.model_copy(update={"seed": 1}), tmp_path / "a")
    assert not _equal(one, other)


def test_a_teacher_starts_elsewhere_than_a_student_of_its_seed(tmp_path, monkeypatch):
    started = []
    build = models.build
    monkeypatch.setattr(models, "build", lambda *args: started.append(args[-1]) or build(*args))
    teachers.make_teacher(_spec(recipe=SHORT, seed=5), tmp_path)
    assert started[0] != datasets.derive("weights", 5)


def test_loaded_teacher_is_the_cached_one_and_does_not_learn(tmp_path):
    spec = _spec(recipe=SHORT, fraction=0.3)
    state, _ = _prepare(spec, tmp_path)
    model = teachers.load_teacher(spec, tmp_path, CPU)
    assert _equal(dict(model.state_dict()), state)
    assert not model.training


@pytest.mark.parametrize(("all_views", "views"), [(True, 162), (False, 1)])
def test_soft_labels_are_what_the_teacher_says_of_each_view(tmp_path, all_views, views):
    teacher = _spec(recipe=SHORT, architecture="cnn4", augmentation="crop-flip")
    spec = SoftLabelsSpec(teacher=teacher, all_views=all_views)
    progress = []
    made, metadata = teachers.make_soft_labels(spec, tmp_path, lambda *d: progress.append(d))
    assert made[teachers.LOGITS].shape == (views, 1293, 10)
    assert made[teachers.LOGITS].dtype == torch.float16
    assert metadata["views"] == str(views)
    assert progress == [(view + 1, views) for view in range(views)]

    mapped = teachers.load_soft_labels(spec, tmp_path)
    assert torch.equal(mapped, made[teachers.LOGITS])
    images = datasets.training_samples(datasets.load(teacher.dataset)).on(CPU)
    kept, index = torch.arange(0, 1293, 2), torch.arange(50)
    for view in (0, 81, 161) if all_views else (images.augmentation.clean_view,):
        of_view = torch.full((50,), view)
        rendered = images.render(kept[index], of_view)
        online = Online(teachers.load_teacher(teacher, tmp_path, CPU))(index, of_view, rendered)
        table = Table(mapped, kept, CPU)(index, of_view, rendered)
        assert torch.allclose(table, online, rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize("name", ["cnn4", "resnet8", "wrn-16-2", "torchvision:mobilenet_v3_small"])
def test_a_teacher_that_only_answers_says_the_same(name):
    """With running statistics that are not those of a fresh network, and without batch norms."""
    model = models.build(name, (3, 32, 32), 10, 0)
    images = torch.randn(16, 3, 32, 32)
    model(images)
    answering = teachers.for_inference(model.eval())
    with torch.no_grad():
        torch.testing.assert_close(answering(images), model(images), rtol=1e-4, atol=1e-5)

    def norms(network):
        return sum(isinstance(each, torch.nn.BatchNorm2d) for each in network.modules())

    assert norms(answering) < norms(model)
    assert not any(each.requires_grad for each in answering.parameters())
    assert all(each.requires_grad for each in model.parameters())


def test_a_teacher_that_cannot_be_traced_answers_as_it_is():
    class Odd(torch.nn.Linear):
        def forward(self, images):
            flat = images.flatten(1)
            return super().forward(flat if flat.sum() > 0 else -flat)

    model = Odd(4, 2).eval()
    answering = teachers.for_inference(model)
    images = torch.randn(3, 1, 2, 2)
    assert torch.equal(answering(images), model(images))
    assert not any(each.requires_grad for each in answering.parameters())


def test_a_table_made_in_shards_is_the_same_file_and_what_was_interrupted_goes_on(
    tmp_path, monkeypatch
):
    """Byte for byte the logits of a table that is made as a whole."""
    spec = SoftLabelsSpec(
        teacher=_spec(recipe=SHORT, architecture="cnn4", augmentation="crop"), all_views=True
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert [views.start for views in teachers.shards(spec)] == list(range(0, 81, 9))
    for index in (8, 3):
        teachers.make_shard(spec, index, one)
    table = one / f"{spec.key}.safetensors"
    assert len(list(one.glob(f"{spec.key}-shard*"))) == 2
    assert not table.exists()
    made = []
    predict = engine.predict_logits

    def watched(model, images, views=None):
        if views is not None:
            made.append(int(views[0]))
        return predict(model, images, views)

    monkeypatch.setattr(engine, "predict_logits", watched)
    teachers.load_soft_labels(spec, one)
    assert made == [view for view in range(81) if view // 9 not in (3, 8)]
    assert list(one.glob(f"{spec.key}-shard*")) == []

    monkeypatch.setattr(teachers, "VIEWS_PER_SHARD", 81)
    teachers.load_soft_labels(spec, two)
    (sharded, metadata), (whole, same) = (cache.load(each, spec.key) for each in (one, two))
    assert sharded[teachers.LOGITS].numpy().tobytes() == whole[teachers.LOGITS].numpy().tobytes()
    assert metadata == same


def test_the_closed_form_problem_has_no_cached_teacher(tmp_path):
    spec = TeacherSpec(
        dataset=RidgeDataset(name="ridge"), architecture="linear", recipe=RECIPE, seed=0
    )
    with pytest.raises(TypeError, match="ridge"):
        teachers.make_teacher(spec, tmp_path)


def _state(name="cnn16", classes=10, shape=SHAPE):
    return dict(models.build(name, shape, classes, seed=7).state_dict())


def _save(state, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


WRAPPED = {
    "plain.pt": lambda state: state,
    "plain.safetensors": lambda state: state,
    "lightning.ckpt": lambda state: {"state_dict": state, "epoch": 3, "lr": [0.1]},
    "trainer.pth": lambda state: {"model": state, "optimizer": {"step": torch.tensor(1)}},
    "parallel.pt": lambda state: {f"module.{name}": value for name, value in state.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_teacher_that_a_user_brings_is_taken_as_it_is(tmp_path, name):
    state = _state()
    file = _save(WRAPPED[name](state), tmp_path / name)
    spec = _spec(file=TeacherFile(file=str(file)))
    made, metadata = teachers.make_teacher(spec, tmp_path)
    assert _equal(made, state)
    validation = datasets.validation_samples(datasets.load(spec.dataset))
    model = models.build("cnn16", SHAPE, 10, seed=7)
    logits = engine.predict_logits(model, validation.on(CPU))
    accuracy = (logits.argmax(1) == validation.labels).float().mean().item()
    if engine.default_device().type == "cpu":
        assert float(metadata[record.VAL_ACCURACY]) == accuracy
    assert int(metadata["parameters"]) == models.count_parameters(model)


def _without(name):
    return {key: value for key, value in _state().items() if key != name}


FAULTY = {
    "classes": (_state(classes=100), r"cnn16 for 10 classes: 9.weight is \(100, 128\) instead of"),
    "channels": (
        _state(shape=(3, 8, 8)),
        r"0.weight is \(16, 3, 3, 3\) instead of \(16, 1, 3, 3\)",
    ),
    "architecture": (_state("resnet8"), r"is missing.*; and \d+ more"),
    "missing": (_without("9.bias"), r"9.bias is missing$"),
    "unknown": (_state() | {"extra": torch.zeros(1)}, r"extra is unknown$"),
    "infinite": (
        _state() | {"9.bias": torch.full((10,), torch.inf)},
        r"9.bias has values that are not finite$",
    ),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("fault", FAULTY)
def test_weights_of_another_network_are_refused_naming_file_and_fault(tmp_path, fault, suffix):
    state, message = FAULTY[fault]
    file = _save(state, tmp_path / f"brought.{suffix}")
    with pytest.raises(ValueError, match=rf"{file}.*{message}"):
        teachers.make_teacher(_spec(file=TeacherFile(file=str(file))), tmp_path)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "bin"])
def test_nothing_in_a_file_is_executed(tmp_path, suffix):
    file, target = tmp_path / f"evil.{suffix}", tmp_path / "written"
    for save in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, 2))):
        save({"state_dict": _state(), "more": Malicious(str(target))}, file)
        with pytest.raises(ValueError, match=rf"teacher's file {file} cannot be read"):
            teachers.make_teacher(_spec(file=TeacherFile(file=str(file))), tmp_path)
        assert not target.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
@pytest.mark.faults
def test_truncated_files_are_named(tmp_path, suffix, kept):
    file = _save(_state(), tmp_path / f"short.{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"teacher's file {file} cannot be read"):
        teachers.make_teacher(_spec(file=TeacherFile(file=str(file))), tmp_path)


@pytest.mark.parametrize(
    "thing", [torch.zeros(3), [1, 2], {"epoch": 3}, {"state_dict": {1: 2}}, {"0.weight": "x"}]
)
def test_files_without_a_state_are_named(tmp_path, thing):
    file = tmp_path / "odd.pt"
    torch.save(thing, file)
    with pytest.raises(ValueError, match=str(file)):
        teachers.make_teacher(_spec(file=TeacherFile(file=str(file))), tmp_path)


def test_a_missing_file_is_named(tmp_path):
    file = tmp_path / "nowhere.pt"
    with pytest.raises(ValueError, match=rf"{file} cannot be read: .*No such file"):
        teachers.make_teacher(_spec(file=TeacherFile(file=str(file))), tmp_path)


def test_a_file_that_changed_since_the_search_was_planned_is_refused(tmp_path):
    file = _save(_state(), tmp_path / "brought.pt")
    planned = TeacherFile(file=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    teachers.make_teacher(_spec(file=planned), tmp_path)
    _save({name: value + 1 for name, value in _state().items()}, file)
    with pytest.raises(ValueError, match=rf"{file} is not the one .*instead of {planned.sha256}"):
        teachers.make_teacher(_spec(file=planned), tmp_path)

import copy
import dataclasses
import io
import math
import pickle
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables import datasets, engine, models, optimisation, record
from trainables.augment import AUGMENTATIONS
from trainables.config import Recipe
from trainables.soft_labels import Online, Table
from trainables.training import Training, train

CPU = torch.device("cpu")


def _teacher_logits(samples, views=1):
    rng = torch.Generator().manual_seed(0)
    return 3 * torch.randn(views, samples, 10, generator=rng)


def _samples(splits, count=200, augmentation="none"):
    splits = dataclasses.replace(splits, augmentation=augmentation)
    return datasets.training_samples(splits, torch.arange(count))


def _options(splits, count, augmentation):
    views = AUGMENTATIONS[augmentation].views
    table = Table(_teacher_logits(count, views), torch.arange(count), CPU)
    return {"soft_labels": table, "device": CPU}


def _training(
    splits, recipe, *, count=200, seed=1, name="cnn4", augmentation="none", model=None, **options
):
    return Training(
        models.build(name, splits.shape, 10, seed) if model is None else model,
        _samples(splits, count, augmentation),
        datasets.validation_samples(splits),
        recipe,
        seed,
        **_options(splits, count, augmentation) | options,
    )


def _cohort(splits, recipe, students, *, count=200, seed=1, augmentation="none"):
    return engine.Cohort(
        students,
        _samples(splits, count, augmentation),
        datasets.validation_samples(splits),
        recipe,
        seed,
        **_options(splits, count, augmentation),
    )


def _with_dropout(shape, seed):
    """Dropout as a layer and as a function, which leaves no layer behind."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = models.build("cnn4", shape, 10, seed)
            self.dropout = nn.Dropout(0.2)

        def forward(self, x):
            return self.body(F.dropout(self.dropout(x), 0.1, self.training))

    return Net()


NETWORKS = {
    "cnn": lambda shape: models.build("cnn4", shape, 10, seed=1),
    "dropout": lambda shape: _with_dropout(shape, seed=1),
}


def _weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def _without_times(metrics):
    timed = (record.SECONDS, record.SAMPLES_PER_S, record.PEAK_MEMORY_BYTES)
    return {name: value for name, value in metrics.items() if name not in timed}


def test_metrics_are_finite_and_named_by_the_schema(few_digits, short_recipe):
    training = _training(few_digits, short_recipe, kd_weight=0.5, temperature=2.0)
    metrics = training.step()
    assert set(metrics) == {
        record.TRAIN_LOSS,
        record.TRAIN_CE,
        record.TRAIN_KD,
        record.VAL_ACCURACY,
        record.VAL_LOSS,
        record.VAL_NLL_SCALED,
        record.VAL_TEMPERATURE,
        record.VAL_ECE,
        record.SAMPLES_PER_S,
        record.SECONDS,
        record.PEAK_MEMORY_BYTES,
        record.KEPT_NOISY,
        record.EPOCH,
    }
    assert all(math.isfinite(value) for value in metrics.values())
    mixed = 0.5 * metrics[record.TRAIN_CE] + 0.5 * metrics[record.TRAIN_KD]
    assert metrics[record.TRAIN_LOSS] == pytest.approx(mixed, rel=1e-5)
    assert metrics[record.VAL_NLL_SCALED] <= metrics[record.VAL_LOSS]
    noisy = few_digits.labels != few_digits.clean_labels
    assert metrics[record.KEPT_NOISY] == pytest.approx(noisy.float().mean().item())
    assert record.TRAIN_KD not in _training(few_digits, short_recipe).step()
    assert record.TRAIN_CE not in _training(few_digits, short_recipe, kd_weight=1.0).step()


def test_validation_metrics_are_those_of_the_validation_logits(few_digits, short_recipe):
    training = _training(few_digits, short_recipe)
    metrics = training.step()
    logits, labels = training.val_logits, few_digits.val_labels
    assert logits.shape == (len(labels), 10)
    assert logits.dtype == torch.float32
    assert metrics[record.VAL_ACCURACY] == (logits.argmax(1) == labels).float().mean().item()
    assert metrics[record.VAL_LOSS] == F.cross_entropy(logits, labels).item()
    restored = _training(few_digits, short_recipe)
    restored.load_state_dict(training.state_dict())
    assert torch.equal(restored.val_logits, logits)


@pytest.mark.parametrize("kd_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01, "clip_norm": 0.1, "warmup": 0.3},
        {"lr_schedule": "multistep", "clip_norm": 0.5, "momentum": 0.0},
    ],
    ids=["sgd", "adamw", "clipped"],
)
def test_engine_does_what_a_plain_loop_does(few_digits, kd_weight, changes):
    recipe = Recipe(**{"epochs": 2, "batch_size": 32, "lr": 0.05} | changes)
    model = models.build("cnn4", few_digits.shape, 10, seed=1)
    plain = copy.deepcopy(model).train()
    batches = []
    training = _training(
        few_digits,
        recipe,
        model=model,
        kd_weight=kd_weight,
        temperature=3.0,
        on_batch=lambda batch, _: batches.append(batch),
    )
    train(training)

    images = _samples(few_digits).on(CPU)
    soft = F.softmax(_teacher_logits(200)[0] / 3.0, dim=1)
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            plain.parameters(),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = optimisation.learning_rate(recipe, step, len(batches))
        logits = plain(images.render(batch).contiguous())
        ce = F.nll_loss(F.log_softmax(logits, 1), few_digits.labels[batch])
        kl = (soft[batch] * (soft[batch].log() - F.log_softmax(logits / 3.0, 1))).sum(1).mean()
        optimizer.zero_grad()
        ((1 - kd_weight) * ce + kd_weight * 9.0 * kl).backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(plain.parameters(), recipe.clip_norm)
        optimizer.step()
    assert len(batches) == 14
    assert torch.allclose(_weights(training.model), _weights(plain), rtol=1e-3, atol=1e-4)


RESUMED = {
    "epochs": Recipe(epochs=5, batch_size=32),
    "iterations": Recipe(iterations=23),
    "adamw": Recipe(epochs=4, batch_size=32, optimizer="adamw", lr=0.01, warmup=0.7),
    "clipped": Recipe(epochs=4, batch_size=32, clip_norm=0.2, lr_schedule="multistep"),
    "bf16": Recipe(epochs=4, batch_size=32, precision="bf16"),
    "fp16": Recipe(epochs=4, batch_size=32, precision="fp16", clip_norm=1.0),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("recipe", RESUMED.values(), ids=RESUMED)
def test_resumed_training_continues_bit_for_bit(few_digits, recipe, network):
    def start():
        options = {"kd_weight": 0.4, "temperature": 3.0, "augmentation": "crop-flip"}
        training = _training(few_digits, recipe, model=network(few_digits.shape), **options)
        if recipe.precision == "fp16":  # so that it grows within the test
            training.student.scaler.set_growth_interval(3)
        return training

    undisturbed = start()
    expected = train(undisturbed)

    first = start()
    first.step()
    first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    first.step()  # must not reach into the saved state
    file.seek(0)
    second = start()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.epoch == 2
    torch.rand(7)  # whatever else the process draws
    metrics = train(second)

    assert torch.equal(_weights(undisturbed.model), _weights(second.model))
    assert torch.equal(undisturbed.val_logits, second.val_logits)
    assert undisturbed.student.scaler.state_dict() == second.student.scaler.state_dict()
    assert _without_times(metrics) == _without_times(expected)


def test_a_held_state_does_not_change_with_further_training(few_digits, short_recipe):
    training = _training(few_digits, short_recipe)
    training.step()
    state = training.state_dict()
    after_one = _weights(training.model)
    training.step()
    training.load_state_dict(state)
    assert torch.equal(after_one, _weights(training.model))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_trials_of_a_seed_share_weights_batches_views_and_draws_whatever_their_kd_weight(
    few_digits, short_recipe, network
):
    seen, views = {}, {}
    for kd_weight in (0.0, 0.3, 1.0):
        batches = []
        training = _training(
            few_digits,
            short_recipe,
            model=network(few_digits.shape),
            kd_weight=kd_weight,
            augmentation="crop-flip",
            on_batch=lambda batch, logits, to=batches: to.append((batch, logits)),
        )
        render = training.cohort.train_images.render
        looked_at = []
        training.cohort.train_images.render = lambda i, v, r=render, to=looked_at: (
            to.append(v) or r(i, v)
        )
        torch.manual_seed(int(10 * kd_weight))
        train(training)
        seen[kd_weight], views[kd_weight] = batches, torch.cat(looked_at)
    assert len(views[0.0].unique()) > 100
    for other in (0.3, 1.0):
        assert torch.equal(views[0.0], views[other])
        assert all(
            torch.equal(one[0], two[0]) for one, two in zip(seen[0.0], seen[other], strict=True)
        )
        # The first logits: initial weights, view and dropout mask.
        assert torch.equal(seen[0.0][0][1], seen[other][0][1])
        assert not torch.equal(seen[0.0][-1][1], seen[other][-1][1])


def test_training_leaves_the_global_random_state_alone(few_digits, short_recipe):
    state = torch.get_rng_state()
    _training(few_digits, short_recipe, model=_with_dropout(few_digits.shape, 1)).step()
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_draws_anew_at_every_step_and_seed(few_digits):
    masks = {}

    class Masked(nn.Module):
        def __init__(self, to):
            super().__init__()
            self.net = models.build("cnn4", few_digits.shape, 10, 1)
            self.to_list = to

        def forward(self, x):
            if self.training:
                self.to_list.append(F.dropout(torch.ones(64), 0.5))
            return self.net(x)

    for seed in (1, 2):
        masks[seed] = []
        recipe = Recipe(epochs=2, batch_size=50)
        train(_training(few_digits, recipe, seed=seed, model=Masked(masks[seed])))
    drawn = torch.stack(masks[1] + masks[2])
    assert len(drawn) == 16
    assert len(drawn.unique(dim=0)) == 16


def test_every_sample_is_presented_once_per_epoch(few_digits):
    presented = []
    training = _training(
        few_digits,
        Recipe(epochs=2, batch_size=32),
        on_batch=lambda batch, _: presented.append(batch),
    )
    training.step()
    one = torch.cat(presented)
    training.step()
    two = torch.cat(presented)[200:]
    assert torch.equal(one.sort().values, torch.arange(200))
    assert torch.equal(two.sort().values, torch.arange(200))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(("iterations", "epochs"), [(1, 1), (7, 1), (8, 2), (20, 3)])
def test_iterations_are_exact_and_the_last_epoch_partial(few_digits, iterations, epochs):
    batches = []
    training = _training(
        few_digits,
        Recipe(iterations=iterations, batch_size=32),  # 7 batches an epoch
        on_batch=lambda batch, _: batches.append(len(batch)),
    )
    metrics = train(training)
    assert len(batches) == iterations == training.steps
    assert training.epoch == training.epochs == epochs == metrics[record.EPOCH]
    with pytest.raises(RuntimeError, match="done"):
        training.step()


@pytest.mark.parametrize("count", [1, 33, 65])
def test_awkward_sample_counts_train(few_digits, count, short_recipe):
    metrics = train(_training(few_digits, short_recipe, count=count))
    assert math.isfinite(metrics[record.TRAIN_LOSS])


def test_divergence_names_epoch_step_and_last_good_metrics(few_digits):
    training = _training(few_digits, Recipe(epochs=3, batch_size=32))
    good = training.step()
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.inf)
    with pytest.raises(engine.Diverged, match=r"epoch 2, step 8.*val_accuracy") as caught:
        training.step()
    assert caught.value.last_good == good
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert (travelled.epoch, travelled.step) == (2, 8)
    assert travelled.last_good == good


def test_absurd_learning_rate_diverges_instead_of_scoring(few_digits):
    with pytest.raises(engine.Diverged):
        train(_training(few_digits, Recipe(epochs=20, batch_size=32, lr=1e30)))


def test_divergence_in_the_very_last_step_is_no_accuracy(few_digits):
    def poison(batch, logits):
        if training.steps == 6:  # counted once all students have taken it
            with torch.no_grad():
                next(training.model.parameters()).fill_(math.nan)

    training = _training(few_digits, Recipe(epochs=1, batch_size=32), on_batch=poison)
    with pytest.raises(engine.Diverged, match="epoch 1, step 7"):
        training.step()


def test_train_reports_every_epoch(few_digits, short_recipe):
    reported = []
    last = train(_training(few_digits, short_recipe), reported.append)
    assert [metrics[record.EPOCH] for metrics in reported] == [1, 2, 3, 4]
    assert reported[-1] == last


def test_a_positive_kd_weight_without_a_teacher_is_refused_before_training(
    few_digits, short_recipe
):
    with pytest.raises(ValueError, match=r"0\.5 needs a teacher"):
        _training(few_digits, short_recipe, kd_weight=0.5, soft_labels=None)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_half_precision_is_that_of_the_forward_pass_alone(few_digits, precision, dtype):
    seen = set()
    training = _training(few_digits, Recipe(epochs=6, batch_size=32, lr=0.05, precision=precision))
    training.model[0].register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    metrics = train(training)
    assert seen == {dtype}
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    assert training.val_logits.dtype == torch.float32
    full = train(_training(few_digits, Recipe(epochs=6, batch_size=32, lr=0.05)))
    assert metrics[record.TRAIN_LOSS] == pytest.approx(full[record.TRAIN_LOSS], rel=0.1)
    assert metrics[record.TRAIN_LOSS] != full[record.TRAIN_LOSS]


def test_a_gradient_that_overflows_fp16_costs_a_step_and_halves_the_scale(few_digits):
    training = _training(few_digits, Recipe(epochs=1, batch_size=200, precision="fp16"))
    scaler = training.student.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**40})
    before = _weights(nn.ModuleList([training.model[0], training.model[-1]]))
    training.step()
    assert torch.equal(before, _weights(nn.ModuleList([training.model[0], training.model[-1]])))
    assert training.student.scaler.get_scale() == 2.0**39


@pytest.mark.slow
def test_a_compiled_network_trains_like_the_plain_one(few_digits):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    plain, compiled = (
        _training(few_digits, Recipe(epochs=2, batch_size=50, lr=0.05, compile=compile))
        for compile in (False, True)
    )
    assert train(compiled)[record.TRAIN_LOSS] == pytest.approx(
        train(plain)[record.TRAIN_LOSS], rel=1e-3
    )
    assert plain.state_dict()["model"].keys() == compiled.state_dict()["model"].keys()


KD = ((0.0, 1.0), (0.3, 4.0), (1.0, 2.0))
"""KD weights and temperatures of three students."""


def _solo(splits, recipe, network, kd):
    training = _training(
        splits,
        recipe,
        model=network(splits.shape),
        augmentation="crop-flip",
        kd_weight=kd[0],
        temperature=kd[1],
    )
    return training, train(training)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=3, batch_size=32),
        Recipe(iterations=10, batch_size=64, optimizer="adamw", lr=0.01, precision="bf16"),
    ],
    ids=["sgd", "adamw-bf16"],
)
def test_students_of_a_cohort_end_exactly_as_each_would_alone(few_digits, network, recipe):
    students = [engine.Student(network(few_digits.shape), *kd) for kd in KD]
    cohort = _cohort(few_digits, recipe, students, augmentation="crop-flip")
    while cohort.epoch < cohort.epochs:
        metrics = cohort.step()
    for student, of_student, kd in zip(students, metrics, KD, strict=True):
        alone, expected = _solo(few_digits, recipe, network, kd)
        assert torch.equal(_weights(student.model), _weights(alone.model))
        assert torch.equal(student.val_logits, alone.val_logits)
        assert _without_times(of_student) == _without_times(expected)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_others_go_on_as_before_when_a_student_is_dropped_or_diverges(few_digits, network):
    recipe = Recipe(epochs=4, batch_size=32)
    first, dropped, sick, last = (
        engine.Student(network(few_digits.shape), *kd) for kd in (KD[0], KD[1], KD[1], KD[2])
    )
    cohort = _cohort(few_digits, recipe, [first, dropped, sick, last], augmentation="crop-flip")
    (*_, last_good, _) = cohort.step()
    cohort.drop(dropped)
    with torch.no_grad():
        next(sick.model.parameters()).fill_(math.nan)
    metrics = cohort.step()
    assert [each is None for each in metrics] == [False, True, False]
    assert (sick.failure.epoch, sick.failure.step) == (2, 8)
    assert sick.failure.last_good == last_good
    assert cohort.alive == [first, last]
    of_dropped = _weights(dropped.model)
    while cohort.epoch < cohort.epochs:
        metrics = cohort.step()
    assert metrics[1] is None
    assert torch.equal(of_dropped, _weights(dropped.model))
    for student, of_student, kd in ((first, metrics[0], KD[0]), (last, metrics[2], KD[2])):
        alone, expected = _solo(few_digits, recipe, network, kd)
        assert torch.equal(_weights(student.model), _weights(alone.model))
        assert _without_times(of_student) == _without_times(expected)


def test_a_cohort_renders_a_batch_and_asks_its_teacher_once(few_digits):
    calls = []

    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = models.build("cnn4", few_digits.shape, 10, 0)

        def forward(self, x):
            calls.append(1)
            return self.net(x)

    students = [engine.Student(NETWORKS["cnn"](few_digits.shape), *kd) for kd in KD]
    cohort = engine.Cohort(
        students,
        _samples(few_digits),
        datasets.validation_samples(few_digits),
        Recipe(epochs=2, batch_size=50),
        1,
        soft_labels=Online(Teacher()),
        device=CPU,
    )
    cohort.step()
    assert len(calls) == 4
    cohort.drop(students[1])
    cohort.drop(students[2])
    cohort.step()  # plain training alone is left
    assert len(calls) == 4


def _taught(splits, recipe, soft_labels):
    training = _training(
        splits,
        recipe,
        augmentation="crop-flip",
        kd_weight=1.0,
        temperature=4.0,
        soft_labels=soft_labels,
    )
    train(training)
    return training


def test_a_table_of_all_views_teaches_like_the_teacher_itself_and_a_fixed_one_does_not(few_digits):
    """Within the rounding of fp16: its logits are off by one part in 2048, and so are gradients."""
    teacher = _training(few_digits, Recipe(epochs=10, batch_size=32, lr=0.05), name="cnn8", seed=3)
    train(teacher)
    images = _samples(few_digits, augmentation="crop-flip").on(CPU)
    views = torch.stack(
        [
            engine.predict_logits(teacher.model, images, torch.full((200,), view))
            for view in range(images.augmentation.views)
        ]
    ).half()
    kept, recipe = torch.arange(200), Recipe(epochs=4, batch_size=32, lr=0.05)
    online = _taught(few_digits, recipe, Online(teacher.model))
    table = _taught(few_digits, recipe, Table(views, kept, CPU))
    clean = views[images.augmentation.clean_view][None]
    fixed = _taught(few_digits, recipe, Table(clean, kept, CPU))

    rounding = torch.finfo(torch.half).eps / 2
    scale = online.val_logits.abs().max()
    off = (table.val_logits - online.val_logits).abs().max() / scale
    other = (fixed.val_logits - online.val_logits).abs().max() / scale
    assert 0 < off < 4 * rounding
    assert other > 200 * rounding

import io
import math
import pickle

import pytest
import torch

from trainables import datasets, engine, models, record
from trainables.config import Recipe

CPU = torch.device("cpu")


def _training(splits, recipe, *, count=200, seed=1, name="cnn4", **options):
    teacher = torch.randn(len(splits.labels), 10, generator=torch.Generator().manual_seed(0))
    return engine.Training(
        models.build(name, splits.shape, 10, seed),
        datasets.training_samples(splits, torch.arange(count), teacher),
        datasets.validation_samples(splits),
        recipe,
        seed,
        device=CPU,
        **options,
    )


def _weights(training):
    return torch.cat([p.detach().flatten() for p in training.model.state_dict().values()])


def _without_times(metrics):
    timed = (record.SECONDS, record.SAMPLES_PER_S)
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
        record.SAMPLES_PER_S,
        record.SECONDS,
        record.EPOCH,
    }
    assert all(math.isfinite(value) for value in metrics.values())
    mixed = 0.5 * metrics[record.TRAIN_CE] + 0.5 * metrics[record.TRAIN_KD]
    assert metrics[record.TRAIN_LOSS] == pytest.approx(mixed, rel=1e-5)
    assert record.TRAIN_KD not in _training(few_digits, short_recipe).step()


@pytest.mark.parametrize("recipe", [Recipe(epochs=5, batch_size=32), Recipe(iterations=23)])
def test_resumed_training_continues_bit_for_bit(few_digits, recipe):
    undisturbed = _training(few_digits, recipe, kd_weight=0.4, temperature=3.0)
    expected = engine.train(undisturbed)

    first = _training(few_digits, recipe, kd_weight=0.4, temperature=3.0)
    first.step()
    first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    first.step()  # must not reach into the saved state
    file.seek(0)
    second = _training(few_digits, recipe, kd_weight=0.4, temperature=3.0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.epoch == 2
    metrics = engine.train(second)

    assert torch.equal(_weights(undisturbed), _weights(second))
    assert _without_times(metrics) == _without_times(expected)


def test_a_held_state_does_not_change_with_further_training(few_digits, short_recipe):
    training = _training(few_digits, short_recipe)
    training.step()
    state = training.state_dict()
    after_one = _weights(training)
    training.step()
    training.load_state_dict(state)
    assert torch.equal(after_one, _weights(training))


def test_trials_of_a_seed_share_weights_and_batches_whatever_their_kd_weight(
    few_digits, short_recipe
):
    seen = {}
    for kd_weight in (0.0, 0.3, 1.0):
        batches = []
        training = _training(
            few_digits,
            short_recipe,
            kd_weight=kd_weight,
            on_batch=lambda batch, logits, to=batches: to.append((batch, logits)),
        )
        engine.train(training)
        seen[kd_weight] = batches
    for other in (0.3, 1.0):
        assert all(
            torch.equal(one[0], two[0]) for one, two in zip(seen[0.0], seen[other], strict=True)
        )
        assert torch.equal(seen[0.0][0][1], seen[other][0][1])  # first logits: initial weights
        assert not torch.equal(seen[0.0][-1][1], seen[other][-1][1])


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
    metrics = engine.train(training)
    assert len(batches) == iterations == training.steps
    assert training.epoch == training.epochs == epochs == metrics[record.EPOCH]
    with pytest.raises(RuntimeError, match="done"):
        training.step()


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [
        (10, 5, [5, 5]),
        (12, 5, [5, 5, 2]),
        (11, 5, [5, 4, 2]),
        (1, 5, [1]),
        (3, 1, [1, 1, 1]),
        (3, 2, [2, 1]),
        (4, 9, [4]),
    ],
)
def test_no_lone_last_sample_and_as_many_batches_as_the_recipe_counts(samples, size, sizes):
    assert engine.batch_sizes(samples, size) == sizes
    assert len(sizes) == Recipe(epochs=1, batch_size=size).steps_per_epoch(samples)


@pytest.mark.parametrize("count", [1, 33, 65])
def test_awkward_sample_counts_train(few_digits, count, short_recipe):
    metrics = engine.train(_training(few_digits, short_recipe, count=count))
    assert math.isfinite(metrics[record.TRAIN_LOSS])


def test_learning_rate_falls_along_the_cosine_to_almost_nothing():
    recipe = Recipe(epochs=1, lr=0.2)
    rates = [engine.learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == 0.2
    assert rates[50] == pytest.approx(0.1)
    assert rates[-1] < 1e-4
    assert rates == sorted(rates, reverse=True)
    constant = Recipe(epochs=1, lr=0.2, lr_schedule="constant")
    assert engine.learning_rate(constant, 99, 100) == 0.2


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
        engine.train(_training(few_digits, Recipe(epochs=20, batch_size=32, lr=1e30)))


def test_divergence_in_the_very_last_step_is_no_accuracy(few_digits):
    def poison(batch, logits):
        if training.steps == 7:
            with torch.no_grad():
                next(training.model.parameters()).fill_(math.nan)

    training = _training(few_digits, Recipe(epochs=1, batch_size=32), on_batch=poison)
    with pytest.raises(engine.Diverged, match="epoch 1, step 7"):
        training.step()


def test_train_reports_every_epoch(few_digits, short_recipe):
    reported = []
    last = engine.train(_training(few_digits, short_recipe), reported.append)
    assert [metrics[record.EPOCH] for metrics in reported] == [1, 2, 3, 4]
    assert reported[-1] == last

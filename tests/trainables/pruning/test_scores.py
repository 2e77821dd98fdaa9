import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from trainables import datasets, engine, models
from trainables.config import METHODS as NAMES
from trainables.config import ImageDataset, Recipe, ScoresSpec
from trainables.pruning import el2n, forgetting, random, scores
from trainables.pruning.methods import METHODS
from trainables.seeds import derive

RECIPE = Recipe(epochs=4, batch_size=32, lr=0.05)
FIXED = [name for name, scoring in METHODS.items() if scoring]


def test_configuration_and_table_know_the_same_methods():
    assert set(METHODS) == set(NAMES)


@pytest.mark.parametrize("method", FIXED)
class TestScoringContract:
    """What every method of fixed scores keeps."""

    def test_scores_are_finite_one_per_sample(self, method, few_digits):
        values = METHODS[method](few_digits, "cnn4", RECIPE, 1)
        assert values.shape == (200,)
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert values.std() > 0

    def test_same_arguments_same_scores(self, method, few_digits):
        one, two = (METHODS[method](few_digits, "cnn4", RECIPE, 2) for _ in range(2))
        assert torch.equal(one, two)

    def test_progress_counts_trainings(self, method, few_digits):
        seen = []
        METHODS[method](
            few_digits, "cnn4", RECIPE, 2, lambda done, total: seen.append((done, total))
        )
        assert seen == [(1, 2), (2, 2)]

    def test_validation_plays_no_part(self, method, few_digits):
        blind = dataclasses.replace(
            few_digits,
            val_images=few_digits.val_images[:1] * 0,
            val_labels=few_digits.val_labels[:1],
        )
        one, two = (METHODS[method](splits, "cnn4", RECIPE, 1) for splits in (few_digits, blind))
        assert torch.equal(one, two)

    def test_mislabelled_samples_rank_as_harder(self, method, noisy_digits):
        values = METHODS[method](noisy_digits, "cnn8", Recipe(epochs=10, batch_size=64, lr=0.05), 2)
        wrong = noisy_digits.labels != noisy_digits.clean_labels
        # The chance that a mislabelled sample scores above a clean one (AUC), ties half.
        gap = values[wrong][:, None] - values[~wrong]
        assert ((gap > 0).float() + 0.5 * (gap == 0).float()).mean() > 0.8


def _proxy_logits(splits, index, on_batch=None):
    """A proxy's training, written out a second time from the definition of the seeds."""
    seed = derive("scores", index)
    return engine.Training(
        models.build("cnn4", splits.shape, 10, derive("weights", seed)),
        datasets.training_samples(splits),
        datasets.validation_samples(splits),
        RECIPE,
        seed,
        on_batch=on_batch,
    )


def test_el2n_agrees_with_its_definition(few_digits):
    expected = torch.zeros(200)
    for index in range(3):
        training = _proxy_logits(few_digits, index)
        training.step()  # a tenth of 4 epochs, at least 1
        training.model.eval()
        for i in range(200):  # one by one: batch norm must not look at neighbours
            logits = training.model(training.train_samples.images[i : i + 1])
            probs = torch.softmax(logits, 1)[0].detach().cpu()
            error = probs - F.one_hot(few_digits.labels[i], 10)
            expected[i] += error.square().sum().sqrt() / 3
    torch.testing.assert_close(
        el2n.score(few_digits, "cnn4", RECIPE, 3), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("epochs", "early"), [(1, 1), (4, 1), (30, 3), (200, 20)])
def test_el2n_is_taken_after_a_tenth_of_the_training(epochs, early):
    assert el2n.early_epoch(epochs) == early


def test_forgetting_agrees_with_its_definition(few_digits):
    expected = torch.zeros(200)
    for index in range(2):
        history = [[] for _ in range(200)]

        def note(batch, logits, history=history):
            for i, row in zip(batch.tolist(), logits.cpu(), strict=True):
                history[i].append(int(row.argmax()) == int(few_digits.labels[i]))

        engine.train(_proxy_logits(few_digits, index, on_batch=note))
        for i, correct in enumerate(history):
            assert len(correct) == 4
            if not any(correct):
                expected[i] += 4
            else:
                expected[i] += sum(a and not b for a, b in itertools.pairwise(correct))
    assert torch.equal(forgetting.score(few_digits, "cnn4", RECIPE, 2), expected)


def test_forgetting_counts_transitions_of_a_planted_history():
    counter = forgetting.ForgettingCounter(torch.tensor([0, 0, 0]))
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    for rows in (
        [right, wrong, wrong],
        [wrong, right, wrong],
        [right, right, wrong],
        [wrong, right, wrong],
    ):
        counter(torch.tensor([0, 1, 2]), torch.tensor(rows))
    assert counter.counts(never_learned=4).tolist() == [2, 0, 4]


def test_random_ranking_is_the_trial_seeds_own():
    one, two, other = (random.draw_scores(50, seed) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len(one.unique()) == 50


def test_scores_are_cached_under_their_specification(tmp_path):
    spec = ScoresSpec(
        dataset=ImageDataset(name="digits"),
        method="el2n",
        architecture="cnn4",
        recipe=Recipe(epochs=1),
        seeds=1,
    )
    metadata = scores.prepare(spec, tmp_path)
    assert metadata["samples"] == "1293"
    values = scores.load_scores(spec, tmp_path)
    splits = datasets.load(spec.dataset)
    assert torch.equal(values, el2n.score(splits, "cnn4", Recipe(epochs=1), 1))


@pytest.mark.parametrize("method", ["random", "grandest"])
def test_methods_without_fixed_scores_say_so(method):
    spec = ScoresSpec(
        dataset=ImageDataset(name="digits"),
        method=method,
        architecture="cnn4",
        recipe=RECIPE,
        seeds=1,
    )
    with pytest.raises(ValueError, match="el2n, forgetting"):
        scores.make_scores(spec)

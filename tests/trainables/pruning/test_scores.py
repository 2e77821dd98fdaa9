import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables import cache, datasets, engine, models
from trainables.augment import Images
from trainables.config import METHODS as NAMES
from trainables.config import ImageDataset, Pruning, Recipe, ScoresSpec
from trainables.pruning import aum, el2n, forgetting, grand, proxies, random, scores
from trainables.pruning.methods import METHODS, find
from trainables.seeds import derive
from trainables.training import Training, train

RECIPE = Recipe(epochs=4, batch_size=32, lr=0.05)
DEFAULT = Pruning()
FIXED = [(name, DEFAULT) for name, scoring in METHODS.items() if scoring] + [
    ("forgetting", Pruning(never_learned="zero")),
    ("grand", Pruning(gradient="last")),
]


def _score(case, splits, recipe=RECIPE, index=0, progress=None):
    method, options = case
    return METHODS[method](splits, "cnn4", recipe, index, options, progress)


def _name(case):
    method, options = case
    return "-".join([method, *map(str, options.model_dump(exclude_defaults=True).values())])


def test_configuration_and_table_know_the_same_methods():
    assert tuple(METHODS) == NAMES


@pytest.mark.parametrize("case", FIXED, ids=_name)
class TestScoringContract:
    """What every method of fixed scores keeps."""

    def test_scores_are_finite_one_per_sample(self, case, few_digits):
        values = _score(case, few_digits)
        assert values.shape == (200,)
        assert values.dtype == torch.float32
        assert values.device.type == "cpu"
        assert torch.isfinite(values).all()
        assert values.std() > 0

    def test_same_arguments_same_scores_and_seeds_differ(self, case, few_digits):
        one, two, other = (_score(case, few_digits, index=index) for index in (1, 1, 2))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)

    def test_reordered_samples_have_the_same_scores_in_that_order(self, case, few_digits):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
        reordered = dataclasses.replace(
            few_digits,
            images=few_digits.images[order],
            labels=few_digits.labels[order],
            clean_labels=few_digits.clean_labels[order],
        )
        # One batch holds all: there is no batch order that would differ.
        recipe = Recipe(epochs=20, batch_size=200, lr=0.3)
        values = _score(case, few_digits, recipe)
        assert values.std() > 0.01
        torch.testing.assert_close(
            _score(case, reordered, recipe), values[order], rtol=1e-3, atol=1e-4
        )

    def test_progress_counts_epochs(self, case, few_digits):
        seen = []
        _score(case, few_digits, progress=lambda done, total: seen.append((done, total)))
        total = 4 if case[0] in ("forgetting", "aum") else 1
        assert seen == [(done, total) for done in range(1, total + 1)]

    def test_validation_plays_no_part(self, case, few_digits):
        blind = dataclasses.replace(
            few_digits,
            val_images=few_digits.val_images[:1] * 0,
            val_labels=few_digits.val_labels[:1],
        )
        assert torch.equal(_score(case, few_digits), _score(case, blind))

    def test_augmentation_does_not_reach_early_scores(self, case, few_digits):
        if case[0] in ("forgetting", "aum"):
            pytest.skip("these are taken from training's own presentations")
        augmented = dataclasses.replace(few_digits, augmentation="crop")
        training = proxies.early_proxy(augmented, "cnn4", RECIPE, 0)
        clean = Images(few_digits.images, few_digits.mean, few_digits.std)
        if case[0] == "el2n":
            logits = engine.predict_logits(training.model, clean)
            expected = el2n.errors(logits, few_digits.labels).norm(dim=1)
        else:
            norms = {"all": grand.gradient_norms, "last": grand.last_layer_norms}
            expected = norms[case[1].gradient](training.model, clean, few_digits.labels)
        torch.testing.assert_close(_score(case, augmented), expected)

    def test_mislabelled_samples_rank_as_harder(self, case, noisy_digits):
        if case[1].never_learned == "zero":
            pytest.skip("by this convention a mislabelled sample may well rank as easy")
        recipe = Recipe(epochs=20, batch_size=64, lr=0.05)
        values = METHODS[case[0]](noisy_digits, "cnn8", recipe, 0, case[1])
        wrong = noisy_digits.labels != noisy_digits.clean_labels
        assert values[wrong].mean() > values[~wrong].mean()
        # The chance that a mislabelled sample scores above a clean one (AUC), ties half.
        gap = values[wrong][:, None] - values[~wrong]
        assert ((gap > 0).float() + 0.5 * (gap == 0).float()).mean() > 0.8


def _proxy(splits, index, on_batch=None):
    """A proxy's training, written out a second time from the definition of the seeds."""
    seed = derive("scores", index)
    return Training(
        models.build("cnn4", splits.shape, 10, derive("weights", seed)),
        datasets.training_samples(splits),
        datasets.validation_samples(splits),
        RECIPE,
        seed,
        on_batch=on_batch,
    )


def _early_logits_one_by_one(splits, index):
    """Model, image and logits of each sample: batch norm must not look at neighbours."""
    training = _proxy(splits, index)
    training.step()  # a tenth of 4 epochs, at least 1
    model = training.model.cpu().eval()
    for i in range(len(splits.labels)):
        image = (splits.images[i : i + 1].float() / 255 - splits.mean[:, None, None]) / splits.std[
            :, None, None
        ]
        yield i, model, model(image)


def test_el2n_agrees_with_its_definition(few_digits):
    expected = torch.zeros(200)
    for i, _, logits in _early_logits_one_by_one(few_digits, 3):
        error = torch.softmax(logits.detach(), 1)[0] - F.one_hot(few_digits.labels[i], 10)
        expected[i] = error.square().sum().sqrt()
    values = el2n.score(few_digits, "cnn4", RECIPE, 3, DEFAULT)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", ["all", "last"])
def test_grand_agrees_with_autograd_one_sample_at_a_time(gradient, few_digits):
    expected = torch.zeros(200)
    for i, model, logits in _early_logits_one_by_one(few_digits, 3):
        parameters = list((model if gradient == "all" else model[-1]).parameters())
        loss = F.cross_entropy(logits, few_digits.labels[i : i + 1])
        gradients = torch.autograd.grad(loss, parameters)
        expected[i] = torch.cat([g.flatten() for g in gradients]).norm()
    values = grand.score(few_digits, "cnn4", RECIPE, 3, Pruning(gradient=gradient))
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("epochs", "early"), [(1, 1), (4, 1), (30, 3), (200, 20)])
def test_early_scores_are_taken_after_a_tenth_of_the_training(epochs, early):
    assert proxies.early_epoch(epochs) == early


class TestBatchSizeInvariance:
    """Scores of early networks do not know which samples were looked at together."""

    @pytest.mark.parametrize("norms", [grand.gradient_norms, grand.last_layer_norms])
    def test_of_grand(self, norms, few_digits):
        cohort = proxies.early_proxy(few_digits, "cnn4", RECIPE, 0).cohort
        (student,) = cohort.students
        arguments = (student.model, cohort.train_images, cohort.train_labels)
        one_by_one = norms(*arguments, 1)
        for chunk in (7, 32, 199, 1000):  # 199 leaves one sample alone at the end
            torch.testing.assert_close(norms(*arguments, chunk), one_by_one, rtol=1e-4, atol=1e-5)

    def test_of_el2n(self, few_digits, monkeypatch):
        of_size = []
        for size in (1, 7, 1000):
            monkeypatch.setitem(engine._EVALUATION_BATCH, "cpu", size)
            of_size.append(el2n.score(few_digits, "cnn4", RECIPE, 0, DEFAULT))
        torch.testing.assert_close(of_size[0], of_size[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_size[0], of_size[2], rtol=1e-4, atol=1e-5)


class TestMemoryOfGrand:
    """Gradients of one chunk are held at a time."""

    @pytest.mark.parametrize("parameters", [2_000, 270_000, 11_000_000])
    def test_a_chunk_fits_into_its_bound(self, parameters):
        chunk = grand.chunk_size(parameters)
        assert 1 <= chunk <= grand.LARGEST_CHUNK
        assert chunk * 4 * parameters <= grand.GRADIENTS_BYTES

    def test_even_a_huge_network_gets_one_sample_at_a_time(self):
        assert grand.chunk_size(10**9) == 1


class TestLastLayer:
    """The closed form finds the layer that the logits come from."""

    def _norms(self, model):
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (6, 1, 4, 4), generator=rng).byte()
        batch = Images(images, torch.zeros(1), torch.ones(1))
        return batch, grand.last_layer_norms(model, batch, torch.tensor([0, 1, 2] * 2))

    def test_without_a_bias(self):
        torch.manual_seed(0)
        last = nn.Linear(5, 3, bias=False)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), last)
        batch, norms = self._norms(model)
        logits = model(batch.render(torch.arange(6)))
        for i, label in enumerate([0, 1, 2] * 2):
            loss = F.cross_entropy(logits[i : i + 1], torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, [last.weight], retain_graph=True)
            torch.testing.assert_close(norms[i], gradient.norm())

    def test_a_network_that_ends_otherwise_is_refused(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3), nn.Tanh())
        with pytest.raises(ValueError, match=r"gradient: last .*Sequential.*gradient: all"):
            self._norms(model)
        assert not any(layer._forward_hooks for layer in model.modules())


def test_forgetting_agrees_with_its_definition(few_digits):
    history = [[] for _ in range(200)]

    def note(batch, logits):
        for i, row in zip(batch.tolist(), logits.cpu(), strict=True):
            history[i].append(int(row.argmax()) == int(few_digits.labels[i]))

    train(_proxy(few_digits, 1, on_batch=note))
    events = torch.zeros(200)
    for i, correct in enumerate(history):
        assert len(correct) == 4
        events[i] = sum(a and not b for a, b in itertools.pairwise(correct))
    never = torch.tensor([not any(correct) for correct in history])
    assert never.any()
    assert torch.equal(
        forgetting.score(few_digits, "cnn4", RECIPE, 1, DEFAULT), events.where(~never, 4.0)
    )
    zero = Pruning(never_learned="zero")
    assert torch.equal(forgetting.score(few_digits, "cnn4", RECIPE, 1, zero), events)


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
    assert counter.counts(never_learned=0).tolist() == [2, 0, 0]


def test_aum_agrees_with_its_definition(few_digits):
    history = [[] for _ in range(200)]

    def note(batch, logits):
        for i, row in zip(batch.tolist(), logits.cpu(), strict=True):
            label = int(few_digits.labels[i])
            others = [float(logit) for c, logit in enumerate(row) if c != label]
            history[i].append(float(row[label]) - max(others))

    train(_proxy(few_digits, 1, on_batch=note))
    expected = torch.tensor([-sum(margins) / 4 for margins in history])
    values = aum.score(few_digits, "cnn4", RECIPE, 1, DEFAULT)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_margins_are_negative_where_another_class_wins():
    logits = torch.tensor([[3.0, 1.0, -2.0], [3.0, 1.0, -2.0], [3.0, 1.0, -2.0]])
    assert aum.margins(logits, torch.tensor([0, 1, 2])).tolist() == [2.0, -2.0, -5.0]


@pytest.mark.parametrize("method", [aum, forgetting])
def test_what_watches_a_training_needs_an_epoch_and_says_so(few_digits, method):
    """Or samples that were never seen would count as never learned."""
    recipe = Recipe(iterations=6, batch_size=32)
    with pytest.raises(ValueError, match=r"6 end before all 200 samples .* allowed: 7 or more"):
        method.score(few_digits, "cnn4", recipe, 0, DEFAULT)


def test_aum_of_a_partial_last_epoch_is_a_mean_over_what_was_seen(few_digits):
    recipe = Recipe(iterations=10, batch_size=32, lr=0.05)
    assert torch.isfinite(aum.score(few_digits, "cnn4", recipe, 0, DEFAULT)).all()


def test_random_ranking_is_the_trial_seeds_own():
    one, two, other = (random.draw_scores(50, seed) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len(one.unique()) == 50


def _spec(method="el2n", seeds=2, **changes):
    values = {
        "dataset": ImageDataset(name="digits", subset=0.2),
        "method": method,
        "architecture": "cnn4",
        "recipe": Recipe(epochs=2),
        "seeds": seeds,
    }
    return ScoresSpec(**values | changes)


class TestSeeds:
    """Seeds are scored apart and combined."""

    @pytest.mark.parametrize("method", ["el2n", "grand", "aum"])
    def test_scores_are_the_mean_over_seeds(self, method, tmp_path):
        spec = _spec(method, seeds=3)
        splits = datasets.load(spec.dataset)
        parts = [METHODS[method](splits, "cnn4", spec.recipe, i, DEFAULT) for i in range(3)]
        torch.testing.assert_close(scores.load_scores(spec, tmp_path), sum(parts) / 3)

    def test_forgetting_events_are_summed_over_seeds(self, tmp_path):
        spec = _spec("forgetting", seeds=3)
        splits = datasets.load(spec.dataset)
        parts = [forgetting.score(splits, "cnn4", spec.recipe, i, DEFAULT) for i in range(3)]
        assert torch.equal(scores.load_scores(spec, tmp_path), sum(parts))

    def test_options_reach_the_scoring(self, tmp_path):
        spec = _spec("grand", seeds=1, options=Pruning(gradient="last"))
        splits = datasets.load(spec.dataset)
        expected = grand.score(splits, "cnn4", spec.recipe, 0, Pruning(gradient="last"))
        assert torch.equal(scores.load_scores(spec, tmp_path), expected)

    def test_an_interrupted_scoring_goes_on(self, tmp_path, monkeypatch):
        spec = _spec(seeds=3)
        scored = []

        def fail_once(splits, architecture, recipe, index, options, progress=None):
            scored.append(index)
            if scored == [0, 1]:
                raise KeyboardInterrupt
            return el2n.score(splits, architecture, recipe, index, options, progress)

        monkeypatch.setitem(METHODS, "el2n", fail_once)
        with pytest.raises(KeyboardInterrupt):
            scores.make_scores(spec, tmp_path)
        (interrupted, _) = scores.make_scores(spec, tmp_path)
        assert scored == [0, 1, 1, 2]
        monkeypatch.undo()
        (undisturbed, _) = scores.make_scores(spec, tmp_path / "anew")
        assert torch.equal(interrupted["scores"], undisturbed["scores"])

    def test_seeds_prepared_elsewhere_are_only_combined(self, tmp_path, monkeypatch):
        spec = _spec(seeds=2)
        parts = [scores.score_seed(spec, index, tmp_path) for index in (1, 0)]
        assert all(cache.exists(tmp_path, scores.seed_key(spec, index)) for index in (0, 1))
        monkeypatch.setitem(METHODS, "el2n", None)  # nothing could be scored any more
        monkeypatch.setattr("trainables.pruning.methods.find", lambda name: None)
        assert torch.equal(scores.load_scores(spec, tmp_path), scores.combine(spec, parts))

    def test_progress_counts_the_epochs_of_all_seeds(self, tmp_path):
        seen = []
        scores.make_scores(
            _spec("aum", seeds=2), tmp_path, lambda done, total: seen.append((done, total))
        )
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_a_missing_seed_is_noticed(self):
        with pytest.raises(ValueError, match="scores of el2n need 2 seeds, got 1"):
            scores.combine(_spec(seeds=2), [torch.zeros(3)])


def test_metadata_tells_what_was_scored(tmp_path):
    (entry, metadata) = scores.make_scores(_spec(seeds=1), tmp_path)
    assert metadata["samples"] == str(len(entry["scores"]))
    assert float(metadata["maximum"]) == entry["scores"].max().item()
    assert ScoresSpec.model_validate_json(metadata["spec"]) == _spec(seeds=1)


@pytest.mark.parametrize("method", ["random", "ccs", "grandest"])
def test_methods_without_fixed_scores_say_so(method, tmp_path):
    with pytest.raises(ValueError, match="forgetting, el2n, grand, aum"):
        scores.make_scores(_spec(method), tmp_path)


OWN = """
import torch

def by_ink(splits, architecture, recipe, index, options, progress=None):
    return splits.images.double().mean(dim=(1, 2, 3)) + index

def short(splits, architecture, recipe, index, options, progress=None):
    return torch.zeros(3)

def unfinished(splits, architecture, recipe, index, options, progress=None):
    return torch.full((len(splits.labels),), torch.nan)

def listed(splits, architecture, recipe, index, options, progress=None):
    return [0.0] * len(splits.labels)
"""


class TestUsersOwn:
    """A scoring function of the user's is called like ours, and its result checked."""

    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        (tmp_path / "own_scores.py").write_text(OWN)
        monkeypatch.setenv("KDCURVE_PATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)

    def test_it_is_averaged_over_seeds(self, tmp_path):
        spec = _spec("own_scores:by_ink", seeds=3)
        ink = datasets.load(spec.dataset).images.float().mean(dim=(1, 2, 3))
        values = scores.load_scores(spec, tmp_path)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, ink + 1)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("short", r"scores of own_scores:short are of shape \[3\]; allowed: \[\d+\]"),
            ("unfinished", r"\d+ of the \d+ scores of own_scores:unfinished are not finite"),
            ("listed", "scores of own_scores:listed are a list; allowed: a tensor"),
            ("absent", "own_scores has no function 'absent'"),
        ],
    )
    def test_what_is_wrong_is_said(self, function, message, tmp_path):
        spec = _spec(f"own_scores:{function}")
        with pytest.raises(ValueError, match=message):
            scores.make_scores(spec, tmp_path / "cache")
        assert not list(tmp_path.glob("cache/*"))

    def test_it_is_found_by_name(self):
        assert find("own_scores:by_ink").__name__ == "by_ink"

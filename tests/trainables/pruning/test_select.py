import pytest
import torch

from trainables import cache, datasets
from trainables.config import (
    ImageDataset,
    Pruning,
    Recipe,
    TrialConfig,
    scores_spec,
)
from trainables.pruning import scores
from trainables.pruning.ranking import easiest, hardest
from trainables.pruning.select import keep, kept_samples, lost_classes, proportional
from trainables.sizes import count_kept

FRACTIONS = [0.001, 0.01, 0.1, 1 / 3, 0.5, 0.9, 0.99, 1.0]


def _random(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def _labels(samples, seed=0):
    """Classes of very different sizes."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(samples, generator=rng).square() * 7).long()


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("samples", [1, 2, 7, 150, 1293])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("choose", [hardest, easiest])
def test_exact_count_in_order(choose, balanced, samples, fraction):
    labels = _labels(samples) if balanced else None
    kept = keep(_random(samples), fraction, choose, labels)
    assert kept.dtype == torch.int64
    assert len(kept) == count_kept(samples, fraction)
    assert (kept.diff() > 0).all()
    assert kept.min() >= 0
    assert kept.max() < samples


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_either_end_of_the_ranking(fraction):
    values = _random(150)
    for choose, sign in ((hardest, 1), (easiest, -1)):
        kept = keep(values, fraction, choose)
        dropped = torch.ones(150, dtype=torch.bool)
        dropped[kept] = False
        assert not dropped.any() or (sign * values[kept]).min() > (sign * values[dropped]).max()


class TestTies:
    """Samples that score the same."""

    def test_are_not_kept_for_their_place(self):
        kept = keep(torch.zeros(1000), 0.5)
        assert 200 < (kept < 500).sum() < 300  # half of a fair draw, 6 standard deviations wide

    def test_are_kept_the_same_every_time_and_within_larger_fractions(self):
        values = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(0)).float()
        assert torch.equal(keep(values, 0.3), keep(values, 0.3))
        assert set(keep(values, 0.3).tolist()) < set(keep(values, 0.6).tolist())

    def test_never_go_before_harder_ones(self):
        values = torch.tensor([0.0, 1.0, 0.0, 2.0, 1.0, 0.0])
        assert {1, 3, 4} < set(keep(values, 4 / 6).tolist())


def test_reordered_samples_keep_the_same_ones():
    values, order = _random(80), torch.randperm(80, generator=torch.Generator().manual_seed(1))
    assert torch.equal(order[keep(values[order], 0.3)].sort().values, keep(values, 0.3))


def test_smaller_fractions_lie_within_larger_ones():
    values = _random(80)
    assert set(keep(values, 0.2).tolist()) < set(keep(values, 0.4).tolist())


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        keep(torch.tensor([1.0, float("nan")]), 0.5)


class TestBalanced:
    """Every class in proportion."""

    @pytest.mark.parametrize("fraction", FRACTIONS)
    def test_every_class_is_within_one_of_its_share(self, fraction):
        labels = _labels(1293)
        kept = keep(_random(1293), fraction, hardest, labels)
        share = torch.bincount(labels) * (count_kept(1293, fraction) / 1293)
        assert ((torch.bincount(labels[kept], minlength=7) - share).abs() < 1).all()

    def test_of_each_class_the_hardest(self):
        values, labels = _random(300), _labels(300)
        kept = keep(values, 0.4, hardest, labels)
        dropped = torch.ones(300, dtype=torch.bool)
        dropped[kept] = False
        for label in range(7):
            of_class = values[kept][labels[kept] == label]
            assert of_class.min() > values[dropped & (labels == label)].max()

    def test_places_left_go_to_the_largest_remainders(self):
        # Shares 2.8, 1.2 and 1.0 of 5.
        assert proportional(torch.tensor([0] * 14 + [1] * 6 + [2] * 5), 5) == [3, 1, 1]

    @pytest.mark.parametrize("fraction", FRACTIONS)
    def test_classes_get_what_a_stratified_random_draw_gives_them(self, fraction):
        labels = _labels(1293)
        count = count_kept(1293, fraction)
        drawn = datasets.stratified(labels, count, torch.Generator().manual_seed(0))
        assert torch.bincount(labels[drawn], minlength=7).tolist() == proportional(labels, count)

    def test_of_equal_remainders_the_lower_class_comes_first(self):
        assert proportional(torch.tensor([0, 0, 1, 1, 2, 2]), 4) == [2, 1, 1]

    def test_a_class_without_samples_gets_no_place(self):
        assert proportional(torch.tensor([0, 0, 2, 2]), 2) == [1, 0, 1]


class TestLostClasses:
    """Hard samples may all be of some classes: allowed, but told."""

    def test_are_counted(self):
        values, labels = torch.arange(12.0), torch.arange(12) // 3
        kept = keep(values, 0.4)  # 5 hardest: classes 3 and 2
        assert lost_classes(kept, labels) == 2
        assert lost_classes(keep(values, 1.0), labels) == 0

    def test_balance_prevents_them_while_places_last(self):
        values, labels = torch.arange(12.0), torch.arange(12) // 3
        assert lost_classes(keep(values, 0.4, hardest, labels), labels) == 0
        assert lost_classes(keep(values, 0.1, hardest, labels), labels) == 3

    def test_classes_that_were_never_there_do_not_count(self):
        assert lost_classes(torch.tensor([0, 1]), torch.tensor([0, 5])) == 0


DATA = ImageDataset(name="digits", label_noise=0.2)


def _trial(**changes):
    values = {
        "dataset": DATA,
        "student": "cnn4",
        "teacher": "cnn8",
        "method": "el2n",
        "recipe": Recipe(epochs=1, batch_size=64, lr=0.05),
        "fraction": 0.3,
        "kd_weight": 0.5,
        "seed": 1,
        "score_seeds": 1,
    }
    return TrialConfig(**values | changes)


class TestKeptSamples:
    """A trial's configuration decides what it keeps."""

    def test_exact_count_by_every_method(self, tmp_path):
        splits = datasets.load(DATA)
        own = tmp_path / "own.csv"
        own.write_text("score\n" + "\n".join(map(str, range(len(splits.labels)))))
        for method in ("random", "forgetting", "el2n", "grand", "aum", "ccs", f"file:{own}"):
            kept = kept_samples(_trial(method=method), splits, tmp_path)
            assert len(kept) == count_kept(len(splits.labels), 0.3), method
        assert kept.min() == len(splits.labels) - len(kept)  # the file's hardest come last

    def test_options_decide_on_the_end_and_the_balance(self, tmp_path):
        splits = datasets.load(DATA)
        trial = _trial()
        values = scores.load_scores(scores_spec(trial), tmp_path)
        for options, expected in (
            (Pruning(), keep(values, 0.3, hardest)),
            (Pruning(keep="easiest"), keep(values, 0.3, easiest)),
            (Pruning(balanced=True), keep(values, 0.3, hardest, splits.labels)),
        ):
            kept = kept_samples(_trial(pruning=options), splits, tmp_path)
            assert torch.equal(kept, expected)
        assert len(list(tmp_path.glob("scores-*"))) == 2  # one ranking, and its one seed's

    def test_a_balanced_random_subset_is_in_proportion(self, tmp_path):
        splits = datasets.load(DATA)
        trial = _trial(method="random", pruning=Pruning(balanced=True))
        kept = kept_samples(trial, splits, tmp_path)
        expected = proportional(splits.labels, len(kept))
        assert torch.bincount(splits.labels[kept]).tolist() == expected

    @pytest.mark.parametrize("base", ["forgetting", "el2n", "grand", "aum"])
    def test_ccs_shares_the_scores_of_its_base(self, base, tmp_path):
        options = Pruning(base=base, gradient="last", never_learned="zero")
        plain, ccs = (_trial(method=method, pruning=options) for method in (base, "ccs"))
        assert scores_spec(plain) == scores_spec(ccs)

    def test_ccs_draws_by_the_trials_seed(self, tmp_path):
        splits = datasets.load(DATA)
        one, two, other = (
            kept_samples(_trial(method="ccs", seed=seed), splits, tmp_path) for seed in (1, 1, 2)
        )
        assert torch.equal(one, two)
        assert not torch.equal(one, other)

    def test_ccs_leaves_the_hardest_out_and_fewer_mislabelled_in(self, tmp_path):
        splits = datasets.load(DATA)
        trial = _trial(
            method="ccs", recipe=Recipe(epochs=5, lr=0.05), pruning=Pruning(hardest_share=0.25)
        )
        kept = kept_samples(trial, splits, tmp_path)
        values = scores.load_scores(scores_spec(trial), tmp_path)
        quarter = hardest(values, len(values) // 4)
        assert not set(quarter.tolist()) & set(kept.tolist())
        wrong = splits.labels != splits.clean_labels
        plain = keep(values, 0.3)
        assert wrong[kept].float().mean() < 0.5 * wrong[plain].float().mean()

    def test_ccs_may_be_balanced(self, tmp_path):
        splits = datasets.load(DATA)
        trial = _trial(method="ccs", pruning=Pruning(balanced=True))
        kept = kept_samples(trial, splits, tmp_path)
        expected = proportional(splits.labels, len(kept))
        assert torch.bincount(splits.labels[kept]).tolist() == expected

    def test_an_unknown_method_lists_the_known_ones(self, tmp_path):
        with pytest.raises(ValueError, match=r"'grandest' has no fixed scores.*forgetting, el2n"):
            kept_samples(_trial(method="grandest"), datasets.load(DATA), tmp_path)

    def test_scores_in_the_cache_are_not_made_again(self, tmp_path):
        spec = scores_spec(_trial())
        planted = torch.arange(float(len(datasets.load(DATA).labels)))
        cache.store(tmp_path, spec.key, {scores.SCORES: planted}, {})
        kept = kept_samples(_trial(), datasets.load(DATA), tmp_path)
        assert torch.equal(kept, planted.long()[-len(kept) :])

import pytest
import torch

from trainables.pruning.select import keep
from trainables.sizes import count_kept


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99, 1.0])
def test_exact_count_of_the_hardest_in_order(fraction):
    scores = torch.randperm(150, generator=torch.Generator().manual_seed(0)).float()
    kept = keep(scores, fraction)
    assert kept.dtype == torch.int64
    assert len(kept) == count_kept(150, fraction)
    assert torch.equal(kept, kept.sort().values)
    dropped = torch.ones(150, dtype=torch.bool)
    dropped[kept] = False
    assert not dropped.any() or scores[kept].min() > scores[dropped].max()


def test_ties_go_to_the_lower_index():
    assert keep(torch.tensor([1.0, 2.0, 1.0, 1.0]), 0.5).tolist() == [0, 1]


def test_reordered_samples_keep_the_same_ones():
    rng = torch.Generator().manual_seed(1)
    scores, order = torch.rand(80, generator=rng), torch.randperm(80, generator=rng)
    assert torch.equal(order[keep(scores[order], 0.3)].sort().values, keep(scores, 0.3))


def test_smaller_fractions_lie_within_larger_ones():
    scores = torch.rand(80, generator=torch.Generator().manual_seed(2))
    assert set(keep(scores, 0.2).tolist()) < set(keep(scores, 0.4).tolist())


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        keep(torch.tensor([1.0, float("nan")]), 0.5)

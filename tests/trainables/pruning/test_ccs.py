import math

import pytest
import torch

from trainables.pruning.ccs import choose
from trainables.pruning.ranking import hardest

SHAPES = {
    "normal": lambda n, rng: torch.randn(n, generator=rng),
    "skewed": lambda n, rng: torch.rand(n, generator=rng).pow(6),
    "negative": lambda n, rng: -1 - torch.rand(n, generator=rng),
    "counts": lambda n, rng: torch.randint(0, 11, (n,), generator=rng).float(),
    "constant": lambda n, rng: torch.full((n,), 2.5),
}


def _scores(shape, samples, seed=0):
    return SHAPES[shape](samples, torch.Generator().manual_seed(seed))


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _algorithm_1(scores, budget, hardest_share, strata):
    """Budgets of the strata, line by line as the paper has them, and what they hold.

    Zheng et al. 2023, algorithm 1. Returns a list of (members, budget), easiest stratum first.
    """
    ranked = sorted(range(len(scores)), key=lambda i: scores[i])
    rest = ranked[: len(scores) - math.floor(len(scores) * hardest_share)]
    low, high = scores[rest[0]], scores[rest[-1]]
    edges = [low + (high - low) * k / strata for k in range(strata)] + [math.inf]
    left = {k: [i for i in rest if edges[k] <= scores[i] < edges[k + 1]] for k in range(strata)}
    result = {}
    m = budget
    while left:
        k_min = min(left, key=lambda k: (len(left[k]), k))
        m_b = min(len(left[k_min]), math.floor(m / len(left)))
        result[k_min] = (left[k_min], m_b)
        m -= m_b
        del left[k_min]
    return [result[k] for k in range(strata)]


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "constant"])
@pytest.mark.parametrize("count", [1, 30, 99, 250, 400, 480])
@pytest.mark.parametrize("hardest_share", [0.0, 0.04])
@pytest.mark.parametrize("strata", [2, 10, 50])
def test_strata_give_what_the_papers_algorithm_allots(shape, count, hardest_share, strata):
    scores = _scores(shape, 500)
    if shape == "counts":
        hardest_share = 0.0  # which of many equals are left out is nobody's to say
    chosen = choose(scores, count, strata=strata, hardest_share=hardest_share, rng=_rng())
    kept = set(chosen.tolist())
    total = 0
    for members, budget in _algorithm_1(scores.double().tolist(), count, hardest_share, strata):
        assert len(kept & set(members)) == budget
        total += budget
    assert total == count == len(kept)


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("samples", [1, 2, 13, 500])
@pytest.mark.parametrize("strata", [2, 50])
@pytest.mark.parametrize("hardest_share", [0.0, 0.1, 0.9])
def test_exact_count_without_repetition(shape, samples, strata, hardest_share):
    scores = _scores(shape, samples)
    for count in {0, 1, samples // 3, samples // 2, samples - 1, samples}:
        chosen = choose(scores, count, strata=strata, hardest_share=hardest_share, rng=_rng())
        assert chosen.dtype == torch.int64
        assert len(chosen) == len(set(chosen.tolist())) == count


def test_a_class_without_samples_gives_none():
    empty = torch.empty(0)
    assert len(choose(empty, 0, strata=5, hardest_share=0.1, rng=_rng())) == 0


def test_the_hardest_are_left_out():
    scores = _scores("normal", 500)
    chosen = choose(scores, 200, strata=50, hardest_share=0.3, rng=_rng())
    assert not set(chosen.tolist()) & set(hardest(scores, 150).tolist())


def test_fewer_are_left_out_where_the_count_needs_them():
    scores = _scores("normal", 500)
    chosen = choose(scores, 480, strata=50, hardest_share=0.3, rng=_rng())
    assert set(chosen.tolist()) == set(range(500)) - set(hardest(scores, 20).tolist())


def test_every_difficulty_is_there_unlike_in_a_random_draw():
    scores = _scores("skewed", 5000)  # nearly all of them easy
    chosen = choose(scores, 100, strata=10, hardest_share=0.0, rng=_rng())
    low, high = scores.min(), scores.max()
    stratum = ((scores[chosen] - low) / (high - low) * 10).long().clamp(max=9)
    assert torch.bincount(stratum, minlength=10).tolist() == [10] * 10


def test_members_of_a_stratum_are_equally_likely():
    scores = torch.tensor([0.0] * 10 + [1.0] * 10)
    times = torch.zeros(20)
    rng = _rng()
    for _ in range(1000):
        times[choose(scores, 8, strata=2, hardest_share=0.0, rng=rng)] += 1
    assert ((times - 400).abs() < 80).all()  # 400 expected, more than 5 standard deviations


def test_whole_numbers_on_a_border_belong_to_the_stratum_above():
    scores = torch.arange(11.0)
    # Ten strata of width 1: 0 to 9 stand alone, only 10 joins 9.
    seen = set()
    for seed in range(20):
        chosen = choose(scores, 10, strata=10, hardest_share=0.0, rng=_rng(seed)).tolist()
        assert set(range(9)) < set(chosen)
        seen |= set(chosen)
    assert seen == set(range(11))

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis.early import missed_best, rank_agreement, settled_share, spared


def crossing(epochs, settled):
    """Three curves in reverse order before an epoch and in their final order from it on."""
    final = np.array([[1.0], [2.0], [3.0]]) + np.zeros(epochs)
    return np.where(np.arange(1, epochs + 1) < settled, -final, final)


@pytest.mark.parametrize("settled", [1, 2, 7, 20])
def test_the_epoch_is_found_from_which_on_ranks_are_the_final_ones(settled):
    agreement = rank_agreement([crossing(20, settled)] * 4)
    assert agreement.groups == 4
    assert settled_share(agreement) == pytest.approx(settled / 20)


def test_an_agreement_that_is_lost_again_does_not_count():
    curves = crossing(20, 3)
    curves[:, 10] = -curves[:, 10]
    assert settled_share(rank_agreement([curves])) == pytest.approx(12 / 20)


def test_correlations_are_those_of_scipy_ties_included():
    scores = np.random.default_rng(0).integers(0, 4, (6, 9)).astype(float)
    agreement = rank_agreement([scores])
    for epoch in range(8):
        expected = spearmanr(scores[:, epoch], scores[:, -1]).statistic
        assert agreement.correlation[epoch] == pytest.approx(expected)
    assert agreement.correlation[-1] == 1.0


def test_groups_that_end_all_the_same_have_no_say_and_a_standstill_agrees_with_nothing():
    flat = np.ones((3, 20))
    assert rank_agreement([flat]).groups == 0
    assert settled_share(rank_agreement([flat])) == 1.0 / 1
    late = crossing(20, 1)
    late[:, :5] = 0.0
    assert settled_share(rank_agreement([late, flat])) == pytest.approx(6 / 20)


def test_budgets_of_different_lengths_are_compared_at_the_same_share():
    agreement = rank_agreement([crossing(20, 10), crossing(40, 20), crossing(10, 5)])
    assert settled_share(agreement) == pytest.approx(0.5)


def test_a_budget_too_short_for_a_position_has_no_say_in_it():
    """A single epoch is the end itself: it must not make the others look settled."""
    short = np.array([[1.0], [2.0], [3.0]])
    long = crossing(10, 8)
    assert settled_share(rank_agreement([short] * 50 + [long])) == pytest.approx(0.8)


def test_long_budgets_are_looked_at_in_a_hundred_places():
    agreement = rank_agreement([crossing(1000, 301)])
    assert len(agreement.share) == 100
    assert settled_share(agreement) == pytest.approx(0.31)


def test_what_stopping_would_have_cost_is_counted_by_hand():
    """Of four, the best two thirds' worth go on; in the second group the best one is behind."""
    agrees = np.array([[1.0, 0.90], [2.0, 0.91], [3.0, 0.92], [4.0, 0.93]])
    loses = np.array([[1.0, 0.95], [2.0, 0.91], [3.0, 0.92], [4.0, 0.93]])
    cost = missed_best([agrees, loses], [1, 1], 2 / 3)
    assert (cost.groups, cost.missed) == (2, 1)
    assert cost.points == pytest.approx(100 * (0.95 - 0.93) / 2)
    at_the_end = missed_best([agrees, loses], [2, 2], 2 / 3)
    assert (at_the_end.missed, at_the_end.points) == (0, 0.0)


def test_groups_of_equal_scores_lose_nothing():
    assert missed_best([np.ones((3, 2))], [1], 2 / 3) == (1, 0, 0.0)
    assert missed_best([], [], 0.5) == (0, 0, 0.0)


def test_what_is_spared_is_a_share_of_what_would_have_been_trained():
    trained, whole = np.array([90.0, 30.0, 10.0]), np.array([90.0, 90.0, 40.0])
    stopped = np.array([False, True, False])  # the last one failed: nothing was spared by that
    assert spared(trained, whole, stopped) == pytest.approx(60 / 190)
    assert spared(trained[:0], whole[:0], stopped[:0]) == 0.0

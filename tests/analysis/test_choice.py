import numpy as np
import pytest

from analysis.choice import choose, compare
from analysis.document import HeldOut
from analysis.laws import LAWS, SIMPLEST


def held_out(lost, fraction=0.3, inside=True):
    weights = dict.fromkeys(LAWS, 0.5)
    return HeldOut(
        method="random", teacher="t", fraction=fraction, inside=inside, kd_weight=weights, lost=lost
    )


def records(rng, advantage, n=10, noise=0.002):
    """The simplest loses about .005; the surface less by `advantage`, the others the same."""
    made = []
    for _ in range(n):
        base = 0.005 + noise * rng.standard_normal()
        lost = {name: base + noise * rng.standard_normal() for name in LAWS}
        made.append(held_out({**lost, "surface": lost["surface"] - advantage}))
    return made


def test_regrets_inside_and_past_the_ends_are_told_apart():
    lost = {name: 0.01 * (i + 1) for i, name in enumerate(LAWS)}
    ends = dict.fromkeys(LAWS, 0.1)
    found = compare([held_out(lost), held_out(lost), held_out(ends, 0.9, inside=False)])
    assert [each.family for each in found] == list(LAWS)
    assert [each.inside for each in found] == pytest.approx(list(lost.values()))
    assert {each.ends for each in found} == {0.1}
    assert (found[0].n_inside, found[0].n_ends) == (2, 1)
    assert found[1].difference == pytest.approx(0.01)
    assert found[1].error == pytest.approx(0.0)


def test_a_family_that_loses_clearly_less_is_chosen():
    family, why = choose(compare(records(np.random.default_rng(0), 0.004)))
    assert family == "surface"
    assert "it lost clearly less than clipped-log-linear at 10 held-out fractions" in why


def test_noise_seldom_moves_the_choice_from_the_simplest():
    """Three families as good as the simplest, differences of about a tenth of a point."""
    rng = np.random.default_rng(0)
    chosen = [choose(compare(records(rng, 0.0)))[0] for _ in range(200)]
    assert chosen.count(SIMPLEST) > 130


def test_what_counts_as_equally_good_does_not_move_it_however_sure():
    sure = compare(records(np.random.default_rng(0), 0.0008, noise=0.00001))
    assert sure[-1].difference < -50 * sure[-1].error
    assert choose(sure)[0] == SIMPLEST


def test_one_difference_is_no_evidence():
    family, why = choose(compare(records(np.random.default_rng(0), 0.5, n=1)))
    assert family == SIMPLEST
    assert "cannot tell families apart" in why


def test_nothing_compared_is_the_simplest_family():
    assert compare([]) == []
    assert choose([])[0] == SIMPLEST

import math

import numpy as np
import pytest

from analysis.paired import holm, paired_t


def test_the_interval_is_students():
    """By hand: mean 2, s = 1, se = 1/√3; t(.95, 2) = 2.919986; p from t = 3.4641 with 2 df."""
    gain = paired_t([1.0, 2.0, 3.0], 0.9)
    assert gain.value == 2.0
    assert gain.high - 2.0 == pytest.approx(2.919986 / math.sqrt(3), abs=1e-6)
    assert 2.0 - gain.low == pytest.approx(gain.high - 2.0)
    assert gain.p == pytest.approx(0.0741799, abs=1e-6)
    assert gain.n == 3


def test_the_interval_ends_at_0_where_p_is_1_less_the_level():
    differences = np.array([0.3, 1.1, -0.2, 0.7])
    p = paired_t(differences).p
    at = paired_t(differences, 1.0 - p)
    assert at.low == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("differences", [[], [0.5], [0.5, 0.5, 0.5], [0.0, 0.0]])
def test_what_does_not_vary_has_no_interval_and_no_p(differences):
    gain = paired_t(differences)
    assert math.isnan(gain.low)
    assert math.isnan(gain.high)
    assert math.isnan(gain.p)
    assert gain.n == len(differences)
    assert math.isnan(gain.value) if not differences else gain.value == differences[0]


def test_holm_by_hand():
    """.01 × 3, then .03 × 2, then .04 × 1, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_stops_at_1_and_counts_only_tests():
    adjusted = holm([0.6, np.nan, 0.5])
    assert adjusted[[0, 2]] == pytest.approx([1.0, 1.0])
    assert math.isnan(adjusted[1])
    assert holm([np.nan, 0.04]) == pytest.approx([np.nan, 0.04], nan_ok=True)


def test_without_any_gain_holm_finds_one_in_as_many_families_as_promised():
    """400 families of 20 true null hypotheses: a false finding in 10% of them, not in 88%."""
    rng = np.random.default_rng(0)
    found = plain = 0
    for _ in range(400):
        p = np.array([paired_t(rng.normal(size=5)).p for _ in range(20)])
        found += bool((holm(p) <= 0.1).any())
        plain += bool((p <= 0.1).any())
    assert 0.06 < found / 400 < 0.14
    assert plain / 400 > 0.8

import numpy as np
import pytest

from analysis.families import FAMILIES
from analysis.laws import LAWS, band, interpolated, outside

KNOTS = {"fractions": (0.1, 0.4, 0.9), "values": (1.0, 0.5, 0.2)}
LINE = {"intercept": 0.2, "slope": -0.3}
PARAMETERS = {
    "clipped-log-linear": LINE,
    "logistic": LINE,
    "isotonic": KNOTS,
    "surface": KNOTS,
}


@pytest.mark.parametrize("family", LAWS)
def test_a_law_keeps_the_shape_and_stays_in_range(family):
    fraction = np.geomspace(1e-4, 1, 12).reshape(3, 4)
    weights = LAWS[family](fraction, **PARAMETERS[family])
    assert weights.shape == (3, 4)
    assert np.all((weights >= 0) & (weights <= 1))
    assert np.all(np.diff(weights.ravel()) <= 0)  # all of these fall


def test_families_are_the_laws_in_the_same_order():
    assert list(FAMILIES) == list(LAWS)


def test_values_by_hand():
    half = np.array(0.5)
    assert LAWS["clipped-log-linear"](half, **LINE) == pytest.approx(0.2 + 0.3 * np.log(2))
    assert LAWS["logistic"](half, **LINE) == pytest.approx(1 / (1 + np.exp(-0.2 - 0.3 * np.log(2))))
    # Half way between the knots in ln f.
    assert interpolated(np.array(0.2), **KNOTS) == pytest.approx(0.75)


def test_beyond_the_knots_a_law_is_level():
    assert list(interpolated(np.array([0.01, 0.95, 1.0]), **KNOTS)) == [1.0, 0.2, 0.2]


def test_a_fraction_that_went_through_text_is_still_inside():
    assert not outside(np.array([0.1 - 1e-12, 0.9 + 1e-12]), 0.1, 0.9).any()
    assert outside(np.array([0.0999, 0.9001]), 0.1, 0.9).all()


def test_a_band_knows_nothing_below_its_knots_or_without_any():
    knots = {"fractions": (0.1, 1.0), "low": (0.4, 0.1), "high": (0.8, 0.3)}
    low, high = band(knots, np.array([0.05, 0.1, 1.0]))
    assert list(low) == [0.0, 0.4, 0.1]
    assert list(high) == [1.0, 0.8, 0.3]
    assert np.isnan(band(None, np.array([0.5]))).all()

import numpy as np
import pytest

from analysis.bands import fit_band
from analysis.estimators import Estimate
from analysis.families import FAMILIES, Evidence
from analysis.laws import LAWS

FRACTION = np.array([0.05, 0.1, 0.2, 0.4, 0.9])
Z = 1.645


def evidence(weight, half=0.05, fraction=FRACTION, grid=None, predict=None):
    weight = np.asarray(weight)
    half = np.broadcast_to(half, weight.shape)
    low, high = np.clip(weight - half, 0, 1), np.clip(weight + half, 0, 1)
    grid = np.geomspace(0.01, 1, 9) if grid is None else grid
    return Evidence(fraction, weight, low, high, grid, predict)


@pytest.mark.parametrize("family", ["clipped-log-linear", "logistic"])
@pytest.mark.parametrize("line", [(0.1, -0.3), (-0.2, -0.6), (0.9, 0.2)])
def test_a_planted_law_is_recovered(family, line):
    planted = {"intercept": line[0], "slope": line[1]}
    weight = LAWS[family](FRACTION, **planted)
    assert FAMILIES[family](evidence(weight)) == pytest.approx(planted, abs=1e-3)


@pytest.mark.parametrize("family", ["clipped-log-linear", "logistic", "isotonic"])
def test_answers_that_are_all_at_one_end_give_a_law_there(family):
    law = FAMILIES[family](evidence(np.ones(5)))
    assert LAWS[family](FRACTION, **law) == pytest.approx(np.ones(5), abs=0.03)


def test_a_sure_answer_counts_more():
    weight = np.array([0.9, 0.7, 0.5, 0.3, 0.9])
    unsure = evidence(weight, np.array([0.05, 0.05, 0.05, 0.05, 0.5]))
    law = LAWS["clipped-log-linear"](FRACTION, **FAMILIES["clipped-log-linear"](unsure))
    assert law[:4] == pytest.approx(weight[:4], abs=0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_data_choose_the_direction_of_a_monotone_law(sign):
    weight = 0.5 + sign * np.array([-0.3, -0.1, -0.15, 0.1, 0.3])
    law = FAMILIES["isotonic"](evidence(weight))
    assert np.all(sign * np.diff(law["values"]) >= 0)
    assert law["values"][1] == law["values"][2] == pytest.approx(0.5 - sign * 0.125)
    # Between fractions it is interpolated.
    between = LAWS["isotonic"](np.array(0.6), **law)
    assert min(law["values"][3:]) < between < max(law["values"][3:])


def test_the_surface_is_asked_on_the_grid():
    grid = np.array([0.02, 0.3, 1.0])
    law = FAMILIES["surface"](evidence(np.ones(5), grid=grid, predict=lambda f: Estimate(f, 0, 1)))
    assert law == {"fractions": [0.02, 0.3, 1.0], "values": [0.02, 0.3, 1.0]}


@pytest.mark.parametrize(
    ("family", "misfit"),
    [
        ("clipped-log-linear", 0.0),
        ("clipped-log-linear", 0.08),
        ("logistic", 0.08),
        ("isotonic", 0.0),  # it follows the answers: what it misses does not show in residuals
    ],
)
def test_bands_hold_the_truth_about_as_often_as_they_say(family, misfit):
    """Truths scatter around a law by `misfit`, answers around truths by what intervals say."""
    rng = np.random.default_rng(1)
    fraction = np.geomspace(0.05, 0.9, 7)
    held = []
    for _ in range(60):
        line = {"intercept": rng.uniform(0.1, 0.3), "slope": -rng.uniform(0.1, 0.25)}
        at = np.sort(np.append(fraction, 0.35))
        truth = np.clip(
            LAWS["clipped-log-linear"](at, **line) + misfit * rng.standard_normal(8), 0, 1
        )
        unseen = at == 0.35
        error = rng.uniform(0.02, 0.1, 8)
        answer = np.clip(truth + error * rng.standard_normal(8), 0, 1)
        shown = evidence(answer[~unseen], Z * error[~unseen], fraction, np.array([0.1, 0.35, 0.8]))
        found = fit_band(family, FAMILIES[family](shown), shown, 0.9)
        held.append(found.low[1] <= truth[unseen][0] <= found.high[1])
    assert 0.8 <= np.mean(held) <= 1.0


@pytest.mark.parametrize("family", ["clipped-log-linear", "logistic", "isotonic"])
def test_a_band_widens_with_the_answers_intervals_and_past_the_ends(family):
    weight = 0.2 - 0.2 * np.log(FRACTION)
    bands = {}
    for half in (0.02, 0.15):
        shown = evidence(weight, half)
        found = fit_band(family, FAMILIES[family](shown), shown, 0.9)
        bands[half] = np.array(found.high) - np.array(found.low)
        assert fit_band(family, FAMILIES[family](shown), shown, 0.9) == found
    inside = (shown.grid > 0.05) & (shown.grid < 0.9)
    assert np.all(bands[0.15][inside] > bands[0.02][inside])
    assert bands[0.15][-1] > bands[0.15][inside].min()


def test_the_band_of_a_surface_is_its_own():
    shown = evidence(np.ones(5), predict=lambda f: Estimate(0.5, 0.5 - 0.1 * f, 0.5 + 0.2 * f))
    found = fit_band("surface", FAMILIES["surface"](shown), shown, 0.9)
    assert found.low[-1] == pytest.approx(0.4, abs=1e-3)
    assert found.high[-1] == pytest.approx(0.7, abs=1e-3)

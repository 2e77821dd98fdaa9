import numpy as np
import pytest

from analysis.interpolation import (
    DEFAULT_ERROR,
    MAX_AMPLIFICATION,
    NEAREST,
    InterpolationError,
    Reading,
    basis,
    gap,
    interpolated_nll,
    measure_error,
    pseudo_observations,
    read,
)
from analysis.likelihood import scaled_nll

RNG = np.random.default_rng(1)
LABELS = RNG.integers(0, 5, 300)
PARTS = RNG.normal(size=(3, 300, 5))
PARTS[0][np.arange(300), LABELS] += 2.0


def _logits(kd_weight):
    """Logits that are a parabola in the KD weight."""
    alpha = np.asarray(kd_weight)[:, None, None]
    return PARTS[0] + alpha * PARTS[1] + (alpha - 0.4) ** 2 * 3 * PARTS[2]


def _reading(kd_weight=(), nll=(), gaps=(), level=1.0, left_gap=(), left_error=()):
    columns = (kd_weight, nll, gaps, left_gap, left_error)
    weights, nll, gaps, left_gap, left_error = (np.array(each, float) for each in columns)
    return Reading(weights, nll, gaps, level, left_gap, left_error)


def test_three_anchors_recover_a_parabola_of_logits():
    at = [0.2, 0.4, 0.75]
    found = interpolated_nll(_logits([0.1, 0.5, 0.9]), LABELS, [0.1, 0.5, 0.9], at)
    assert found == pytest.approx(scaled_nll(_logits(at), LABELS), abs=1e-9)


def test_two_anchors_mix_in_proportion():
    assert basis([0.1, 0.9], [0.3]) == pytest.approx(np.array([[0.75, 0.25]]))


@pytest.mark.parametrize("anchors", [[0.1, 0.9], [0.1, 0.4, 0.9], [0.2, 0.3, 0.6, 0.8, 1.0]])
def test_weights_sum_to_one_and_reproduce_lines(anchors):
    at = np.linspace(min(anchors), max(anchors), 9)
    weights = basis(anchors, at)
    assert weights.sum(1) == pytest.approx(1)
    assert weights @ np.array(anchors) == pytest.approx(at)


def test_anchors_close_together_do_not_blow_noise_up():
    """Lagrange's weights for .1, .85, .9 reach 3.2 and -2.8 at .3."""
    at = np.linspace(0.1, 0.9, 9)
    weights = basis([0.1, 0.85, 0.9], at)
    assert (weights**2).sum(1).max() <= MAX_AMPLIFICATION
    assert weights @ np.array([0.1, 0.85, 0.9]) == pytest.approx(at, abs=0.05)


def test_gap_is_one_in_the_middle_of_everything_and_zero_at_anchors():
    assert gap([0.0, 1.0], [0.5, 0.0, 1.0, 0.25]) == pytest.approx([1, 0, 0, 0.75])
    assert gap([0.9, 0.5, 0.1], [0.5, 0.7]) == pytest.approx([0, 0.16])


def test_a_run_without_teacher_is_no_anchor():
    weights = np.array([0.0, 0.1, 0.9])
    spoilt = _logits(weights)
    spoilt[0] *= -7
    found, alone = read(spoilt, LABELS, weights), read(spoilt[1:], LABELS, weights[1:])
    assert np.array_equal(found.nll, alone.nll)
    assert found.kd_weight == pytest.approx([0.3, 0.5, 0.7])
    assert len(found.left_out_gap) == 0


@pytest.mark.parametrize("weights", [[], [0.5], [0.0, 1.0], [0.3, 0.3]])
def test_one_anchor_says_nothing_between(weights):
    found = read(_logits(weights), LABELS, weights)
    assert len(found.kd_weight) == len(found.nll) == len(found.left_out_error) == 0


def test_readings_keep_away_from_the_runs_themselves():
    found = read(_logits([0.1, 0.5, 0.9]), LABELS, [0.1, 0.5, 0.9])
    assert found.kd_weight == pytest.approx([0.3, 0.7])
    close = read(_logits([0.4, 0.4 + NEAREST]), LABELS, [0.4, 0.4 + NEAREST])
    assert len(close.kd_weight) == 0


def test_left_out_runs_are_predicted_from_the_others():
    weights = np.array([0.1, 0.4, 0.9])
    found = read(_logits(weights), LABELS, weights)
    predicted = interpolated_nll(_logits(weights[[0, 2]]), LABELS, weights[[0, 2]], [0.4])
    own = scaled_nll(_logits(weights), LABELS)
    assert found.left_out_error == pytest.approx((predicted - own[1]) / own.mean())
    assert found.left_out_gap == pytest.approx([4 * 0.3 * 0.5])


def test_runs_in_any_order_say_the_same():
    weights, order = np.array([0.1, 0.4, 0.9]), [2, 0, 1]
    found = read(_logits(weights), LABELS, weights)
    shuffled = read(_logits(weights[order]), LABELS, weights[order])
    assert shuffled.nll == pytest.approx(found.nll)
    assert shuffled.left_out_error == pytest.approx(found.left_out_error)


def test_measured_error_finds_a_planted_bias_and_spread():
    rng = np.random.default_rng(0)
    readings = []
    for _ in range(400):
        gaps = rng.uniform(0.2, 1.0, 2)
        errors = gaps * -0.05 + rng.normal(0, 0.02, 2)
        readings.append(_reading(left_gap=gaps, left_error=errors))
    found = measure_error(readings)
    assert found.bias == pytest.approx(-0.05, abs=0.004)
    # The noise, 0.02, counts as if it were spread · gap.
    assert 0.02 < found.spread < 0.04
    assert found.left_out == 800


def test_few_left_out_runs_leave_the_default():
    few = [_reading(left_gap=[1.0], left_error=[0.3])] * 3
    assert measure_error(few) is DEFAULT_ERROR
    assert measure_error([]) is DEFAULT_ERROR


def test_pseudo_observations_by_hand():
    one = _reading([0.3, 0.7], [0.4, 0.5], [0.5, 0.25], level=2.0)
    nothing = _reading()
    error = InterpolationError(bias=-0.1, spread=0.2, left_out=9)
    found = pseudo_observations([3, 4], [7, 8], [one, nothing], error)
    assert found.context.tolist() == [3, 3]
    assert found.seed.tolist() == [7, 7]
    # An ensemble's flattery of 0.1 · gap · level is taken off: the likelihood becomes worse.
    assert found.value == pytest.approx([-0.4 - 0.1, -0.5 - 0.05])
    # Two readings that share an error weigh as one.
    assert found.extra_noise == pytest.approx([2 * (0.2 * 0.5 * 2) ** 2, 2 * (0.2 * 0.25 * 2) ** 2])


def test_no_groups_no_observations():
    found = pseudo_observations([], [], [])
    assert [len(column) for column in found] == [0] * 5

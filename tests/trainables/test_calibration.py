import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from trainables.calibration import expected_calibration_error, scale


def _random(samples, classes, spread, seed=0, right=0.7):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=rng)
    logits = torch.randn(samples, classes, generator=rng)
    hit = torch.rand(samples, generator=rng) < right
    logits[hit, labels[hit]] += 2.0
    return logits * spread, labels


def _perfect():
    labels = torch.arange(10).repeat(5)
    return torch.eye(10)[labels] * 3 + 0.1 * torch.randn(50, 10), labels


def _wrong():
    labels = torch.arange(10).repeat(5)
    return -_perfect()[0], labels


CASES = {
    "sure of itself": _random(300, 10, 20.0),
    "unsure": _random(300, 10, 0.01),
    "a hundred classes": _random(500, 100, 3.0),
    "two classes": _random(200, 2, 1.0),
    "hardly better than chance": _random(300, 10, 1.0, right=0.05),
    "perfect separation": _perfect(),
    "perfect but narrow": (_perfect()[0] * 1e-3, _perfect()[1]),
    "always wrong": _wrong(),
    "one sample, right": (torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([0])),
    "one sample, wrong": (torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([2])),
    "one sample, second": (torch.tensor([[3.0, 2.9, -9.0]]), torch.tensor([1])),
    "two samples": (torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1])),
    "one class of labels": (_random(80, 10, 2.0)[0], torch.full((80,), 3)),
    "one far outlier": (
        torch.cat([_perfect()[0], torch.tensor([[60.0] + [0.0] * 9])]),
        torch.cat([_perfect()[1], torch.tensor([1])]),
    ),
    "huge logits": _random(100, 10, 300.0),
    "shifted logits": (_random(100, 10, 3.0)[0] + 1e4, _random(100, 10, 3.0)[1]),
}


def _scipy(logits, labels):
    """The minimum over log β, and its ends, in numpy."""
    z, y = logits.double().numpy(), labels.numpy()

    def nll(log_beta):
        scaled = math.exp(log_beta) * z
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(y)), y]))

    ends = (math.log(1e-3), math.log(1e3))
    grid = np.linspace(*ends, 200)
    at = int(np.argmin([nll(b) for b in grid]))
    inside = minimize_scalar(
        nll,
        bounds=(grid[max(at - 1, 0)], grid[min(at + 1, 199)]),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return min((nll(b), math.exp(-b)) for b in (*ends, float(inside.x)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_scaled_likelihood_is_the_minimum_that_scipy_finds(case):
    nll, temperature = _scipy(*case)
    found = scale(*case)
    assert found.nll == pytest.approx(nll, rel=1e-9, abs=1e-9)
    if nll > 1e-6:  # else the likelihood is flat: any low temperature is as good
        assert found.temperature == pytest.approx(temperature, rel=1e-4)
    assert 1e-3 * (1 - 1e-9) <= found.temperature <= 1e3 * (1 + 1e-9)


def test_logits_that_say_nothing_keep_their_temperature():
    found = scale(torch.full((4, 5), 7.0), torch.tensor([0, 1, 2, 3]))
    assert found.temperature == 1.0
    assert found.nll == pytest.approx(math.log(5))


def test_scaling_undoes_a_temperature():
    logits, labels = _random(400, 10, 1.0)
    once, twice = scale(logits, labels), scale(logits * 8, labels)
    assert twice.temperature == pytest.approx(8 * once.temperature, rel=1e-6)
    assert twice.nll == pytest.approx(once.nll, rel=1e-9)


def test_calibration_error_by_hand():
    """Two bins hold (.9: right, right, wrong) and (.6: wrong); gaps .7/3 and .6 of 4 samples."""
    sure, unsure = math.log(9.0), math.log(1.5)
    logits = torch.tensor([[sure, 0.0], [0.0, sure], [sure, 0.0], [unsure, 0.0]])
    labels = torch.tensor([0, 1, 1, 1])
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * abs(0.6 - 0.0)
    assert expected_calibration_error(logits, labels) == pytest.approx(expected, abs=1e-6)
    # In one bin the errors offset each other.
    together = abs((3 * 0.9 + 0.6) / 4 - 2 / 4)
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(together, abs=1e-6)


def test_calibration_error_at_its_ends():
    certain = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert expected_calibration_error(certain, torch.tensor([0, 1])) == 0.0
    assert expected_calibration_error(certain, torch.tensor([1, 0])) == 1.0

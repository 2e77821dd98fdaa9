"""Contexts of very many trials are fitted from a part of them, chosen whatever it scored."""

import numpy as np
import pytest

from analysis import joint
from analysis.estimators import Trials
from analysis.joint import surface


def trials(n, best=0.4, seed=0, fraction=0.5):
    rng = np.random.default_rng(seed)
    weight = np.concatenate([np.tile([0.0, 0.5, 1.0], 5), rng.random(n - 15)])
    seeds = np.arange(n) % 5
    effect = np.array([-0.006, -0.003, 0.0, 0.003, 0.006])[seeds]
    score = 0.9 - 0.1 * (weight - best) ** 2 + effect + rng.normal(0, 0.005, n)
    fixed = {"method": "random", "teacher": "t", "fraction": fraction}
    return Trials(weight, score, seeds, fixed=fixed, nll=1.0 - score)


def test_few_trials_are_taken_as_they_are():
    few = trials(100)
    assert joint._thinned(few) is few


def test_of_many_every_seed_and_all_kd_weights_stay_alike(monkeypatch):
    monkeypatch.setattr(joint, "MOST_TRIALS", 200)
    many = trials(2000)
    kept = joint._thinned(many)
    assert len(kept.score) == len(kept.nll) == 200
    assert np.bincount(kept.seed).tolist() == pytest.approx([40] * 5, abs=1)
    assert np.quantile(kept.kd_weight, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(many.kd_weight, [0.1, 0.5, 0.9]), abs=0.02
    )
    # What was chosen depends on no score.
    other = joint._thinned(trials(2000, best=0.9))
    assert kept.kd_weight.tolist() == other.kd_weight.tolist()
    # Each trial keeps what belongs to it.
    assert np.allclose(kept.nll, 1.0 - kept.score)


def test_a_part_answers_as_all_of_them_do(monkeypatch):
    many = trials(1200)
    (whole,) = surface([many], 0.9)
    monkeypatch.setattr(joint, "MOST_TRIALS", 300)
    (part,) = surface([many], 0.9)
    assert part.kd_weight.value == pytest.approx(whole.kd_weight.value, abs=0.05)
    assert part.kd_weight.low <= 0.4 <= part.kd_weight.high
    assert part.kd_weight.high - part.kd_weight.low >= whole.kd_weight.high - whole.kd_weight.low
    assert part.score.value == pytest.approx(whole.score.value, abs=0.003)


def test_a_large_context_does_not_keep_its_neighbours_from_an_answer(monkeypatch):
    monkeypatch.setattr(joint, "MOST_TRIALS", 300)
    large, small = surface([trials(1500), trials(30, best=0.6, seed=1, fraction=0.2)], 0.9)
    assert large.reason is None
    assert small.kd_weight.low <= 0.6 <= small.kd_weight.high

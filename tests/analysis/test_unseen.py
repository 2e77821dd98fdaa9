import numpy as np
import pytest

from analysis.curve import trials_of
from analysis.joint import pool
from analysis.unseen import fit_without


@pytest.fixture(scope="module")
def trials(runs):
    return list(trials_of(runs).values())


def law_of(trials, method, teacher):
    fixed = {"method": method, "teacher": teacher}
    return [i for i, each in enumerate(trials) if fixed.items() <= each.fixed.items()]


@pytest.mark.parametrize("together", [10_000, 50], ids=["one surface", "too many trials for one"])
def test_a_fraction_left_out_is_answered_from_the_others(world, trials, monkeypatch, together):
    monkeypatch.setattr("analysis.unseen.TOGETHER", together)
    part = fit_without(trials, pool(trials), 0.3)
    assert not np.isclose(part.shown.at.fraction, 0.3).any()
    assert (part.surface is None) == (together == 50)
    law = law_of(trials, "random", "cnn8")
    narrow = part.narrowed(law)
    found = narrow.predict(law[0], 0.3, 0.9)
    assert found.value == pytest.approx(world.planted("random", "cnn8", 0.3), abs=0.12)
    assert found.low <= found.value <= found.high
    shown = next(i for i in law if trials[i].fixed["fraction"] == 0.5)
    truth = world.planted("random", "cnn8", 0.5)
    assert narrow.answer(shown, 0.9).value == pytest.approx(truth, abs=0.08)


def test_a_surface_of_too_many_trials_must_be_narrowed(trials, monkeypatch):
    monkeypatch.setattr("analysis.unseen.TOGETHER", 50)
    with pytest.raises(ValueError, match="narrow it to a law"):
        fit_without(trials, pool(trials), None).predict(0, 0.3, 0.9)

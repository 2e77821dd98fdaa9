import numpy as np
import pytest

from analysis.curve import fit_curve_and_lines, usable
from analysis.figures import (
    capacity,
    compute,
    failures,
    importance,
    kd_weight,
    landscape,
    learning_curves,
    parallel,
)
from analysis.figures.findings import Findings
from analysis.histories import load_histories
from analysis.plots import FIGURES
from trainables.record import Outcome


@pytest.fixture(scope="module")
def findings(runs, uri, schedule):
    curve, lines = fit_curve_and_lines(runs)
    histories = load_histories(learning_curves.chosen(runs), uri)
    return Findings(runs, curve, lines, schedule, histories)


@pytest.fixture(scope="module")
def one(findings):
    """What a search of one context leaves."""
    runs = findings.runs[findings.runs["context"] == findings.curve["context"].iloc[0]]
    runs.attrs = findings.runs.attrs
    curve, lines = fit_curve_and_lines(runs)
    return Findings(runs, curve, lines)


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_drawn_changes_nothing_it_is_drawn_from(findings, name):
    before = findings.runs.copy(), findings.curve.copy()
    frame = FIGURES[name].tidy(findings)
    assert FIGURES[name].draw(frame).marks
    assert FIGURES[name].caption(frame).endswith(".")
    assert before[0].equals(findings.runs)
    assert before[1].equals(findings.curve)


def test_one_context_alone_is_drawn_as_far_as_it_tells_anything(one):
    drawn = {
        name for name, kind in FIGURES.items() if len(frame := kind.tidy(one)) and kind.draw(frame)
    }
    assert {"kd_weight", "accuracy", "fits", "compute"} <= drawn
    assert not drawn & {"landscape", "capacity", "learning_curves", "failures"}


def test_a_schedule_is_drawn_by_calling_it(findings, schedule):
    frame = kd_weight.tidy(findings)
    lines = frame[frame["kind"] == "schedule"]
    assert len(lines) == kd_weight.POINTS * len(schedule.laws)
    row = lines.iloc[7]
    called = schedule(row["fraction"], method=row["panel"], teacher=row["series"])
    assert row["kd_weight"] == called
    band = schedule.band(row["fraction"], method=row["panel"], teacher=row["series"])
    assert (row["low"], row["high"]) == band


def test_a_band_is_drawn_where_a_schedule_has_one(findings, schedule):
    banded = kd_weight.tidy(findings)
    without = (banded["kind"] == "schedule").to_numpy()
    plain = banded.assign(low=banded["low"].mask(without), high=banded["high"].mask(without))
    plain.attrs = banded.attrs
    drawn = [kd_weight.draw(frame) for frame in (plain, banded)]
    count = [sum(len(axes.collections) for axes in d.figure.axes) for d in drawn]
    assert count[1] == count[0] + len(schedule.laws)
    assert "shaded its band" in kd_weight.caption(banded)
    assert "shaded its band" not in kd_weight.caption(plain)


def test_the_ridge_is_the_curve(findings):
    frame = landscape.tidy(findings)
    best = frame[frame["kind"] == "best"]
    assert best["kd_weight"].to_list() == findings.curve["kd_weight"].to_list()
    fit = frame[frame["kind"] == "fit"]
    assert len(fit) == 51 * len(findings.curve)


@pytest.mark.parametrize(("low", "high"), [(1.0, 96.0), (0.5, 0.93), (90.0, 90.0), (-3.0, 0.9)])
def test_steps_of_the_shading_double_downwards_from_the_best(low, high):
    levels = landscape._levels(low, high)
    steps = np.diff(levels)[::-1]
    assert levels[-1] >= high
    assert np.allclose(steps[2:] / steps[1:-1], 2)


def test_teachers_stand_by_their_size_or_in_the_order_of_the_search(findings, one):
    frame = capacity.tidy(findings)
    assert dict(zip(frame["teacher"], frame["parameters"], strict=True)) == {
        "cnn8": 1922.0,
        "cnn32": 21482.0,
    }
    own = findings.curve.assign(teacher=findings.curve["teacher"].replace("cnn8", "mine:net"))
    own.attrs = findings.curve.attrs
    runs = findings.runs.assign(teacher=findings.runs["teacher"].replace("cnn8", "mine:net"))
    mixed = capacity.tidy(Findings(runs, own, findings.lines))
    assert mixed["teacher"].iloc[:2].tolist() == ["cnn32", "mine:net"]
    assert "in the order" in capacity.caption(mixed)
    capacity.draw(mixed)
    assert capacity.tidy(one).empty


def test_learning_curves_are_those_of_one_context_per_fraction(findings):
    frame = learning_curves.tidy(findings)
    assert frame["label"].nunique() == 1
    assert frame.groupby("fraction")["trial"].nunique().max() <= learning_curves.MOST_TRIALS
    last = frame.groupby("trial").last()
    scores = findings.runs.set_index("trial")["score"]
    assert last["score"].to_list() == scores[last.index].to_list()
    assert (frame["outcome"] == Outcome.STOPPED_EARLY).any()


def test_importance_is_shared_out_within_each_fraction(findings):
    frame = importance.tidy(findings)
    assert set(frame["parameter"]) == {"kd_weight", "method", "teacher", "seed"}
    assert np.allclose(frame.groupby("fraction")["importance"].sum(), 1)


def test_ranks_are_within_contexts_and_many_trials_are_thinned(findings, monkeypatch):
    frame = parallel.tidy(findings)
    assert len(frame) == usable(findings.runs).sum()
    assert (frame["rank"] == 1).sum() == len(findings.curve)
    monkeypatch.setattr(parallel, "MOST", 10)
    thin = parallel.tidy(findings)
    assert len(thin) == 10
    assert "10 of 160 complete trials" in parallel.caption(thin)


def test_the_full_grid_is_eleven_kd_weights_under_every_seed(findings):
    frame = compute.tidy(findings).set_index(["panel", "series", "fraction"])
    row = frame.loc[("el2n", "cnn8", 0.3)]
    assert row["grid"] == 11 * 2 * 3 * 300
    assert row["spent"] == (10 * 3 + 1) * 300  # ten whole trials, one stopped after an epoch


def test_failures_are_counted_by_reason(findings):
    frame = failures.tidy(findings)
    assert frame["trials"].sum() == 3
    assert set(frame["outcome"]) == {Outcome.FAILED, Outcome.TIMEOUT}
    assert failures.caption(frame).startswith("Why 3 of ")


def test_a_full_training_without_a_score_is_a_failure_with_a_reason(findings):
    runs = findings.runs.copy()
    runs.loc[0, "score"] = np.nan
    frame = failures.tidy(Findings(runs, findings.curve, findings.lines))
    assert failures.NO_SCORE in set(frame["reason"])


def test_rare_reasons_are_counted_together(findings, monkeypatch):
    monkeypatch.setattr(failures, "MOST", 2)
    frame = failures.tidy(findings)
    assert frame["reason"].iloc[-1] == "2 other reasons"
    assert frame["trials"].sum() == 3

import time

import numpy as np
import pandas as pd
import pytest

from analysis.curve import best, fit_curve, fitted_lines
from analysis.errors import AnalysisError
from analysis.estimators import ESTIMATORS
from analysis.runs import load_runs
from trainables.record import Outcome


def test_the_planted_curve_is_recovered(world, curve):
    truth = [world.planted(row.method, row.teacher, row.fraction) for row in curve.itertuples()]
    error = np.abs(curve["kd_weight"] - truth)
    assert error.median() < 0.03
    # The planted score falls by a tenth of the squared error: 0.0015 at most.
    assert (0.1 * error**2).max() < 0.0015
    held = (curve["kd_weight_low"] <= truth) & (truth <= curve["kd_weight_high"])
    assert held.mean() >= 0.8
    assert (
        (curve["flat_low"] <= curve["kd_weight"]) & (curve["kd_weight"] <= curve["flat_high"])
    ).all()
    assert (curve["expected_loss"] > 0).all()
    # Each KD weight was run with each seed, so a gain is known to within a few noises; one planted
    # curve is clipped at 1, which bends the siblings' smooth surface there.
    gain = 0.1 * np.square(truth)
    lack = np.abs(curve["gain"] - gain)
    assert lack.median() < world.NOISE * 1.5
    assert lack.max() < 5 * world.NOISE
    assert ((curve["gain_low"] <= gain) & (gain <= curve["gain_high"])).mean() >= 0.8
    assert (curve["kd_weight_low"] <= curve["kd_weight"]).all()
    assert (curve["kd_weight"] <= curve["kd_weight_high"]).all()


def test_an_exactly_quadratic_curve_is_recovered_closer_by_the_parabola(world, runs):
    curve = fit_curve(runs, "quadratic")
    truth = [world.planted(row.method, row.teacher, row.fraction) for row in curve.itertuples()]
    assert np.abs(curve["kd_weight"] - truth).max() < 0.06


def test_only_complete_trials_enter_and_all_are_counted(world, curve):
    assert (curve["n_complete"] == len(world.WEIGHTS) * len(world.SEEDS)).all()
    assert (curve["n_stopped"] == 1).all()
    assert (curve["n_seeds"] == len(world.SEEDS)).all()
    row = curve.query("method == 'random' and teacher == 'cnn8' and fraction == 0.1").iloc[0]
    assert (row["n_failed"], row["n_running"]) == (3, 1)
    assert curve["n_failed"].sum() == 3


def test_the_measured_score_without_kd_is_a_plain_mean(curve, runs):
    row = curve.iloc[0]
    there = runs[(runs["context"] == row["context"]) & (runs["kd_weight"] == 0.0)]
    assert row["measured_without_kd"] == pytest.approx(there["score"].mean())
    assert row["n_without_kd"] == 2


def test_a_score_that_is_not_a_number_counts_as_failed(runs):
    broken = runs.copy()
    broken.loc[broken.index[0], "score"] = np.nan
    first = fit_curve(broken).set_index("context").loc[broken["context"].iloc[0]]
    assert (first["n_complete"], first["n_failed"]) == (9, 3 + 1)


def test_a_context_without_enough_trials_says_so_and_the_others_are_answered(runs):
    context = runs["context"].iloc[0]
    few = runs[(runs["context"] != context) | (runs["kd_weight"] < 0.3)]
    curve = fit_curve(few).set_index("context")
    assert curve.loc[context, "reason"] == "needs 3 KD weights with complete trials, has 2"
    assert np.isnan(curve.loc[context, ["kd_weight", "score", "gain"]].astype(float)).all()
    assert curve["kd_weight"].notna().sum() == 15


def test_lines_pass_through_the_answer(runs, curve):
    lines = fitted_lines(runs, curve, points=1001)
    peaks = lines.loc[lines.groupby("context")["mean"].idxmax()].set_index("context")
    answers = curve.set_index("context")
    assert (peaks["kd_weight"] - answers["kd_weight"]).abs().max() < 0.001
    assert (peaks["mean"] - answers["score"]).abs().max() < 1e-5


def test_what_is_asked_for_does_not_change_the_answer(store, curve):
    found = best("planted", store, method="el2n", fraction=0.3, teacher="cnn8")
    whole = curve.query("method == 'el2n' and teacher == 'cnn8' and fraction == 0.3")
    assert len(found) == 1
    assert found["kd_weight"].iloc[0] == whole["kd_weight"].iloc[0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "grand"}, "method 'grand' is not in search 'planted'; known: el2n, random"),
        ({"fraction": 0.2}, "known: 0.1, 0.3, 0.5, 0.9"),
        ({"teacher": "vit"}, "known: cnn32, cnn8"),
        ({"estimator": "magic"}, "known: surface, quadratic, grid"),
        ({"level": 1.0}, "level 1 is not inside"),
    ],
)
def test_an_unknown_value_lists_the_known_ones(store, asked, says):
    with pytest.raises(AnalysisError, match=says):
        best("planted", store, **asked)


def test_no_complete_trial_is_one_clear_line(world, client, uri, store):
    writer = world.Writer(client, "all-failed")
    where = {"method": "random", "teacher": "cnn8", "fraction": 0.5, "kd_weight": 0.5, "seed": 0}
    writer.trial([], Outcome.FAILED, "boom", **where)
    with pytest.raises(AnalysisError, match="'all-failed' has no complete trial yet: 1 failed"):
        best("all-failed", uri)
    world.Writer(client, "empty")
    with pytest.raises(AnalysisError, match="no trial recorded"):
        best("empty", uri)


def test_a_tuned_teacher_is_answered_not_filtered(world, client, uri, store):
    writer = world.Writer(client, "tuned-teacher", tuned="kd_weight,teacher")
    for seed in world.SEEDS:
        for weight in world.WEIGHTS:
            for teacher, penalty in (("cnn8", 0.02), ("cnn32", 0.0)):
                score = 0.8 - 0.1 * (weight - 0.5) ** 2 - penalty * weight
                where = {"method": "random", "fraction": 0.5, "teacher": teacher}
                writer.trial([score], kd_weight=weight, seed=seed, **where)
    (row,) = best("tuned-teacher", uri).to_dict("records")
    assert row["teacher"] == "cnn32"
    assert row["kd_weight"] == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(AnalysisError, match="teacher was tuned"):
        best("tuned-teacher", uri, teacher="cnn8")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_answer_stays_inside_the_range_that_was_tuned(world, client, uri, store, estimator):
    name = f"narrow-{estimator}"
    writer = world.Writer(client, name, kd_weight_range="0.25,0.5")
    where = {"method": "random", "teacher": "cnn8", "fraction": 0.5}
    for seed in world.SEEDS:
        for weight in (0.0, 0.25, 0.375, 0.5):
            writer.trial([0.8 + 0.1 * weight], kd_weight=weight, seed=seed, **where)
    assert load_runs(name, uri).attrs["kd_weight_range"] == (0.25, 0.5)
    (row,) = best(name, uri, estimator=estimator).to_dict("records")
    assert row["kd_weight"] == row["kd_weight_high"] == 0.5
    assert row["gain"] == pytest.approx(0.05, abs=0.002)
    assert row["measured_without_kd"] == pytest.approx(0.8)


def test_500_contexts_are_fitted_in_seconds(runs):
    one = runs[runs["context"] == runs["context"].iloc[0]]
    many = pd.concat([one.assign(context=f"{k:08x}") for k in range(500)], ignore_index=True)
    many.attrs = runs.attrs
    start = time.monotonic()
    assert len(fit_curve(many)) == 500
    assert time.monotonic() - start < 120  # about 15 s of one core


def test_trials_of_different_length_in_one_context_are_never_mixed(runs):
    context = runs["context"].iloc[0]
    mixed = runs.copy()
    mixed.loc[mixed.index[mixed["context"] == context][:4], "budget_epochs"] = 27
    curve = fit_curve(mixed).set_index("context")
    assert curve.loc[context, "reason"] == "trials of 3 and 27 epochs are not comparable"
    assert np.isnan(curve.loc[context, "kd_weight"])
    others = fit_curve(runs[runs["context"] != context]).set_index("context")
    assert (
        curve["kd_weight"].drop(context) == others["kd_weight"].drop(context, errors="ignore")
    ).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_data_that_cannot_support_an_answer_get_a_reason_and_no_number(
    world, client, uri, store, estimator
):
    name = f"poor-{estimator}"
    writer = world.Writer(client, name)
    here = {"method": "random", "teacher": "cnn8"}
    for seed in (0, 1, 2):
        writer.trial([0.8 + seed / 100], kd_weight=0.5, seed=seed, fraction=0.1, **here)
        writer.trial([0.8], Outcome.FAILED, "boom", kd_weight=0.5, seed=seed, fraction=0.2, **here)
        writer.trial([np.nan], kd_weight=seed / 2, seed=seed, fraction=0.3, **here)
    one, failed, nan = best(name, uri, estimator=estimator).to_dict("records")
    if estimator == "grid":  # it compares what was run, of which there is one
        assert (one["kd_weight"], one["reason"]) == (0.5, None) or one["reason"] != one["reason"]
    else:
        assert one["reason"] == "needs 3 KD weights with complete trials, has 1"
    for row, complete in ((failed, 0), (nan, 0)):
        assert row["n_complete"] == complete
        assert row["n_failed"] == 3
        assert row["reason"] in ("no complete trial", "no KD weight has two complete trials")
        assert np.isnan([row["kd_weight"], row["score"], row["gain"], row["gain_over_1"]]).all()


def test_one_seed_is_answered_with_its_number_of_seeds(world, client, uri, store):
    writer = world.Writer(client, "one-seed")
    for weight in world.WEIGHTS:
        score = 0.8 - 0.1 * (weight - 0.5) ** 2
        where = {"method": "random", "fraction": 0.5, "teacher": "cnn8"}
        writer.trial([score], kd_weight=weight, seed=0, **where)
    (row,) = best("one-seed", uri).to_dict("records")
    assert (row["n_seeds"], row["n_complete"]) == (1, 5)
    assert row["kd_weight"] == pytest.approx(0.5, abs=0.05)
    # The mean over seeds is known less well than this seed's curve.
    assert row["gain_high"] - row["gain_low"] > 0.0


def test_several_searches_are_fitted_each_by_itself(world, client, uri, store, curve):
    writer = world.Writer(client, "beside")
    where = {"method": "random", "teacher": "cnn8", "fraction": 0.1, "budget_epochs": 27}
    for seed in world.SEEDS:
        for weight in world.WEIGHTS:
            score = 0.99 - 0.1 * (weight - 0.5) ** 2
            writer.trial([score], kd_weight=weight, seed=seed, **where)
    runs = load_runs(["planted", "beside"], uri)
    assert list(runs.columns[:2]) == ["search", "trial"]
    both = fit_curve(runs)
    assert both["search"].value_counts().to_dict() == {"planted": 16, "beside": 1}
    alone = both[both["search"] == "planted"].drop(columns="search").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, curve, check_exact=True)
    # The longer training scores higher, and still is no rival of the shorter.
    chosen = best(["planted", "beside"], uri, method="random", fraction=0.1, by=["method"])
    assert chosen[["search", "budget_epochs", "n_compared"]].to_numpy().tolist() == [
        ["planted", 3, 2],
        ["beside", 27, 1],
    ]


def test_searches_of_different_objectives_are_not_put_together(world, client, uri, store):
    from trainables import record

    writer = world.Writer(client, "another-objective")
    client.set_tag(writer.parent, record.TAG_OBJECTIVE, record.VAL_R2)
    with pytest.raises(AnalysisError, match="planted maximises val_accuracy, another-objective"):
        load_runs(["planted", "another-objective"], uri)
    with pytest.raises(AnalysisError, match="no search is named"):
        load_runs([], uri)

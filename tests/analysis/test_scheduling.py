import numpy as np
import pytest

from analysis.curve import fit_curve
from analysis.errors import AnalysisError
from analysis.families import FAMILIES
from analysis.laws import LAWS, SIMPLEST
from analysis.scheduling import fit_schedule


def test_the_planted_laws_are_recovered(world, schedule):
    assert len(schedule.laws) == len(world.LAWS)
    for law in schedule.laws:
        assert (law.parameters.intercept, law.parameters.slope) == pytest.approx(
            world.LAWS[law.method, law.teacher], abs=0.05
        )
    for method, teacher in world.LAWS:
        got = schedule(world.FRACTIONS, method=method, teacher=teacher)
        truth = [world.planted(method, teacher, fraction) for fraction in world.FRACTIONS]
        assert got == pytest.approx(truth, abs=0.05)


def test_answers_at_the_ends_bend_the_line_only_until_it_reaches_them(curve):
    fraction = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 0.9])
    weight = np.clip(0.1 - 0.5 * np.log(fraction), 0, 1)
    table = curve.iloc[[0] * 6].assign(
        fraction=fraction,
        kd_weight=weight,
        kd_weight_low=np.clip(weight - 0.05, 0, 1),
        kd_weight_high=np.clip(weight + 0.05, 0, 1),
    )
    (law,) = fit_schedule(table).laws
    assert (law.parameters.intercept, law.parameters.slope) == pytest.approx((0.1, -0.5), abs=1e-4)


def test_the_teacher_may_be_omitted_where_there_is_one(curve):
    one = curve[curve["teacher"] == "cnn8"]
    assert 0 < fit_schedule(one)(0.5, method="random") < 1


def test_one_fraction_is_no_schedule(curve):
    with pytest.raises(AnalysisError, match="needs answers at 2 or more fractions"):
        fit_schedule(curve[curve["fraction"] == 0.5])


def test_a_teacher_with_too_few_answers_is_listed_as_left_out(curve):
    thin = curve.copy()
    hidden = (thin["teacher"] == "cnn8") & (thin["method"] == "el2n") & (thin["fraction"] > 0.1)
    thin.loc[hidden, "kd_weight"] = np.nan
    schedule = fit_schedule(thin)
    (left,) = schedule.left_out
    assert (left.method, left.teacher) == ("el2n", "cnn8")
    assert left.reason == "1 of 4 fractions answered, needs 2"
    with pytest.raises(AnalysisError, match="left out: 1 of 4 fractions"):
        schedule(0.5, method="el2n", teacher="cnn8")


def test_contexts_that_differ_in_more_are_refused(curve):
    two = curve.copy()
    two["temperature"] = np.where(two["fraction"] < 0.4, 2.0, 4.0)
    with pytest.raises(AnalysisError, match=r"differ in temperature too: 2\.0, 4\.0"):
        fit_schedule(two)


def test_without_the_trials_the_simplest_family_is_taken(curve):
    schedule = fit_schedule(curve)
    assert {law.family for law in schedule.laws} == {SIMPLEST}
    assert schedule.held_out == ()
    assert "nothing was compared" in schedule.choice
    with pytest.raises(AnalysisError, match="'surface' needs the trials"):
        fit_schedule(curve, family="surface")


def test_every_fraction_is_held_out_of_every_law(world, compared):
    held = {(each.method, each.teacher, each.fraction) for each in compared.held_out}
    assert held == {(*key, fraction) for key in world.LAWS for fraction in world.FRACTIONS}
    for each in compared.held_out:
        assert each.inside == (each.fraction not in (0.1, 0.9))
        assert set(each.kd_weight) == set(each.lost) == set(LAWS)
        assert all(0.0 <= lost < 0.1 for lost in each.lost.values())


def test_what_is_lost_is_score_at_the_held_out_fraction(world, compared):
    """By the planted parabolas, as far as the trials can tell them."""
    for each in compared.held_out:
        best = world.planted(each.method, each.teacher, each.fraction)
        for family, weight in each.kd_weight.items():
            assert each.lost[family] == pytest.approx(0.1 * (weight - best) ** 2, abs=0.004)


def test_a_held_out_fraction_informs_no_family(runs, curve, compared):
    """Its trials changed out of recognition, all predictions for it stay."""
    spoilt = runs.copy()
    there = np.isclose(spoilt["fraction"], 0.3)
    spoilt.loc[there, "score"] = 0.5 + 0.2 * spoilt.loc[there, "kd_weight"] ** 2
    spoilt.attrs = runs.attrs
    again = fit_schedule(fit_curve(spoilt), spoilt)
    for before, after in zip(compared.held_out, again.held_out, strict=True):
        if before.fraction == 0.3:
            assert after.kd_weight == before.kd_weight


def test_planted_laws_are_found_and_the_family_that_they_are_of(world, compared):
    assert {law.family for law in compared.laws} == {"clipped-log-linear"}
    for method, teacher in world.LAWS:
        for fraction in (0.15, 0.4, 0.7):
            named = {"method": method, "teacher": teacher}
            truth = world.planted(method, teacher, fraction)
            assert compared(fraction, **named) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_can_be_asked_for(world, runs, curve, family):
    schedule = fit_schedule(curve, runs if family == "surface" else None, family)
    assert schedule.choice == f"{family}: as asked for, nothing was compared"
    assert schedule.held_out == ()
    for law in schedule.laws:
        assert law.family == family
        for fraction in world.FRACTIONS:
            weight = schedule(fraction, method=law.method, teacher=law.teacher)
            assert weight == pytest.approx(
                world.planted(law.method, law.teacher, fraction), abs=0.2
            )
            low, high = schedule.band(fraction, method=law.method, teacher=law.teacher)
            assert 0.0 <= low <= weight <= high <= 1.0


def test_an_unknown_family_lists_the_known_ones(curve):
    with pytest.raises(AnalysisError, match="'spline' is unknown; known: auto, clipped-log-linear"):
        fit_schedule(curve, family="spline")


def test_two_fractions_make_a_line_and_nothing_to_compare(runs, curve):
    two = curve[curve["fraction"].isin([0.1, 0.5])]
    schedule = fit_schedule(two, runs)
    assert schedule.held_out == ()
    assert "takes trials at 3 fractions" in schedule.choice


def test_where_it_comes_from_is_recorded(curve, compared):
    provenance = compared.provenance
    for key in ("search", "objective", "estimator", "level", "parent_run_id"):
        assert provenance[key] == curve.attrs[key]
    assert provenance["complete_trials"] == 160
    assert {"kdcurve", "git_commit"} <= set(provenance)


def test_an_estimator_without_lines_is_judged_by_the_surface(runs):
    schedule = fit_schedule(fit_curve(runs, "grid"), runs)
    assert len(schedule.held_out) == 16

import json
import warnings

import numpy as np
import pytest

from analysis.errors import AnalysisError
from analysis.schedule import ExtrapolationWarning, fit_schedule, load_schedule


def test_the_planted_laws_are_recovered(world, schedule):
    assert len(schedule.laws) == len(world.LAWS)
    for law in schedule.laws:
        assert (law.intercept, law.slope) == pytest.approx(
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
    assert (law.intercept, law.slope) == pytest.approx((0.1, -0.5), abs=1e-4)


def test_a_number_gives_a_number_and_an_array_its_shape(schedule):
    where = {"method": "random", "teacher": "cnn8"}
    assert isinstance(schedule(0.3, **where), float)
    weights = schedule(np.full((2, 3), 0.3), **where)
    assert weights.shape == (2, 3)
    assert np.all(weights == schedule(0.3, **where))


def test_extrapolation_warns_and_can_be_asked_about(schedule):
    where = {"method": "random", "teacher": "cnn8"}
    with pytest.warns(ExtrapolationWarning, match=r"fraction 0.01 outside \[0.1, 0.9\]"):
        assert 0.0 <= schedule(0.01, **where) <= 1.0
    with pytest.warns(ExtrapolationWarning, match=r"fraction 0.02, 1 outside"):
        schedule([[1.0, 0.5], [0.02, 1.0]], **where)
    with pytest.warns(ExtrapolationWarning, match=r"0.05, … outside"):
        schedule(np.linspace(0.01, 0.09, 9), **where)
    assert schedule.covers(0.1, **where) is True
    assert list(schedule.covers([0.05, 0.5, 1.0], **where)) == [False, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule([0.1, 0.9], **where)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "grand"}, "method 'grand' .* known: el2n, random"),
        ({"method": "el2n", "teacher": "vit"}, "teacher 'vit' .* known: cnn32, cnn8"),
        ({"method": "el2n"}, "say which teacher: the schedule knows cnn32, cnn8"),
        ({"method": "el2n", "teacher": "cnn8", "fraction": 1.5}, r"1.5 is not in \(0, 1\]"),
    ],
)
def test_a_question_it_cannot_answer_lists_what_it_knows(schedule, asked, says):
    with pytest.raises(AnalysisError, match=says):
        schedule(**{"fraction": 0.5} | asked)


def test_the_teacher_may_be_omitted_where_there_is_one(curve):
    one = curve[curve["teacher"] == "cnn8"]
    assert 0 < fit_schedule(one)(0.5, method="random") < 1


def test_it_comes_back_from_its_file_as_it_was(schedule, tmp_path):
    path = tmp_path / "new" / "schedule.json"
    schedule.save(path)
    assert load_schedule(path) == schedule
    document = json.loads(path.read_text())
    assert document["format_version"] == 1
    assert document["provenance"]["commit"] == "abc1234"
    assert document["provenance"]["search"] == "planted"
    assert document["provenance"]["complete_trials"] == 160
    assert [child.name for child in path.parent.iterdir()] == ["schedule.json"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: d.pop("laws"), "key 'laws' is missing"),
        (lambda d: d.update(format_version=9), "format_version 9; this kdcurve reads 1"),
        (lambda d: d.update(kind="magic"), "kind:"),
        (lambda d: d["laws"][0].pop("slope"), "laws.0.slope: field required"),
        (lambda d: d["laws"][0]["points"][0].update(fraction=2), "laws.0.points.0.fraction:"),
        (lambda d: d.update(surprise=1), "surprise:"),
    ],
)
def test_a_damaged_file_is_refused_by_key(schedule, tmp_path, damage, says):
    document = json.loads(schedule.model_dump_json())
    damage(document)
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(document))
    with pytest.raises(AnalysisError, match=says) as caught:
        load_schedule(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "\x00\x01"])
def test_a_file_that_is_no_schedule_is_refused(tmp_path, content):
    path = tmp_path / "schedule.json"
    path.write_text(content)
    with pytest.raises(AnalysisError, match="damaged"):
        load_schedule(path)
    with pytest.raises(AnalysisError, match="cannot read"):
        load_schedule(tmp_path / "none.json")


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

import numpy as np
import pandas as pd
import pytest

from analysis.comparison import (
    at_contexts,
    compare,
    compare_schedules,
    comparison_table,
    schedule_curve,
)
from analysis.document import Line, LineLaw, Point
from analysis.errors import AnalysisError
from analysis.recorded import typed
from analysis.schedule import Schedule
from trainables.record import VAL_ACCURACY

NAMES = ("a", "b")


def answers(rows, **attrs):
    """A curve with what `compare` looks at; each row: method, teacher, fraction, weight, score."""
    made = [
        {
            "dataset": attrs.get("dataset", "digits"),
            "student": attrs.get("student", "cnn8"),
            "label_noise": attrs.get("label_noise", 0.0),
            "method": method,
            "teacher": teacher,
            "teacher_fraction": 1.0,
            "temperature": 4.0,
            "fraction": fraction,
            "budget_epochs": attrs.get("budget_epochs", 9),
            "kd_weight": weight,
            "kd_weight_low": weight - 0.1,
            "kd_weight_high": weight + 0.1,
            "score": score,
            "score_low": score - 0.01,
            "score_high": score + 0.01,
            "reason": None if np.isfinite(weight) else "no complete trial",
        }
        for method, teacher, fraction, weight, score in rows
    ]
    curve = typed(made)
    curve.attrs = {
        "objective": attrs.get("objective", VAL_ACCURACY),
        "tuned": attrs.get("tuned", ("kd_weight",)),
    }
    return curve


def law(method, teacher, intercept, slope, low, high):
    points = tuple(Point(fraction=f, kd_weight=0.5, low=0.4, high=0.6) for f in (low, high))
    return LineLaw(
        method=method,
        teacher=teacher,
        family="clipped-log-linear",
        parameters=Line(intercept=intercept, slope=slope),
        points=points,
    )


def test_shared_contexts_are_paired_and_the_others_named():
    a = answers([("random", "t", 0.1, 0.8, 0.7), ("random", "t", 0.5, 0.4, 0.9)])
    b = answers([("random", "t", 0.1 + 1e-12, 0.5, 0.75), ("el2n", "t", 0.5, 0.3, 0.8)])
    found = compare(a, b, NAMES).set_index(["method", "fraction"])
    both = found.loc[("random", 0.1)]
    assert both["difference"] == pytest.approx(-0.3)
    assert both["score_difference"] == pytest.approx(0.05)
    assert both["overlap"] is False or not both["overlap"]
    assert pd.isna(both["only_in"])
    assert found.loc[("random", 0.5), "only_in"] == "a"
    assert found.loc[("el2n", 0.5), "only_in"] == "b"
    assert pd.isna(found.loc[("el2n", 0.5), "overlap"])


def test_intervals_that_touch_overlap():
    a, b = (answers([("random", "t", 0.1, weight, 0.7)]) for weight in (0.5, 0.7))
    assert compare(a, b, NAMES)["overlap"].tolist() == [True]


def test_what_differs_as_a_whole_is_said_once_and_scores_of_other_data_are_not_compared():
    rows = [("random", "t", 0.1, 0.5, 0.7)]
    found = compare(answers(rows), answers(rows, student="cnn16", budget_epochs=27), NAMES)
    assert found.attrs["remarks"] == [
        "student differs: a cnn8; b cnn16.",
        "epochs differs: a 9; b 27.",
    ]
    assert found["score_difference"].tolist() == [0.0]
    for other in ({"dataset": "svhn"}, {"label_noise": 0.2}, {"objective": "val_r2"}):
        found = compare(answers(rows), answers(rows, **other), NAMES)
        assert found["score_difference"].isna().all()
        assert found.attrs["remarks"][0].endswith("; scores are not compared.")
        assert found["difference"].tolist() == [0.0]


def test_a_context_without_an_answer_says_why():
    a = answers([("random", "t", 0.1, np.nan, np.nan)])
    found = compare(a, answers([("random", "t", 0.1, 0.5, 0.7)]), NAMES)
    assert found["note"].tolist() == ["a: no complete trial"]
    assert found["difference"].isna().all()
    table = comparison_table(found)
    assert table.rows[0][-1] == "a: no complete trial"


def test_a_teacher_tuned_in_one_and_kept_apart_in_the_other_is_refused():
    rows = [("random", "t", 0.1, 0.5, 0.7)]
    tuned = answers(rows, tuned=("kd_weight", "teacher"))
    with pytest.raises(AnalysisError, match="teacher was tuned in 'b' and tells contexts of 'a'"):
        compare(answers(rows), tuned, NAMES)
    assert len(compare(tuned, tuned, NAMES)) == 1


def test_schedules_are_compared_on_the_range_they_share(recwarn):
    a = Schedule(laws=(law("random", "t", 0.2, -0.3, 0.1, 0.5), law("el2n", "t", 1, 0, 0.1, 0.5)))
    b = Schedule(laws=(law("random", "t", 0.3, -0.3, 0.25, 0.9), law("aum", "t", 1, 0, 0.2, 0.5)))
    found = compare_schedules(a, b, NAMES, points=5)
    shared = found[found["method"] == "random"]
    assert shared["fraction"].tolist() == pytest.approx(np.geomspace(0.25, 0.5, 5), abs=1e-8)
    assert shared["difference"].tolist() == pytest.approx([0.1] * 5)
    assert found.loc[found["method"] == "el2n", ["fraction", "only_in"]].to_numpy().tolist() == [
        [0.1, "a"],
        [0.5, "a"],
    ]
    assert set(found.loc[found["method"] == "aum", "only_in"]) == {"b"}
    assert not recwarn.list  # nothing was extrapolated


def test_schedules_without_a_common_range_stand_one_after_the_other():
    a = Schedule(laws=(law("random", "t", 0.2, -0.3, 0.1, 0.2),))
    b = Schedule(laws=(law("random", "t", 0.2, -0.3, 0.5, 0.9),))
    assert compare_schedules(a, b, NAMES)["only_in"].tolist() == ["a", "a", "b", "b"]


def test_a_schedule_answers_in_the_contexts_of_a_search_that_it_covers(recwarn):
    schedule = Schedule(laws=(law("random", "t", 0.2, -0.3, 0.1, 0.5),))
    curve = answers([("random", "t", f, 0.5, 0.7) for f in (0.05, 0.1, 0.5, 0.9)])
    asked = at_contexts(schedule, curve)
    assert asked["fraction"].tolist() == [0.1, 0.5]
    found = compare(curve, asked, ("search", "s.json"))
    assert found["only_in"].tolist()[0] == found["only_in"].tolist()[3] == "search"
    assert found["kd_weight_b"].iloc[1] == pytest.approx(0.2 - 0.3 * np.log(0.1))
    titles = [column.title for column in comparison_table(found).columns]
    assert titles == [
        *("method", "teacher", "data kept", "KD weight of search", "KD weight of s.json"),
        *("difference", "note"),
    ]
    assert not recwarn.list


def test_the_table_shows_points_intervals_and_signs():
    a = answers([("random", "t", 0.1, 0.8, 0.7)])
    b = answers([("random", "t", 0.1, 0.5, 0.75)])
    table = comparison_table(compare(a, b, NAMES))
    assert table.rows == (
        (
            *("random", "t", "10%", "0.80 [0.70, 0.90]", "0.50 [0.40, 0.60]", "−0.30", "apart"),
            *("70.0", "75.0", "+5.0"),
        ),
    )


def test_nothing_asked_is_an_empty_curve():
    schedule = Schedule(laws=(law("random", "t", 0.2, -0.3, 0.1, 0.5),))
    assert len(schedule_curve(schedule, {})) == 0

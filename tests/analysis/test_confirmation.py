"""What students say of answers, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.confirmation import (
    confirmation_section,
    confirmed_points,
    confirmed_students,
    is_confirmed,
    with_test,
)
from analysis.format import curve_table
from analysis.recorded import plain, typed
from analysis.students import tidy_students
from trainables.record import Outcome

CONTEXT = {
    "dataset": "digits",
    "student": "cnn4",
    "method": "random",
    "fraction": 0.1,
    "teacher_fraction": 1.0,
    "temperature": 4.0,
}
ATTRS = {
    "search": "planted",
    "objective": "val_accuracy",
    "tuned": ("kd_weight",),
    "contexts": ("dataset", "student", "method", "fraction", "teacher"),
    "level": 0.9,
}


def answer(teacher, kd_weight, **more):
    return {
        "context": f"key-{teacher}",
        "label": f"random {teacher}",
        **CONTEXT,
        "teacher": teacher,
        "kd_weight": kd_weight,
        **dict.fromkeys(("kd_weight_low", "kd_weight_high"), kd_weight),
        **{
            f"{name}{end}": 0.05
            for name in ("gain", "gain_over_1")
            for end in ("", "_low", "_high")
        },
        **dict.fromkeys(("score", "score_low", "score_high", "measured_without_kd"), 0.9),
        **dict.fromkeys(("flat_low", "flat_high", "expected_loss"), 0.1),
        **dict.fromkeys(("n_complete", "n_stopped", "n_failed", "n_running", "n_seeds"), 1),
        "reason": None,
        **more,
    }


def curve(*rows, **attrs):
    frame = typed(rows)
    frame.attrs = {**ATTRS, **attrs}
    return frame


def student(kd_weight, seed, test, teacher="cnn8", chosen=None, **more):
    taught = {"teacher": teacher, "teacher_fraction": 1.0, "temperature": 4.0, "teacher_seed": 0}
    return {
        "key": f"{kd_weight}-{seed}-{teacher if kd_weight else ''}-{more.get('temperature')}",
        "attempt": 1,
        "outcome": Outcome.COMPLETE,
        "chosen": chosen,
        **{k: v for k, v in CONTEXT.items() if k not in taught},
        **(taught if kd_weight else {}),
        "kd_weight": kd_weight,
        "seed": 2**32 + seed,
        "test_score": test,
        "val_score": test + 0.01,
        "end_time": 1000 + seed,
        **more,
    }


def students(chosen=0.4, teacher="cnn8", gains=(0.01, 0.02, 0.03)):
    """Three seeds: 0.80, 0.82 and 0.84 without a teacher, 0.9 at KD weight 1."""
    rows = []
    for seed, gain in enumerate(gains):
        without = 0.80 + 0.02 * seed
        rows.append(student(0.0, seed, without))
        rows.append(student(1.0, seed, 0.9 + 0.01 * seed**2, teacher))
        rows.append(student(chosen, seed, without + gain, teacher, f"key-{teacher}"))
    return rows


def test_gains_are_paired_over_seeds():
    """By hand: the gains over 0 are 1, 2 and 3 points, whatever the seeds' own luck."""
    (row,) = with_test(curve(answer("cnn8", 0.4)), tidy_students(students())).to_dict("records")
    assert row["test_kd_weight"] == 0.4
    assert row["test_score"] == pytest.approx((0.81 + 0.84 + 0.87) / 3)
    assert row["test_gain"] == pytest.approx(0.02)
    assert row["test_gain_high"] - row["test_gain"] == pytest.approx(0.01 * 2.919986 / 3**0.5)
    assert row["test_gain_over_1"] == pytest.approx(np.mean([-0.09, -0.07, -0.07]))
    assert row["test_gain_p"] == pytest.approx(0.0741799, abs=1e-6)
    assert (row["test_seeds"], row["test_failed"]) == (3, 0)
    assert row["test_note"] is None or pd.isna(row["test_note"])


def test_students_without_a_teacher_serve_all_teachers_and_p_values_are_adjusted():
    rows = students() + [r for r in students(0.7, "cnn32") if r["kd_weight"]]
    found = with_test(curve(answer("cnn8", 0.4), answer("cnn32", 0.7)), tidy_students(rows))
    assert found["test_gain"].tolist() == pytest.approx([0.02, 0.02])
    assert found["test_gain_p"].tolist() == pytest.approx([2 * 0.0741799] * 2, abs=1e-6)


def test_an_answer_at_0_gains_nothing_over_itself_and_is_no_test():
    (row,) = with_test(curve(answer("cnn8", 0.0)), tidy_students(students())).to_dict("records")
    assert row["test_gain"] == 0.0
    assert np.isnan(row["test_gain_low"])
    assert np.isnan(row["test_gain_p"])
    assert row["test_score"] == pytest.approx(0.82)


def test_an_answer_that_changed_since_is_marked():
    found = with_test(curve(answer("cnn8", 0.55)), tidy_students(students()))
    (row,) = found.to_dict("records")
    assert row["test_kd_weight"] == 0.4
    assert row["test_gain"] == pytest.approx(0.02)
    assert "an older answer, KD weight 0.40" in row["test_note"]
    assert "an older answer" in str(curve_table(found).rows)


def test_of_two_confirmed_answers_the_present_one_counts_else_the_newest():
    rows = students() + students(0.6, gains=(0.05, 0.06, 0.07))
    for row in rows:
        row["end_time"] += 5000 * (row["kd_weight"] == 0.6)
    table = tidy_students(rows)
    for present, shown in ((0.4, 0.4), (0.6, 0.6), (0.5, 0.6)):
        (row,) = with_test(curve(answer("cnn8", present)), table).to_dict("records")
        assert row["test_kd_weight"] == shown


def test_failed_students_are_counted_named_and_leave_the_pairs_that_remain():
    rows = students()
    failed = next(r for r in rows if r["kd_weight"] == 0.4 and r["seed"] == 2**32)
    failed |= {"outcome": Outcome.FAILED, "reason": "Diverged: no", "test_score": None}
    (row,) = with_test(curve(answer("cnn8", 0.4)), tidy_students(rows)).to_dict("records")
    assert (row["test_seeds"], row["test_failed"]) == (2, 1)
    assert row["test_gain"] == pytest.approx(0.025)
    assert row["test_note"] == "test: 1 failed (Diverged: no)"


def test_the_last_attempt_of_a_student_counts():
    first = student(0.4, 0, 0.1, chosen="key-cnn8")
    first |= {"outcome": Outcome.FAILED, "reason": "OutOfMemoryError: no"}
    table = tidy_students([{**first, **student(0.4, 0, 0.9), "attempt": 2}, first])
    assert table["outcome"].tolist() == [Outcome.COMPLETE]


def test_what_was_tuned_beside_the_kd_weight_belongs_to_the_setting():
    rows = students()
    for row in rows:
        if row["kd_weight"]:
            row["temperature"] = 2.0
    asked = {"tuned": ("kd_weight", "temperature")}
    same = with_test(curve(answer("cnn8", 0.4, temperature=2.0), **asked), tidy_students(rows))
    other = with_test(curve(answer("cnn8", 0.4, temperature=3.0), **asked), tidy_students(rows))
    assert not isinstance(same["test_note"][0], str)
    assert "an older answer" in other["test_note"][0]
    assert other["test_gain"][0] == pytest.approx(0.02)


def test_contexts_without_students_stay_as_they_were():
    whole = curve(answer("cnn8", 0.4), answer("cnn32", 0.7))
    table = tidy_students(students())
    found = with_test(whole, table)
    assert found["test_seeds"].isna().tolist() == [False, True]
    assert "–" in curve_table(found).rows[1]
    untouched = with_test(whole, tidy_students([]))
    pd.testing.assert_frame_equal(untouched, whole)
    assert not is_confirmed(untouched)
    assert confirmation_section(untouched) is None
    assert confirmed_students(whole.to_dict("records")[1], table, ["kd_weight"]) == []


def test_a_confirmed_curve_is_read_back_as_it_was_recorded():
    found = with_test(curve(answer("cnn8", 0.4), answer("cnn32", 0.7)), tidy_students(students()))
    pd.testing.assert_frame_equal(typed(plain(found)), found)


def test_the_section_counts_what_holm_leaves():
    small, clear = students(), students(0.7, "cnn32", gains=(0.100, 0.101, 0.102))
    found = with_test(
        curve(answer("cnn8", 0.4), answer("cnn32", 0.7)),
        tidy_students(small + [r for r in clear if r["kd_weight"]]),
    )
    section = confirmation_section(found)
    assert len(section.table.rows) == 2
    text = " ".join(section.text)
    assert "under 3 seeds that the search never used" in text
    assert "Of 2 gains over KD weight 0, 2 are significant at 10% after Holm" in text


def test_gains_are_points_of_the_parent_run():
    found = with_test(curve(answer("cnn8", 0.4), answer("cnn32", 0.7)), tidy_students(students()))
    points = {
        (name, step): value for name, value, step in confirmed_points(plain(found), ["kd_weight"])
    }
    assert points == {
        ("test_gain_over_0/random/cnn8", 100): pytest.approx(0.02),
        ("test_gain_over_1/random/cnn8", 100): pytest.approx(-0.0766667, abs=1e-6),
    }

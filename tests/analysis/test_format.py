import re

import numpy as np
import pytest

from analysis.document import Line
from analysis.format import (
    curve_table,
    family_table,
    fraction_text,
    gain_text,
    law_text,
    outcome_table,
    pivot_table,
    prediction_table,
    score_text,
    with_interval,
)
from analysis.laws import LAWS
from analysis.schedule import ExtrapolationWarning
from analysis.scheduling import fit_schedule


@pytest.mark.parametrize(
    ("got", "text"),
    [
        (fraction_text(0.05), "5%"),
        (fraction_text(0.125), "12.5%"),
        (fraction_text(0.3), "30%"),
        (fraction_text(1.0), "100%"),
        (with_interval(0.42, 0.3, 0.55), "0.42 [0.30, 0.55]"),
        (with_interval(0.42, np.nan, np.nan), "0.42"),
        (with_interval(np.nan, np.nan, np.nan), "–"),
        (score_text("val_accuracy", 0.713, 0.702, 0.724), "71.3 [70.2, 72.4]"),
        (score_text("val_r2", 0.713), "0.7130"),
        (gain_text("val_accuracy", 0.012, -0.003, 0.021), "+1.2 [−0.3, +2.1]"),
    ],
)
def test_numbers_read_well(got, text):
    assert got == text


def test_the_table_has_an_answer_per_row_and_notes_only_where_needed(curve):
    table = curve_table(curve)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [column.title for column in table.columns[:4]] == [
        "method", "teacher", "data kept", "best KD weight",
    ]  # fmt: skip
    assert any("1 running" in row for row in table.rows)
    calm = curve_table(curve[curve["n_running"] == 0])
    assert calm.columns[-1].title == "seeds"


def test_a_context_without_answer_shows_its_reason(curve):
    blank = curve.iloc[[0]].assign(kd_weight=np.nan, score=np.nan, gain=np.nan, reason="too few")
    (row,) = curve_table(blank).rows
    assert row.count("–") == 3
    assert score_text("val_accuracy", blank["measured_without_kd"].iloc[0]) in row
    assert row[-1] == "too few"


def test_the_score_without_kd_stands_before_the_gain(curve):
    one = curve.iloc[[0]].assign(measured_without_kd=0.123)
    table = curve_table(one)
    titles = [column.title for column in table.columns]
    at = titles.index("without KD")
    assert titles[at + 1] == "gain over no KD (points)"
    assert table.columns[at].justify == "right"
    assert table.rows[0][at] == "12.3"
    (row,) = curve_table(one.assign(measured_without_kd=np.nan)).rows
    assert row[at] == "–"


def test_the_whole_table_says_how_flat_the_best_is_and_what_it_may_lack(curve):
    row = curve.iloc[[0]].assign(
        flat_low=0.25, flat_high=0.55, gain_over_1=0.031, gain_over_1_low=-0.002,
        gain_over_1_high=0.05, expected_loss=0.0012,
    )  # fmt: skip
    table = curve_table(row)
    cells = dict(zip((column.title for column in table.columns), table.rows[0], strict=True))
    assert cells["as good"] == "0.25 to 0.55"
    assert cells["gain over 1 (points)"] == "+3.1 [−0.2, +5.0]"
    assert cells["expected loss (points)"] == "0.12"
    (blank,) = curve_table(row.assign(flat_low=np.nan, flat_high=np.nan)).rows
    assert "–" in blank


def test_the_compact_table_fits_80_columns(curve):
    table = curve_table(curve[curve["n_running"] == 0], compact=True)
    assert [column.title for column in table.columns] == [
        "method", "teacher", "data kept", "best KD weight", "accuracy (%)", "without KD",
        "gain over no KD (points)",
    ]  # fmt: skip
    assert {len(row) for row in table.rows} == {len(table.columns)}
    # Headings fold at words; two blanks stand between columns.
    cells = zip(*table.rows, strict=True)
    widths = [
        max(map(len, (*column.title.split(), *texts)))
        for column, texts in zip(table.columns, cells, strict=True)
    ]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    noted = curve_table(curve, compact=True)
    assert noted.columns[-1].title == "note"
    assert any(row[-1] == "1 running" for row in noted.rows)


def test_the_pivot_has_a_row_per_method_and_teacher_and_a_column_per_fraction(world, curve):
    table = pivot_table(curve.iloc[1:])
    assert [column.title for column in table.columns] == [
        "method", "teacher", "10%", "30%", "50%", "90%",
    ]  # fmt: skip
    assert sorted(row[:2] for row in table.rows) == sorted(world.LAWS)
    row = curve.iloc[1]
    shown = with_interval(row["kd_weight"], row["kd_weight_low"], row["kd_weight_high"])
    assert table.rows[0][2:4] == ("–", shown)  # the context left out, and the next one


def test_failures_are_listed_with_reasons(runs):
    rows = outcome_table(runs).rows
    assert ("failed", "1", "loss is not finite at epoch 2") in rows
    assert ("timeout", "1", "no report for 600 s") in rows
    assert ("stopped early", "16", "") in rows
    assert sum(int(row[1]) for row in rows) == len(runs)


def test_a_law_is_a_formula(schedule):
    line = Line(intercept=-0.12, slope=-0.31)
    law = schedule.law("random", "cnn8").model_copy(update={"parameters": line})
    assert law_text(law) == "clip(−0.120 − 0.310 ln f, 0, 1)"
    steeper = law.model_copy(update={"family": "logistic"})
    assert law_text(steeper) == "logistic(−0.120 − 0.310 ln f)"


def test_a_law_of_knots_is_its_answers(runs, curve):
    law = fit_schedule(curve, family="isotonic").law("random", "cnn8")
    assert re.fullmatch(r"between (0\.\d\d at \d0%(, )?){4}", law_text(law))


def test_families_are_told_with_what_they_lost_and_how_sure_that_is(compared, schedule):
    table = family_table(compared)
    assert [row[0] for row in table.rows] == list(LAWS)
    assert [row[-1] for row in table.rows] == ["used", "", "", ""]
    assert table.rows[0][2] == ""
    assert re.fullmatch(r"[+−]\d\.\d\d ± \d\.\d\d", table.rows[1][2])
    assert family_table(schedule).rows == ()  # nothing was compared


def test_what_is_extrapolated_is_marked(schedule):
    with pytest.warns(ExtrapolationWarning):
        rows = schedule.table([0.5, 1.0], method="random", teacher="cnn8")
    table = prediction_table(rows)
    assert [row[0] for row in table.rows] == ["50%", "100%"]
    assert [row[2] for row in table.rows] == ["", "extrapolated"]
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", table.rows[0][1])

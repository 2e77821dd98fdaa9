import re

import pytest

from analysis.sketch import SEVERAL, sketch


def plain(text):
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def test_it_fits_its_width_with_a_panel_per_teacher(curve):
    for width in (40, 80, 120):
        drawn = plain(sketch(curve, width))
        assert max(map(len, drawn.splitlines())) <= width
        assert drawn.count("teacher cnn") == 2
    beside, below = (plain(sketch(curve, width)).splitlines() for width in (80, 60))
    assert beside[0].split() == ["teacher", "cnn32", "teacher", "cnn8"]
    assert len(below) == 2 * len(beside) - 1


def test_methods_are_told_apart_without_colour(curve):
    drawn = plain(sketch(curve))
    assert drawn.splitlines()[-1].split() == ["o", "el2n", "x", "random", SEVERAL, "several"]
    marks = "".join(drawn.splitlines()[1:-3])
    # Four fractions, two teachers, two methods: a place that both have is marked once.
    assert marks.count("o") + marks.count("x") + 2 * marks.count(SEVERAL) == 16


def test_higher_kd_weights_stand_higher(curve):
    rows = curve[(curve["method"] == "random") & (curve["teacher"] == "cnn8")]
    rows.attrs = curve.attrs
    lines = plain(sketch(rows)).splitlines()
    found = sorted((line.index("o", 6), i) for i, line in enumerate(lines[1:-3]) if "o" in line)
    heights = [i for _, i in found]
    assert heights == sorted(heights)  # the less is kept, the higher


@pytest.mark.parametrize("keep", [0, 1])
def test_without_two_fractions_there_is_no_line_to_draw(curve, keep):
    few = curve[curve["fraction"] == 0.1].iloc[:keep]
    few.attrs = curve.attrs
    assert sketch(few) == ""

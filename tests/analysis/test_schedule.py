import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

from analysis.errors import AnalysisError
from analysis.schedule import ExtrapolationWarning, load_schedule


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


def test_it_comes_back_from_its_file_as_it_was(schedule, tmp_path):
    path = tmp_path / "new" / "schedule.json"
    schedule.save(path)
    assert load_schedule(path) == schedule
    document = json.loads(path.read_text())
    assert document["format_version"] == 2
    assert document["provenance"]["commit"] == "abc1234"
    assert document["provenance"]["search"] == "planted"
    assert document["provenance"]["complete_trials"] == 160
    assert [child.name for child in path.parent.iterdir()] == ["schedule.json"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: d.pop("laws"), "key 'laws' is missing"),
        (lambda d: d.update(format_version=9), "format_version 9; this kdcurve reads 1, 2"),
        (lambda d: d["laws"][0].update(family="magic"), "laws.0: .*'magic'.* 'surface'"),
        (lambda d: d["laws"][0]["parameters"].pop("slope"), r"parameters\.slope: field required"),
        (lambda d: d["laws"][0]["points"][0].update(fraction=2), r"points\.0\.fraction:"),
        (lambda d: d["laws"][0]["band"]["low"].pop(), r"band: .*values at \d+ fractions"),
        (lambda d: d["laws"][0]["band"]["fractions"].reverse(), "band: .*do not ascend"),
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


FORMAT_1 = {
    "format_version": 1,
    "kind": "clipped-log-linear",
    "laws": [
        {
            "method": "random",
            "teacher": "cnn8",
            "intercept": 0.2,
            "slope": -0.25,
            "points": [
                {"fraction": 0.1, "kd_weight": 0.78, "low": 0.7, "high": 0.8},
                {"fraction": 0.9, "kd_weight": 0.23, "low": 0.2, "high": 0.3},
            ],
        }
    ],
    "left_out": [],
    "provenance": {"search": "older"},
}


@pytest.fixture
def older(tmp_path):
    path = tmp_path / "older.json"
    path.write_text(json.dumps(FORMAT_1))
    return load_schedule(path)


def test_a_file_of_format_1_still_answers(older, tmp_path):
    assert older(0.5) == pytest.approx(0.2 - 0.25 * np.log(0.5))
    assert older.provenance == {"search": "older"}
    older.save(tmp_path / "renewed.json")
    assert load_schedule(tmp_path / "renewed.json") == older
    with pytest.raises(AnalysisError, match=r"has no band: .* fit it again"):
        older.band(0.5)
    assert older.table([0.5])[0]["low"] is None


def test_a_damaged_file_of_format_1_is_refused_by_key(tmp_path):
    path = tmp_path / "older.json"
    path.write_text(json.dumps({**FORMAT_1, "kind": "magic"}))
    with pytest.raises(AnalysisError, match="damaged: kind:"):
        load_schedule(path)


def test_a_band_has_the_shape_of_the_fractions_and_holds_the_schedule(schedule):
    where = {"method": "random", "teacher": "cnn8"}
    fractions = np.geomspace(0.1, 0.9, 6).reshape(2, 3)
    low, high = schedule.band(fractions, **where)
    assert low.shape == high.shape == (2, 3)
    assert np.all((low <= schedule(fractions, **where)) & (schedule(fractions, **where) <= high))
    assert schedule.band(0.3, **where) == (
        pytest.approx(schedule.band([0.3], **where)[0][0]),
        pytest.approx(schedule.band([0.3], **where)[1][0]),
    )
    with pytest.raises(AnalysisError, match=r"0 is not in \(0, 1\]"):
        schedule.band(0.0, **where)


def test_far_below_what_was_fitted_on_anything_is_possible(schedule):
    assert schedule.band(1e-4, method="random", teacher="cnn8") == (0.0, 1.0)


def test_a_schedule_is_used_without_what_fitting_needs(schedule, tmp_path):
    path = tmp_path / "schedule.json"
    schedule.save(path)
    code = f"""
import sys
from analysis import load_schedule
schedule = load_schedule({str(path)!r})
where = {{"method": "random", "teacher": "cnn8"}}
print(schedule(0.3, **where), schedule.band([0.3], **where), schedule.table([0.3], **where))
heavy = "torch", "ray", "mlflow", "optuna", "pandas", "scipy", "sklearn", "matplotlib"
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

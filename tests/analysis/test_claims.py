"""Claims judged on evidence made by hand, whose differences and verdicts are known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from analysis.claims import (
    CLAIMS,
    CONTEXT,
    WITH_KD,
    WITHOUT_KD,
    Evidence,
    confirmed_scores,
    judge,
    means,
    size,
)
from analysis.errors import AnalysisError
from analysis.figures import claims as pictures
from analysis.students import tidy_students
from trainables.record import Outcome

SETTING = {
    "label_noise": 0.1,
    "method": "random",
    "teacher": "cnn16",
    "teacher_fraction": 1.0,
    "temperature": 4.0,
    "fraction": 0.1,
}
JITTER = (-0.002, 0.0, 0.002)
"""By seed: what the seeds of one setting differ by."""


def students(score, arm=WITH_KD, jitter=JITTER, **setting):
    """Three students of one setting, one a seed."""
    return [
        {**SETTING, **setting, "arm": arm, "seed": seed, "score": score + wobble}
        for seed, wobble in enumerate(jitter)
    ]


def answer(kd_weight, low, high, **setting):
    return {
        **SETTING,
        **setting,
        "kd_weight": kd_weight,
        "kd_weight_low": low,
        "kd_weight_high": high,
        "n_seeds": 3,
    }


def evidence(*groups, answers=(), student="cnn16"):
    rows = [row for group in groups for row in group]
    scores = pd.DataFrame(rows, columns=[*CONTEXT, "arm", "seed", "score"])
    return Evidence(student, scores, lambda level: pd.DataFrame(list(answers)))


def judged(name, *groups, **more):
    return judge(CLAIMS[name], evidence(*groups, **more))


def test_a_difference_is_paired_by_seed_and_its_interval_is_students():
    # Differences .04, .05 and .06, whatever the seeds themselves are worth.
    found, _ = judged(
        "gain",
        students(0.70, jitter=(0.04, 0.25, 0.46)),
        students(0.70, WITHOUT_KD, jitter=(0.0, 0.2, 0.4)),
    )
    (row,) = found.to_dict("records")
    half = 4.302653 * 0.01 / np.sqrt(3)  # t(.975, 2) s / √n
    assert row["difference"] == pytest.approx(0.05)
    assert (row["low"], row["high"]) == pytest.approx((0.05 - half, 0.05 + half))
    assert (row["n"], row["fraction"], row["method"]) == (3, 0.1, "random")


def test_a_seed_without_its_other_half_does_not_count():
    taught = students(0.8, jitter=(0.001, 0.002, 0.004))
    found, _ = judged("gain", taught, students(0.7, WITHOUT_KD)[:2])
    assert found["n"].tolist() == [2]


@pytest.mark.parametrize(
    ("gain", "word", "holds", "contradicts"),
    [
        (0.05, "agrees", 2, 0),
        (-0.05, "does not agree", 1, 1),
        (0.0, "cannot tell", 1, 0),
    ],
)
def test_one_fraction_decides_whether_distillation_always_helps(gain, word, holds, contradicts):
    wobbling = (-0.003, 0.001, 0.002)
    _, verdict = judged(
        "gain",
        students(0.80, fraction=0.1, jitter=wobbling),
        students(0.70, WITHOUT_KD, fraction=0.1),
        students(0.85 + gain, fraction=0.7, jitter=wobbling),
        students(0.85, WITHOUT_KD, fraction=0.7),
    )
    assert tuple(verdict) == (word, holds, contradicts, 2)
    assert str(verdict).startswith(f"{word}: {holds} of 2 intervals")


def test_a_contradiction_has_to_survive_the_number_of_differences():
    # One loss of .0035 with its 95% interval just below 0: among twenty it is to be expected.
    loss = students(0.7965, jitter=(-0.001, 0.0, 0.001))
    plain = students(0.8, WITHOUT_KD, jitter=(0.0, 0.0, 0.0))
    found, alone = judged("gain", loss, plain)
    assert found["high"].item() < 0
    assert alone.word == "does not agree"
    others = [
        students(0.8, arm, fraction=f / 100, jitter=jitter)
        for f in range(20, 39)
        for arm, jitter in ((WITH_KD, JITTER), (WITHOUT_KD, (0.0, 0.0, 0.0)))
    ]
    _, among = judged("gain", loss, plain, *others)
    assert tuple(among) == ("cannot tell", 0, 0, 20)


@pytest.mark.parametrize(
    ("random", "word"), [(0.80, "agrees"), (0.795, "agrees"), (0.75, "does not agree")]
)
def test_random_pruning_may_be_a_little_worse_and_not_a_lot(random, word):
    found, verdict = judged(
        "random",
        students(random, jitter=(-0.001, 0.0, 0.001)),
        students(0.80, method="el2n", jitter=(0.0, 0.0, 0.0)),
        students(0.78, WITHOUT_KD, method="el2n"),
    )
    assert found["method_other"].tolist() == ["el2n"]
    assert verdict.word == word


def test_teachers_are_compared_at_the_smallest_fraction_by_their_size():
    wobbling = (-0.003, 0.001, 0.002)
    found, verdict = judged(
        "teacher",
        students(0.80, teacher="cnn4"),
        students(0.81, teacher="cnn16", jitter=wobbling),
        students(0.70, teacher="resnet20", jitter=(0.001, 0.0, 0.0)),
        students(0.85, teacher="cnn4", fraction=0.7),
        students(0.95, teacher="resnet20", fraction=0.7),
    )
    pairs = found[["teacher", "teacher_other", "fraction"]].itertuples(index=False, name=None)
    assert set(pairs) == {("cnn4", "resnet20", 0.1), ("cnn16", "resnet20", 0.1)}
    assert verdict.word == "agrees"


def test_a_network_that_is_not_ours_has_no_known_size():
    with pytest.raises(AnalysisError, match="mine:net is no network of ours"):
        size("mine:net")


def test_the_teacher_with_the_most_data_is_compared_with_the_one_with_the_least():
    found, verdict = judged(
        "teacher-fraction",
        students(0.70, teacher_fraction=0.1),
        students(0.95, teacher_fraction=0.3),
        students(0.75, teacher_fraction=1.0, jitter=(-0.001, 0.003, 0.0)),
    )
    assert found[["teacher_fraction", "teacher_fraction_other"]].to_numpy().tolist() == [[1.0, 0.1]]
    assert verdict.word == "agrees"


def test_every_other_temperature_is_compared_with_the_usual_one():
    found, verdict = judged(
        "temperature",
        students(0.80),
        students(0.80, temperature=1.0, jitter=(0.0, 0.001, 0.0)),
        students(0.85, temperature=8.0, jitter=(0.0, 0.001, 0.0)),
    )
    assert sorted(found["temperature_other"]) == [1.0, 8.0]
    assert verdict.word == "does not agree"


def test_a_falling_kd_weight_is_told_from_two_intervals():
    answers = [
        answer(0.9, 0.8, 1.0, fraction=0.1),
        answer(0.1, 0.0, 0.9, fraction=0.3),  # in between: not asked
        answer(0.4, 0.2, 0.5, fraction=0.7),
    ]
    found, verdict = judged("kd-weight", answers=answers)
    (row,) = found.to_dict("records")
    assert row["difference"] == pytest.approx(0.5)
    assert row["low"] == pytest.approx(0.5 - np.hypot(0.1, 0.1))
    assert row["high"] == pytest.approx(0.5 + np.hypot(0.1, 0.2))
    assert verdict.word == "agrees"


def test_a_kd_weight_that_stays_at_its_end_does_not_fall():
    answers = [answer(1.0, 1.0, 1.0, fraction=0.1), answer(1.0, 1.0, 1.0, fraction=0.7)]
    _, verdict = judged("kd-weight", answers=answers)
    assert tuple(verdict) == ("cannot tell", 0, 0, 1)


@pytest.mark.parametrize("name", ["gain", "random", "kd-weight", "teacher"])
def test_nothing_to_compare_is_no_verdict(name):
    with pytest.raises(AnalysisError, match="nothing here can be compared"):
        judged(name, students(0.8), answers=[answer(0.9, 0.8, 1.0)])


def test_means_have_an_interval_over_seeds():
    found = means(pd.DataFrame(students(0.8) + students(0.7, WITHOUT_KD)), level=0.9)
    scores = dict(zip(found["arm"], found["score"], strict=True))
    assert scores == pytest.approx({WITH_KD: 0.8, WITHOUT_KD: 0.7})
    half = 2.919986 * 0.002 / np.sqrt(3)
    assert found["high"].iloc[0] - found["score"].iloc[0] == pytest.approx(half, rel=1e-5)


def test_students_without_a_teacher_belong_to_every_teacher_s_context():
    shared = {"method": "random", "fraction": 0.1, "dataset": "digits", "student": "cnn16"}
    taught = {"teacher_fraction": 1.0, "temperature": 4.0}
    rows = [
        {"kd_weight": weight, "teacher": teacher, "chosen": f"key-{teacher}", **taught}
        for weight, teacher in ((0.7, "cnn4"), (0.9, "cnn16"))
    ]
    rows += [{"kd_weight": 0.0}, {"kd_weight": 1.0, "teacher": "cnn4", **taught}]
    table = tidy_students(
        {
            **{"key": f"{i}", "attempt": 0, "outcome": Outcome.COMPLETE, "seed": 2**32},
            **shared,
            **row,
            "test_score": row["kd_weight"],
        }
        for i, row in enumerate(rows)
    )
    curve = pd.DataFrame(
        {**SETTING, **shared, "context": f"key-{teacher}", "teacher": teacher, "kd_weight": weight}
        for teacher, weight in (("cnn4", 0.7), ("cnn16", 0.9), ("resnet20", np.nan))
    )
    curve.attrs["tuned"] = ("kd_weight",)
    scores = confirmed_scores(curve, table)
    assert scores[["teacher", "arm", "score"]].to_numpy().tolist() == [
        ["cnn4", WITH_KD, 0.7],
        ["cnn4", WITHOUT_KD, 0.0],
        ["cnn16", WITH_KD, 0.9],
        ["cnn16", WITHOUT_KD, 0.0],
    ]
    taught_alone = confirmed_scores(curve, table[table["kd_weight"] > 0.0])
    assert taught_alone["arm"].tolist() == [WITH_KD, WITH_KD]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_has_a_picture(name, tmp_path):
    varied = {
        "method": ("random", "el2n"),
        "teacher": ("cnn4", "resnet20"),
        "teacher_fraction": (0.1, 1.0),
        "temperature": (1.0, 4.0),
        "fraction": (0.1, 0.7),
        "label_noise": (0.0, 0.1),
    }
    whole = evidence(
        *(
            students(0.7, arm, **{key: value})
            for key, values in varied.items()
            for value in values
            for arm in (WITH_KD, WITHOUT_KD)
        ),
        answers=[
            answer(0.5, 0.4, 0.7, label_noise=noise, fraction=f)
            for noise in (0.0, 0.1)
            for f in (0.1, 0.7)
        ],
    )
    whole = dataclasses.replace(
        whole, scores=whole.scores.drop_duplicates([*CONTEXT, "arm", "seed"])
    )
    frame = pictures.tidy(name, CLAIMS[name], whole)
    layout = pictures.LAYOUTS[name]
    assert frame["x"].nunique() == len(varied[layout.x]) + (layout.x == "teacher")
    if CLAIMS[name].tested:
        assert frame["value"].tolist() == pytest.approx([70.0] * len(frame))
    drawing = pictures.draw(frame)
    assert len(drawing.marks) == len(frame)
    drawing.save(tmp_path / "picture.png", "png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000

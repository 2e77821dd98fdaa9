"""What a study claims of distillation on pruned data, and whether intervals bear it out.

A claim is a family of differences, each said to lie above a bound. It agrees with what was measured
if the interval of every difference does: that takes no correction for their number, since all
have to (an intersection-union test). It does not agree if the interval of some difference lies
below, at the level that allows for their number (Bonferroni). Else nothing can be told.

Differences of accuracy are of students trained afresh and judged on the test set, paired by seed,
which fixes initial weights, batches and the random subset whatever else differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analysis.confirmation import confirmed_students
from analysis.curve import fit_curve
from analysis.errors import AnalysisError, known
from analysis.paired import paired_t
from analysis.runs import load_runs, together
from analysis.students import load_students
from trainables.costs import parameters

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95
"""Probability inside an interval."""
COMPARABLE = -0.01
"""A difference above this is called comparable: not a point of accuracy worse. Our convention."""
USUAL_TEMPERATURE = 4.0
"""What a search uses that names none."""
WITH_KD, WITHOUT_KD = "with KD", "without KD"
CONTEXT = ("label_noise", "method", "teacher", "teacher_fraction", "temperature", "fraction")
"""What tells the contexts of studies apart."""
CHANNELS, CLASSES = 3, 10
"""Of the images for which networks are put in order of size."""


@dataclass(frozen=True)
class Evidence:
    """What one or several searches found."""

    student: str
    """Architecture of the students."""
    scores: "pd.DataFrame"
    """A row per student that was judged on test: every name of `CONTEXT`, `arm` (`WITH_KD` at the
    confirmed KD weight, or `WITHOUT_KD`), `seed`, `score` (test accuracy, in [0, 1])."""
    curve: "Callable[[float], pd.DataFrame]"
    """The answers with intervals of a level, as `fit_curve` gives them."""


class Verdict(NamedTuple):
    """Whether a claim agrees with what was measured."""

    word: str
    """`agrees`, `does not agree` or `cannot tell`."""
    holds: int
    """Differences whose interval lies above the bound."""
    contradicts: int
    """Those whose interval, widened for their number, lies below it."""
    differences: int
    """How many there are."""

    def __str__(self) -> str:
        return (
            f"{self.word}: {self.holds} of {self.differences} intervals lie where the claim says, "
            f"{self.contradicts} on the other side"
        )


class Claim(NamedTuple):
    """A claim and the differences that decide it."""

    text: str
    unit: str
    """Of the differences: `points` of accuracy, or `KD weight`."""
    bound: float
    """What every difference is said to lie above."""
    differences: "Callable[[Evidence, float], pd.DataFrame]"
    """At a level; see `versus` for the columns."""
    tested: bool = True
    """Whether it is about students judged on test."""


def judge(claim: Claim, evidence: Evidence) -> tuple["pd.DataFrame", Verdict]:
    """The differences behind a claim, with intervals of `LEVEL`, and what they say of it.

    Raises:
        AnalysisError: the evidence has no two settings to compare.
    """
    found = claim.differences(evidence, LEVEL)
    if found.empty:
        raise AnalysisError(f"nothing here can be compared to judge: {claim.text}")
    widened = claim.differences(evidence, 1.0 - (1.0 - LEVEL) / len(found))
    holds = int((found["low"] > claim.bound).sum())
    contradicts = int((widened["high"] < claim.bound).sum())
    word = "does not agree" if contradicts else "cannot tell"
    if holds == len(found):
        word = "agrees"
    return found, Verdict(word, holds, contradicts, len(found))


def gather(names: Sequence[str], tracking_uri: str) -> Evidence:
    """Read what searches and their confirmations found, from MLflow.

    Raises:
        AnalysisError: as `load_runs`, or the searches have different students.
    """
    frames = {name: load_runs(name, tracking_uri) for name in names}
    runs = together(frames)
    students = sorted(runs["student"].unique())
    if len(students) != 1:
        raise AnalysisError(f"one study has one student; these searches have {known(students)}")
    tested = [
        confirmed_scores(fit_curve(frame), load_students(name, tracking_uri))
        for name, frame in frames.items()
    ]
    return Evidence(students[0], _stacked(tested), lambda level: fit_curve(runs, level=level))


def confirmed_scores(curve: "pd.DataFrame", students: "pd.DataFrame") -> "pd.DataFrame":
    """The test accuracies behind the answers of one search: `Evidence.scores`.

    Args:
        curve: from `fit_curve`.
        students: from `load_students`.
    """
    import pandas as pd  # noqa: PLC0415  (with `import analysis` nothing is loaded)

    rows = [
        {name: answer[name] for name in CONTEXT}
        | {"arm": arm, "seed": student["seed"], "score": student["test_score"]}
        for answer in curve[curve["kd_weight"].notna()].to_dict("records")
        for arm, at in ((WITH_KD, answer), (WITHOUT_KD, {**answer, "kd_weight": 0.0}))
        for student in confirmed_students(at, students, curve.attrs["tuned"])
        # Where none was trained without KD, what is found is the answer again.
        if arm == WITH_KD or student["kd_weight"] == 0.0
    ]
    return pd.DataFrame(rows, columns=[*CONTEXT, "arm", "seed", "score"])


def means(scores: "pd.DataFrame", level: float = LEVEL) -> "pd.DataFrame":
    """Mean test accuracy by context and arm: `score`, `low`, `high` (t over seeds), `n` seeds."""
    by = [*CONTEXT, "arm"]
    return _over_seeds(scores.rename(columns={"score": "each"}), by, "score", level)


def versus(one: "pd.DataFrame", other: "pd.DataFrame", varied: str, level: float) -> "pd.DataFrame":
    """How much better one setting is than another, all else and the seed being equal.

    Args:
        one: rows of `Evidence.scores`.
        other: those that they are compared with.
        varied: the column in which they differ.
        level: probability inside an interval.

    Returns:
        A row for each pair of settings: every name of `CONTEXT` and `arm`, the other's value as
        `VARIED_other`, `difference` (mean over seeds) with `low` and `high` (paired t interval;
        missing where the differences do not vary), and `n` seeds.
    """
    alike = [name for name in (*CONTEXT, "arm") if name != varied]
    pairs = one.merge(other, on=[*alike, "seed"], suffixes=("", "_other"))
    pairs["each"] = pairs["score"] - pairs["score_other"]
    return _over_seeds(pairs, [*alike, varied, f"{varied}_other"], "difference", level)


def gains(evidence: Evidence, level: float) -> "pd.DataFrame":
    """Distillation at the best KD weight against none."""
    scores = evidence.scores
    taught = scores["arm"] == WITH_KD
    return versus(scores[taught], scores[~taught], "arm", level)


def random_beside_scores(evidence: Evidence, level: float) -> "pd.DataFrame":
    """Random pruning against every other method, both with distillation."""
    taught = _taught(evidence)
    random = taught["method"] == "random"
    return versus(taught[random], taught[~random], "method", level)


def smaller_teachers(evidence: Evidence, level: float) -> "pd.DataFrame":
    """At the smallest fraction: teachers up to the student's size against each larger one."""
    taught = _taught(evidence)
    least = taught[taught["fraction"] == taught["fraction"].min()]
    larger = least["teacher"].map(size) > size(evidence.student)
    return versus(least[~larger], least[larger], "teacher", level)


def more_taught_teachers(evidence: Evidence, level: float) -> "pd.DataFrame":
    """The teacher with the most data against the one with the least."""
    taught = _taught(evidence)
    seen = taught["teacher_fraction"]
    return versus(taught[seen == seen.max()], taught[seen == seen.min()], "teacher_fraction", level)


def usual_temperature(evidence: Evidence, level: float) -> "pd.DataFrame":
    """The usual temperature against each other, both at their best KD weight."""
    taught = _taught(evidence)
    usual = taught["temperature"] == USUAL_TEMPERATURE
    return versus(taught[usual], taught[~usual], "temperature", level)


def falling_kd_weights(evidence: Evidence, level: float) -> "pd.DataFrame":
    """The best KD weight at the smallest fraction less that at the largest, all else being equal.

    The interval of the difference d = a - b follows from those of a and b, which are taken as
    independent: from d - √((a - low a)² + (high b - b)²) to d + √((high a - a)² + (b - low b)²).

    Source:
        Zou and Donner 2008, "Construction of confidence limits about effect measures" (MOVER).
    """
    curve = evidence.curve(level)
    answers = curve[curve["kd_weight"].notna()]
    fractions = answers["fraction"]
    alike = [name for name in CONTEXT if name != "fraction"]
    pairs = answers[fractions == fractions.min()].merge(
        answers[fractions == fractions.max()], on=alike, suffixes=("", "_other")
    )
    pairs = pairs[pairs["fraction"] < pairs["fraction_other"]]
    value, low, high = (pairs[f"kd_weight{end}"] for end in ("", "_low", "_high"))
    other, other_low, other_high = (pairs[f"kd_weight{end}_other"] for end in ("", "_low", "_high"))
    differences: pd.DataFrame = pairs[[*alike, "fraction", "fraction_other"]].assign(
        difference=value - other,
        low=value - other - np.hypot(value - low, other_high - other),
        high=value - other + np.hypot(high - value, other - other_low),
        n=pairs[["n_seeds", "n_seeds_other"]].min(axis=1),
    )
    return differences


def size(architecture: str) -> int:
    """Trained parameters of a network on small colour images.

    Raises:
        AnalysisError: it is none of ours.
    """
    count = parameters(architecture, CHANNELS, CLASSES)
    if count is None:
        raise AnalysisError(f"{architecture} is no network of ours: its size is not known")
    return count


CLAIMS: dict[str, Claim] = {
    "gain": Claim(
        "With every pruning method and at every fraction distillation is better than none",
        "points",
        0.0,
        gains,
    ),
    "random": Claim(
        "With distillation random pruning is at every fraction better than every score or "
        "comparable (not a point worse)",
        "points",
        COMPARABLE,
        random_beside_scores,
    ),
    "kd-weight": Claim(
        "The best KD weight is lower at the largest fraction than at the smallest, with every "
        "method",
        "KD weight",
        0.0,
        falling_kd_weights,
        tested=False,
    ),
    "teacher": Claim(
        "At the smallest fraction a teacher of the student's size, or smaller, is better than a "
        "larger one",
        "points",
        0.0,
        smaller_teachers,
    ),
    "teacher-fraction": Claim(
        "A teacher trained on the most data is better than one trained on the least, at every "
        "fraction",
        "points",
        0.0,
        more_taught_teachers,
    ),
    "temperature": Claim(
        "Temperature 4 with its best KD weight is at every fraction better than every other "
        "temperature with its own, or comparable (not a point worse)",
        "points",
        COMPARABLE,
        usual_temperature,
    ),
}
"""By name. All but the last are of Ben-Baruch et al. (arXiv:2403.07854), in our words and with our
bounds; the last is about kdcurve's own default."""


def _taught(evidence: Evidence) -> "pd.DataFrame":
    return evidence.scores[evidence.scores["arm"] == WITH_KD]


def _over_seeds(frame: "pd.DataFrame", by: list[str], name: str, level: float) -> "pd.DataFrame":
    """The mean of `each` with its interval, by group."""
    import pandas as pd  # noqa: PLC0415

    rows = []
    for values, part in frame.groupby(by, dropna=False):
        found = paired_t(part["each"], level)
        rows.append((*values, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=[*by, name, "low", "high", "n"])


def _stacked(frames: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    """Frames below each other; empty ones have no types to agree on."""
    import pandas as pd  # noqa: PLC0415

    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled or frames[:1], ignore_index=True)

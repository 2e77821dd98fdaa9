"""A confirmation's students in the record and in MLflow: the same table, and never trials."""

import math

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from analysis.confirmation import with_test
from analysis.curve import best, fit_curve
from analysis.runs import load_runs
from analysis.students import load_students
from search.answers import recorded
from search.confirmation import plan_confirmation
from search.frame import runs_frame, students_frame
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.publish import publish
from search.retraining import record_student
from search.tracking import Delivery
from trainables import record
from trainables.engine import Diverged
from trainables.record import Kind, Outcome, SearchState

CONTEXTS = {"method": ["random"], "fraction": [0.1, 0.9], "teacher": ["cnn4", "cnn16"]}
SEEDS = 3


def reported(student):
    """What training would report: KD weight 0.3 is best, seeds differ in their luck."""
    seed = student.config.seed - record.SEEDS_OF_TRIALS
    score = 0.8 + 0.01 * seed**2 - 0.1 * (student.config.kd_weight - 0.3) ** 2
    score += 0.001 * seed * student.config.kd_weight
    return {
        record.EPOCH: 9,
        record.VAL_ACCURACY: score + 0.01,
        record.SECONDS: 1.5,
        record.TEST_ACCURACY: score,
        record.TEST_NLL: 0.7,
    }


@pytest.fixture(scope="module")
def confirmed(places, make_spec, plan, rehearsal, tmp_path_factory):
    """A rehearsed search with answers, of whose students one failed twice."""
    folder = tmp_path_factory.mktemp("confirmed")
    spec = make_spec(name="confirmed", contexts=CONTEXTS)
    ledger = plan(Journal(f"sqlite:///{folder / 'record.db'}"), spec)
    rehearsal(spec, ledger, folder).run()
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
    publish(ledger, places)
    students = plan_confirmation(ledger, SEEDS).students
    for student in students:
        record_student(ledger, student, reported(student))
    unlucky = next(s for s in students if s.chosen and s.config.seed == record.SEEDS_OF_TRIALS)
    for epoch in (2, 3):
        record_student(ledger, unlucky, Diverged(epoch, 7, {}))
    publish(ledger, places)
    delivery = Delivery(ledger.journal, spec, places)
    delivery.start()
    assert delivery.finish(60.0)
    return ledger


def test_the_record_gives_the_same_students_as_mlflow_cell_for_cell(confirmed, places):
    theirs = load_students("confirmed", places.tracking_uri)
    ours = students_frame(Ledger(confirmed.journal, "confirmed"))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert len(ours) == len(plan_confirmation(confirmed, SEEDS).students)
    plain = ours[ours["kd_weight"] == 0.0]
    assert plain[list(record.TEACHING_PARAMS)].isna().all(axis=None), "no teacher played a part"
    assert ours["chosen"].notna().sum() == SEEDS * 4


def test_students_are_no_trials(confirmed, places):
    runs = load_runs("confirmed", places.tracking_uri)
    assert len(runs) == len(confirmed.trials)
    assert runs["seed"].max() < record.SEEDS_OF_TRIALS
    pd.testing.assert_frame_equal(runs, runs_frame(confirmed, places), check_exact=True)


def test_students_have_runs_of_their_own_with_their_end(confirmed, places):
    client = MlflowClient(places.tracking_uri)
    experiment = client.get_experiment_by_name("confirmed").experiment_id
    runs = client.search_runs(
        [experiment], f"tags.`{record.TAG_KIND}` = '{Kind.CONFIRMATION}'", max_results=1000
    )
    assert len(runs) == len(confirmed.confirmed) + 2, "each attempt is a run of its own"
    failed = [run for run in runs if run.info.status == "FAILED"]
    assert {run.data.tags[record.TAG_STUDENT].partition("/")[2] for run in failed} == {"2", "3"}
    assert all("not finite in epoch" in run.data.tags[record.TAG_REASON] for run in failed)
    done = next(run for run in runs if run.info.status == "FINISHED")
    assert 0.7 < done.data.metrics[record.TEST_ACCURACY] < 0.9
    assert done.info.end_time - done.info.start_time == 1500


def test_answers_have_what_the_test_set_says_wherever_they_come_from(confirmed, places):
    curves = {
        "recorded": recorded("confirmed", places_of(confirmed, places)),
        "MLflow's recorded": best("confirmed", places.tracking_uri),
        "fresh": best("confirmed", places.tracking_uri, fresh=True),
        "the record's": with_test(
            fit_curve(runs_frame(confirmed, places)), students_frame(confirmed)
        ),
    }
    for name, curve in curves.items():
        assert curve["test_seeds"].tolist().count(SEEDS) == 3, name
        assert curve["test_failed"].sum() == 1, name
        pd.testing.assert_frame_equal(curve, curves["the record's"], check_exact=True)
    gains = curves["fresh"]["test_gain"]
    assert (gains > 0).all()
    assert curves["fresh"]["test_gain_p"].between(0.0, 1.0).all()


def places_of(ledger, places):
    from dataclasses import replace

    return replace(places, record=ledger.journal.uri)


def test_a_filter_changes_no_adjusted_p(confirmed, places):
    whole = best("confirmed", places.tracking_uri)
    one = best("confirmed", places.tracking_uri, fraction=0.1, teacher="cnn4")
    (row,) = one.to_dict("records")
    expected = whole[whole["context"] == row["context"]].to_dict("records")[0]
    assert row["test_gain_p"] == expected["test_gain_p"]


def test_gains_are_metrics_of_the_parent_run(confirmed, places):
    client = MlflowClient(places.tracking_uri)
    runs = load_runs("confirmed", places.tracking_uri)
    curve = best("confirmed", places.tracking_uri)
    for over, column in ((0, "test_gain"), (1, "test_gain_over_1")):
        points = client.get_metric_history(
            runs.attrs["parent_run_id"], record.confirmed_metric("random", "cnn4", over)
        )
        mine = curve[curve["teacher"] == "cnn4"]
        assert {p.step / 1000: p.value for p in points} == pytest.approx(
            dict(zip(mine["fraction"], mine[column], strict=True))
        )


def test_a_failed_student_is_shown_with_its_reason(confirmed, places):
    curve = best("confirmed", places.tracking_uri)
    (note,) = curve["test_note"].dropna()
    assert note.startswith("test: 1 failed (Diverged: the loss is not finite in epoch 3")
    event = next(e for e in confirmed.confirmed.values() if e.data["outcome"] == Outcome.FAILED)
    assert event.data["attempt"] == 3


def test_answers_that_change_leave_the_confirmation_marked_as_of_the_older(confirmed, places):
    changed = fit_curve(runs_frame(confirmed, places))
    before = changed["kd_weight"].copy()
    changed["kd_weight"] = before.map(lambda weight: math.nextafter(weight, 2.0) + 0.1)
    curve = with_test(changed, students_frame(confirmed))
    assert curve["test_kd_weight"].tolist() == before.tolist()
    assert curve["test_note"].str.contains("an older answer, KD weight").all()

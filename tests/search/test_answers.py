"""Recorded answers: given while they are current, equal to computed ones, and named so."""

import json
import shutil
import time
from collections import OrderedDict

import pandas as pd
import pytest
import sqlalchemy as sa

from analysis.curve import best
from analysis.errors import AnalysisError
from analysis.recorded import FILE, from_document, to_text
from search.answers import ask, compare_answers, recorded
from search.errors import UsageError
from search.journal import Event, EventKind, Journal
from search.ledger import Ledger
from search.places import Places
from search.publish import publish
from search.tracking import Delivery
from trainables.record import Outcome, SearchState

NAME = "answered"


def deliver(ledger, places):
    delivery = Delivery(ledger.journal, ledger.spec, places)
    delivery.start()
    assert delivery.finish(300.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory, make_spec, plan, rehearsal):
    """A complete search with its answers, in a home of its own; copy it before writing."""
    places = Places.at(tmp_path_factory.mktemp("answered") / "home")
    places.make()
    contexts = {"method": "random", "fraction": [0.1, 0.5, 0.9], "teacher": ["cnn4", "cnn8"]}
    spec = make_spec(name=NAME, contexts=contexts)
    ledger = plan(Journal(places.record), spec)
    rehearsal(spec, ledger, places.folder(NAME)).run()
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE, reason="12 trials per context")
    publish(ledger, places)
    deliver(ledger, places)
    return places


@pytest.fixture
def copied(home, tmp_path, monkeypatch):
    """Such a home to write to, artifacts and all."""
    shutil.copytree(home.home, tmp_path / "home")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    with engine.begin() as connection:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            moved = f"UPDATE {table} SET {column} = replace({column}, :old, :new)"
            where = {"old": str(home.home), "new": str(tmp_path / "home")}
            connection.execute(sa.text(moved), where)
    engine.dispose()
    # MLflow remembers where a run's artifacts are by its id, which copies have in common.
    monkeypatch.setattr(
        "mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict()
    )
    return Places.at(tmp_path / "home")


def add_trial(places):
    """One more complete trial, as a resumed search would record it; returns the ledger."""
    ledger = Ledger(Journal(places.record), NAME)
    first, number = ledger.trials[0], len(ledger.trials)
    ledger.record(EventKind.RESUMED)
    ledger.record(
        EventKind.PROPOSED,
        number,
        context=first.context,
        values={"kd_weight": 0.4},
        seed=first.seed,
        start_design=False,
    )
    ledger.record(EventKind.STARTED, number)
    metrics = {"epoch": 9, "val_accuracy": 0.7}
    ledger.record(EventKind.REPORTED, number, epoch=9, metrics=metrics)
    ledger.record(EventKind.ENDED, number, outcome=Outcome.COMPLETE, reason=None)
    return ledger


def test_recorded_answers_equal_those_computed_afresh_number_for_number(home):
    fresh = best(NAME, home.tracking_uri, fresh=True)
    assert fresh.attrs["recorded"] is None
    for found in (recorded(NAME, home), best(NAME, home.tracking_uri)):
        pd.testing.assert_frame_equal(found, fresh, check_exact=True)
        assert found.attrs["recorded"] is not None
        same = {**fresh.attrs, "recorded": found.attrs["recorded"]}
        same["parent_run_id"] = found.attrs["parent_run_id"]
        assert found.attrs == same


def test_another_estimator_or_level_is_computed(home):
    assert best(NAME, home.tracking_uri, estimator="quadratic").attrs["recorded"] is None
    assert best(NAME, home.tracking_uri, level=0.5).attrs["recorded"] is None
    assert ask([NAME], home, {}, estimator="grid").attrs["recorded"] is None


def test_what_is_asked_for_is_taken_from_the_recorded_answers(home):
    whole = recorded(NAME, home)
    row = ask([NAME], home, {"method": "random", "fraction": 0.5, "teacher": "cnn8"})
    assert row["kd_weight"].tolist() == whole.query("fraction == 0.5 and teacher == 'cnn8'")[
        "kd_weight"
    ].tolist()  # fmt: skip
    with pytest.raises(AnalysisError, match="teacher 'vit' is not in search 'answered'"):
        ask([NAME], home, {"teacher": "vit"})


def test_the_record_alone_answers(copied):
    (copied.home / "mlflow.db").unlink()
    assert len(ask([NAME], copied, {})) == 6


def test_mlflow_alone_answers(copied, tmp_path):
    elsewhere = Places.at(tmp_path / "none", tracking_uri=copied.tracking_uri)
    assert recorded(NAME, elsewhere) is None
    assert ask([NAME], elsewhere, {}).attrs["recorded"] is not None


def test_a_record_does_not_answer_for_another_mlflow(home):
    other = Places.at(home.home, tracking_uri="sqlite:////elsewhere/mlflow.db")
    assert recorded(NAME, other) is None
    # A record in a place of its own answers for the MLflow it was delivered to.
    apart = Places.at(home.home / "x", record=home.record, tracking_uri=home.tracking_uri)
    assert recorded(NAME, apart) is not None


def test_a_trial_after_the_answers_makes_them_old_until_they_are_made_again(copied):
    before = recorded(NAME, copied)["n_complete"].sum()
    ledger = add_trial(copied)
    assert recorded(NAME, copied) is None
    deliver(ledger, copied)
    # Even where the record is out of reach: the parent run counts its trials.
    assert best(NAME, copied.tracking_uri).attrs["recorded"] is None
    assert ask([NAME], copied, {})["n_complete"].sum() == before + 1
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
    publish(ledger, copied)
    deliver(ledger, copied)
    fresh = best(NAME, copied.tracking_uri, fresh=True)
    for found in (recorded(NAME, copied), best(NAME, copied.tracking_uri)):
        assert found.attrs["recorded"] is not None
        pd.testing.assert_frame_equal(found, fresh, check_exact=True)


def test_what_an_older_version_recorded_is_computed(copied):
    Journal(copied.record).append(NAME, [(EventKind.ANSWER, None, {"curve": []})])
    assert recorded(NAME, copied) is None
    assert ask([NAME], copied, {}).attrs["recorded"] is not None  # from MLflow


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.pop("attrs"),
        lambda document: document["attrs"].pop("level"),
        lambda document: document.update(format=99),
        lambda document: document["attrs"].update(estimator="of another version"),
        lambda document: document.update(curve=[{"context": "x"}]),
        lambda document: document["curve"][0].update(kd_weight="much"),
    ],
)
def test_a_damaged_document_is_no_answer(home, spoil):
    document = json.loads((home.answers(NAME) / FILE).read_text())
    assert from_document(document) is not None
    spoil(document)
    assert from_document(document) is None


def test_contexts_without_an_answer_survive_the_document(home):
    curve = recorded(NAME, home)
    curve.loc[0, ["kd_weight", "score", "temperature"]] = float("nan")
    curve.loc[0, "reason"] = "no complete trial"
    document = json.loads((home.answers(NAME) / FILE).read_text())
    document.pop("curve")
    again = from_document(json.loads(to_text(curve, document)))
    pd.testing.assert_frame_equal(again, curve, check_exact=True)


def test_the_command_says_where_its_numbers_come_from(home, monkeypatch):
    from typer.testing import CliRunner

    from search.cli import app

    monkeypatch.setenv("COLUMNS", "250")

    def said(*more):
        return CliRunner().invoke(app, ["best", NAME, "--home", str(home.home), *more]).stdout

    assert "Recorded on" in said()
    fresh = said("--fresh", "--no-cache")
    assert "Computed afresh." in fresh
    assert fresh.partition("[low, high]")[0] == said().partition("[low, high]")[0]
    assert len(json.loads(said("--format", "json"))) == 6


def test_answers_do_not_wait_for_a_large_record(copied):
    """The newest event is found by its number, however many there are before it."""
    many = (Event(i, 0.0, EventKind.REPORTED, 0, {}) for i in range(1, 100_001))
    Journal(copied.record).write("other", many)
    began = time.monotonic()
    assert recorded(NAME, copied) is not None
    assert time.monotonic() - began < 1.0


def test_several_searches_stand_in_one_table(home, make_spec, plan, rehearsal):
    journal = Journal(home.record)
    contexts = {"method": "random", "fraction": [0.1, 0.5], "teacher": ["cnn8", "cnn16"]}
    spec = make_spec(name="second", contexts=contexts)
    ledger = plan(journal, spec)
    rehearsal(spec, ledger, home.folder("second")).run()
    ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
    deliver(ledger, home)
    both = ask([NAME, "second"], home, {})
    assert both["search"].tolist() == [NAME] * 6 + ["second"] * 4
    assert both.attrs["searches"][NAME]["recorded"] is not None
    assert both.attrs["searches"]["second"]["recorded"] is None
    pd.testing.assert_frame_equal(
        best([NAME, "second"], home.tracking_uri, fresh=True), both, check_exact=True
    )
    chosen = ask([NAME, "second"], home, {}, ["method"])
    assert chosen["fraction"].tolist() == [0.1, 0.5, 0.9]
    assert chosen["n_compared"].tolist() == [4, 4, 2]
    for row in chosen.to_dict("records"):
        rivals = both[both["fraction"] == row["fraction"]]
        assert row["score"] == rivals["score"].max()
    by_teacher = ask([NAME, "second"], home, {}, ["teacher"])
    assert len(by_teacher) == 3 + 3 + 2
    with pytest.raises(AnalysisError, match="told apart by 'metod'; known: search, dataset"):
        ask([NAME, "second"], home, {}, ["metod"])
    with pytest.raises(UsageError, match="named twice"):
        ask([NAME, NAME], home, {})
    compared = compare_answers(NAME, "second", home)
    assert compared["only_in"].dropna().value_counts().to_dict() == {NAME: 4, "second": 2}


def test_a_search_and_its_schedule_are_compared_inside_its_range(home):
    file = home.answers(NAME) / "schedule.json"
    compared = compare_answers(NAME, str(file), home)
    assert compared["difference"].abs().max() < 0.5
    assert compared["only_in"].isna().all()
    turned = compare_answers(str(file), NAME, home)
    assert turned["difference"].tolist() == (-compared["difference"]).tolist()
    assert turned.attrs["names"] == ("schedule.json", NAME)

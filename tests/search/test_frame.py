import math

import pandas as pd
import pytest

from analysis.curve import fit_curve
from analysis.histories import load_histories
from analysis.runs import load_runs
from search.frame import histories_frame, runs_frame
from search.journal import EventKind
from search.ledger import Ledger
from search.tracking import Delivery
from trainables.record import Outcome, SearchState


@pytest.fixture(scope="module")
def mixed(places, make_spec, plan, rehearsal, tmp_path_factory):
    """A rehearsed search with trials of every outcome and some that did not end, delivered."""
    from search.journal import Journal

    spec = make_spec(name="mixed", tune={"kd_weight": {"low": 0.1, "high": 0.9}})
    folder = tmp_path_factory.mktemp("mixed")
    ledger = plan(Journal(f"sqlite:///{folder / 'record.db'}"), spec)
    rehearsed = rehearsal(spec, ledger, folder)
    rehearsed.run(trials=20)
    rehearsed.run(trials=1, cut_at=2)
    for outcome in (Outcome.FAILED, Outcome.TIMEOUT):  # one after two epochs, one at once
        number = len(ledger.trials)
        config = rehearsed.searcher.suggest(f"ill-{number}")
        assert config["number"] == number
        if outcome is Outcome.FAILED:
            ledger.record(EventKind.STARTED, number)
            for epoch, score in ((1, 0.5), (2, math.nan)):
                metrics = {"epoch": epoch, "val_accuracy": score, "seconds": 0.1 * epoch}
                ledger.record(EventKind.REPORTED, number, epoch=epoch, metrics=metrics)
        ledger.record(EventKind.ENDED, number, outcome=outcome, reason=f"ValueError: {outcome}")
    rehearsed.searcher.suggest("never-started")
    return ledger


def delivered(ledger, places):
    delivery = Delivery(ledger.journal, ledger.spec, places)
    delivery.start()
    assert delivery.finish(60.0)
    return load_runs(ledger.search, places.tracking_uri)


@pytest.mark.parametrize("halted", [False, True], ids=["running", "interrupted"])
def test_the_record_gives_the_same_table_as_mlflow_cell_for_cell(mixed, places, halted):
    if halted:
        mixed.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
    theirs = delivered(mixed, places)
    ours = runs_frame(Ledger(mixed.journal, mixed.search), places)
    assert {*Outcome} < {*theirs["outcome"], None}
    assert theirs["outcome"].isna().sum() == 1  # the cut one; the unstarted one has no row
    assert theirs["score"].isna().sum() == 2
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert ours.attrs == {**theirs.attrs, "parent_run_id": None}
    assert ours.attrs["state"] == ("interrupted" if halted else "running")
    assert ours.attrs["kd_weight_range"] == (0.1, 0.9)


def test_both_tables_give_the_same_answers(mixed, places):
    ours = fit_curve(runs_frame(mixed, places))
    pd.testing.assert_frame_equal(ours, fit_curve(delivered(mixed, places)), check_exact=True)


def test_both_give_the_same_learning_curves(mixed, places):
    runs = delivered(mixed, places)
    theirs = load_histories(runs, places.tracking_uri).sort_values(["trial", "epoch"])
    ours = histories_frame(mixed, sorted(runs["trial"]))
    assert ours["score"].isna().sum() == 1
    pd.testing.assert_frame_equal(ours, theirs.reset_index(drop=True), check_exact=True)


def test_a_search_without_trials_is_an_empty_table_of_the_same_columns(
    mixed, plan, journal, make_spec, places
):
    empty = runs_frame(plan(journal, make_spec()), places)
    assert len(empty) == 0
    assert list(empty.columns) == list(runs_frame(mixed, places).columns)


def test_the_table_names_mlflow_without_its_password(mixed, places):
    from dataclasses import replace

    elsewhere = replace(places, tracking_uri="http://someone:hunter2@mlflow:5000")
    attrs = runs_frame(mixed, elsewhere).attrs
    assert attrs["tracking_uri"] == "http://someone:***@mlflow:5000"

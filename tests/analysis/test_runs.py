import subprocess
import sys
import time

import numpy as np
import pytest

from analysis import reading
from analysis.errors import AnalysisError
from analysis.runs import load_runs
from trainables import record
from trainables.record import Outcome


def test_every_trial_is_one_typed_row(runs):
    assert len(runs) == 16 * 11 + 4
    assert list(runs["trial"]) == list(range(len(runs)))
    assert runs["kd_weight"].dtype == runs["score"].dtype == np.float64
    assert str(runs["seed"].dtype) == str(runs["epoch"].dtype) == "Int64"
    assert str(runs["start_time"].dtype).endswith("UTC]")
    assert set(record.TRIAL_PARAMS) < set(runs.columns)
    assert runs.attrs["search"] == "planted"
    assert runs.attrs["tuned"] == ("kd_weight",)
    assert runs.attrs["kd_weight_range"] == (0.0, 1.0)
    assert runs.attrs["objective"] == record.VAL_ACCURACY
    assert runs.attrs["state"] == "complete"


def test_the_score_is_the_objectives_last_value(runs):
    complete = runs[runs["outcome"] == Outcome.COMPLETE]
    assert (complete["epoch"] == 3).all()
    assert (complete["seconds"] == 6.0).all()
    assert complete["score"].between(0.6, 0.95).all()


def test_a_failed_trial_has_a_reason_and_never_the_score_0(runs):
    failed = runs[runs["outcome"] == Outcome.FAILED]
    assert list(failed["reason"]) == [
        "CUDA error: out of memory <b>",
        "loss is not finite at epoch 2",
    ]
    assert np.isnan(failed["score"].iloc[0])


def test_a_running_trial_has_no_outcome(runs):
    assert runs["outcome"].isna().sum() == 1


def test_all_pages_are_read(store, runs, monkeypatch):
    monkeypatch.setattr(reading, "PAGE_RUNS", 50)
    assert load_runs("planted", store, cache=False).equals(runs)


def test_a_trial_delivered_twice_counts_once(world, client, uri, store):
    writer = world.Writer(client, "twice")
    where = {"method": "random", "teacher": "cnn8", "fraction": 0.5, "kd_weight": 0.5, "seed": 0}
    writer.trial([0.7], Outcome.COMPLETE, number=0, **where)
    writer.trial([0.2], None, number=0, **where)
    (row,) = load_runs("twice", uri).to_dict("records")
    assert (row["outcome"], row["score"]) == (Outcome.COMPLETE, 0.7)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plantd", "no search named 'plantd'.*did you mean planted"),
        ("someone-elses", "was not written by kdcurve"),
    ],
)
def test_a_wrong_name_is_one_clear_line(store, name, says):
    with pytest.raises(AnalysisError, match=says) as caught:
        load_runs(name, store)
    assert "\n" not in str(caught.value)


def test_a_missing_database_is_not_made(missing):
    with pytest.raises(AnalysisError, match=r"no MLflow database at .*none\.db"):
        load_runs("planted", f"sqlite:///{missing}")
    assert not missing.exists()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/mlflow"])
def test_a_server_that_does_not_answer_is_said_at_once(uri):
    start = time.monotonic()
    with pytest.raises(AnalysisError, match="does not answer") as caught:
        load_runs("planted", uri)
    assert time.monotonic() - start < 10
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("these are not tables\n" * 100)
    with pytest.raises(AnalysisError, match="cannot be read") as caught:
        load_runs("planted", f"sqlite:///{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["analysis", "analysis.schedule"])
def test_importing_loads_nothing_heavy(module):
    heavy = ("torch", "ray", "mlflow", "optuna", "pandas", "scipy", "sklearn", "matplotlib")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

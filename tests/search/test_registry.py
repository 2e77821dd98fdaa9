"""Schedules as MLflow models, in a real store, loaded where kdcurve is not used."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from analysis.laws import LAWS
from analysis.schedule import Schedule
from search.errors import UsageError
from search.registry import register_schedule, require_names

LINE = {"intercept": 0.2, "slope": -0.3}
KNOTS = {"fractions": [0.1, 0.4, 0.9], "values": [1.0, 0.5, 0.2]}
BAND = {"level": 0.9, "fractions": [0.02, 1.0], "low": [0.3, 0.1], "high": [0.9, 0.4]}
POINTS = [{"fraction": f, "kd_weight": 0.5, "low": 0.4, "high": 0.6} for f in (0.1, 0.9)]
LOADED = """
import json, os, sys
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answer = model.predict(pandas.read_json(sys.stdin))
faults = []
for wrong in ({"fraction": [0.5]}, {"fraction": [1.5], "method": ["isotonic"], "teacher": ["t"]}):
    try:
        model.predict(pandas.DataFrame(wrong))
    except ValueError as error:
        faults.append(str(error))
loaded = [name for name in ("analysis", "search", "torch", "ray") if name in sys.modules]
print(json.dumps([answer.to_dict("list"), faults, loaded]))
"""


@pytest.fixture(scope="module")
def schedule(recorded, places):
    """A law of each family, the last without a band, fitted to `recorded` by its provenance."""
    client = MlflowClient(places.tracking_uri)
    experiment = client.get_experiment_by_name("recorded")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`kdcurve.kind` = 'search'")
    laws = [
        {
            "method": family,
            "teacher": "t",
            "family": family,
            "parameters": LINE if i < 2 else KNOTS,
            "points": POINTS,
            "band": BAND if i < 3 else None,
        }
        for i, family in enumerate(LAWS)
    ]
    provenance = {"search": "recorded", "parent_run_id": parent.info.run_id, "git_commit": "abc"}
    return Schedule.model_validate({"laws": laws, "provenance": provenance})


@pytest.fixture(scope="module")
def registered(schedule, places):
    return [register_schedule(schedule, places, "pruned digits", "champion") for _ in range(2)]


def test_a_registered_schedule_answers_as_the_schedule_without_pickles_and_without_kdcurve(
    registered, schedule, places
):
    asked = pd.DataFrame(
        [(f, family, "t") for family in LAWS for f in (0.05, 0.1, 0.3, 1.0)],
        columns=["fraction", "method", "teacher"],
    )
    done = subprocess.run(
        [sys.executable, "-c", LOADED, places.tracking_uri, "models:/pruned digits@champion"],
        input=asked.to_json(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer, faults, loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    assert "Warning" not in done.stderr
    for family in LAWS:
        rows = (asked["method"] == family).to_numpy()
        with pytest.warns(UserWarning, match="extrapolated"):
            expected = schedule.table(asked["fraction"][rows].tolist(), method=family)
        for name in ("kd_weight", "low", "high", "extrapolated"):
            got = np.array(answer[name], dtype=float)[rows]
            wanted = np.array([row[name] for row in expected], dtype=float)
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert "4 laws of the schedule fit; known: clipped-log-linear, t;" in faults[0]
    assert "fraction 1.5 is not in (0, 1]" in faults[1]


def test_it_is_logged_under_the_search_s_parent_run_which_stays_as_it_was(
    registered, schedule, places
):
    client = MlflowClient(places.tracking_uri)
    parent = client.get_run(schedule.provenance["parent_run_id"])
    assert parent.info.status == "FINISHED"
    sources = {client.get_model_version("pruned digits", number).source for number in registered}
    outputs = [client.get_logged_model(m.model_id) for m in parent.outputs.model_outputs]
    logged = [model for model in outputs if model.artifact_location in sources]
    assert [model.name for model in logged] == ["schedule", "schedule"]
    assert {model.source_run_id for model in logged} == {parent.info.run_id}
    assert {str(model.status) for model in logged} == {"READY"}


def test_versions_count_up_and_the_alias_is_the_last_one_s(registered, places):
    assert registered == ["1", "2"]
    version = MlflowClient(places.tracking_uri).get_model_version_by_alias(
        "pruned digits", "champion"
    )
    assert str(version.version) == "2"
    assert version.tags["kdcurve.search"] == "recorded"
    assert version.tags["mlflow.source.git.commit"] == "abc"


def test_a_schedule_of_elsewhere_gets_a_run_of_its_own(registered, schedule, places):
    stranger = schedule.model_copy(update={"provenance": {"parent_run_id": "f" * 32}})
    assert register_schedule(stranger, places, "elsewhere") == "1"
    assert (places.home / "mlartifacts" / "kdcurve-schedules").is_dir()


@pytest.mark.parametrize(
    ("name", "alias", "says"),
    [
        ("a/b", None, "--register 'a/b': allowed are"),
        ("a", "latest", "--alias 'latest': allowed are"),
        ("a", "v2", "--alias 'v2': allowed are"),
        ("a", "two words", "--alias 'two words': allowed are"),
    ],
)
def test_names_that_mlflow_would_refuse_are_refused_at_once(name, alias, says):
    with pytest.raises(UsageError, match=says):
        require_names(name, alias)

"""What finished searches left, read as their users would."""

import json

from mlflow.tracking import MlflowClient

from tests.conftest import kdcurve
from trainables import record


def runs_of(finished, name):
    client = MlflowClient(finished.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if run.data.tags[record.TAG_KIND] == record.Kind.SEARCH]
    trials = [run for run in runs if run.data.tags[record.TAG_KIND] == record.Kind.TRIAL]
    return client, parents, trials


def answers(finished, name):
    asked = kdcurve(finished.folder, "best", name, "--format", "json")
    assert asked.code == 0, asked.errors
    return json.loads(asked.output)

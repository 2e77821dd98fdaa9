"""The tests' own PostgreSQL, and MLflow on it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from tests.conftest import ROOT

STARTS_A_SERVER = """
import time
from tests.postgres import running
with running() as server:
    print(server.uri("orphan"), server.folder, sep="\\n", flush=True)
    time.sleep(600)
"""


def count(uri: str) -> int:
    """Add a row to a table, and count its rows over a connection of its own."""
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS visits (number integer)"))
        connection.execute(sa.text("INSERT INTO visits VALUES (1)"))
        return connection.scalar(sa.text("SELECT count(*) FROM visits"))


def test_a_plain_postgresql_uri_means_psycopg_3():
    assert sa.create_engine("postgresql://host/database").driver == "psycopg"


def test_mlflow_reads_back_from_postgresql_what_it_wrote(postgres, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder for artifacts where it stands
    client = MlflowClient(postgres.uri("mlflow_reads_back"))
    experiment = client.create_experiment("α of f", artifact_location=tmp_path.as_uri())
    run_id = client.create_run(experiment).info.run_id
    accuracies = [Metric("accuracy", 0.1 * epoch, 1_700_000_000_000, epoch) for epoch in range(9)]
    client.log_batch(
        run_id, accuracies, params=[Param("kd_weight", "0.3")], tags=[RunTag("context", "a1b2")]
    )
    client.set_terminated(run_id)

    (run,) = client.search_runs([experiment], "params.kd_weight = '0.3'")
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["context"] == "a1b2"
    history = client.get_metric_history(run_id, "accuracy")
    assert [(each.step, each.value) for each in history] == [
        (each.step, each.value) for each in accuracies
    ]


def test_what_was_written_outlives_a_restart_on_the_same_port(postgres):
    uri = postgres.uri("outlives_a_restart")
    assert count(uri) == 1
    postgres.stop()
    try:
        with pytest.raises(sa.exc.OperationalError, match="refused"):
            count(uri)
    finally:
        postgres.start()
    assert postgres.uri("outlives_a_restart") == uri
    assert count(uri) == 2


def test_a_wrong_password_is_refused(postgres):
    uri = postgres.uri("wrong_password")
    with pytest.raises(sa.exc.OperationalError, match="authentication failed"):
        count(uri.replace(postgres.password, "guessed"))


def test_the_server_listens_on_loopback_only(postgres):
    sockets = [each for each in psutil.net_connections("inet") if each.status == "LISTEN"]
    assert {s.laddr.ip for s in sockets if s.laddr.port == postgres.port} == {"127.0.0.1"}


@pytest.mark.usefixtures("postgres")  # skips where no server can run
def test_the_server_goes_when_the_process_that_started_it_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SERVER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        uri, folder = process.stdout.readline().strip(), Path(process.stdout.readline().strip())
        assert count(uri) == 1
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(sa.exc.OperationalError, match="refused"):
        count(uri)

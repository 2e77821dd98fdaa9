"""A cached table equals an uncached one cell for cell, whatever happened in between."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric

from analysis import reading, run_cache
from analysis.runs import load_runs
from trainables import record
from trainables.record import Outcome

WHERE = {"method": "random", "teacher": "cnn8", "fraction": 0.5, "seed": 0}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def search(world, client, request):
    """A search of four trials, one of them running, in a store that others share."""
    writer = world.Writer(client, f"cached-{request.node.name}"[:200])
    for number, outcome in enumerate([Outcome.COMPLETE, Outcome.COMPLETE, Outcome.FAILED, None]):
        weight = number / 4
        reason = None if outcome is Outcome.COMPLETE else "boom"
        writer.trial([0.5, 0.6 + weight / 10], outcome, reason, kd_weight=weight, **WHERE)
    return writer


@pytest.fixture
def counted(monkeypatch):
    """How many runs were read from MLflow since it was last emptied."""
    read = []
    original = reading._row

    def row(run, objective):
        read.append(run.info.run_id)
        return original(run, objective)

    monkeypatch.setattr(reading, "_row", row)
    return read


def check(search, uri, cache):
    """The cached table, after it was found equal to the uncached one, twice."""
    whole = load_runs(search.name, uri, cache=False)
    for _ in range(2):
        cached = load_runs(search.name, uri, cache=cache)
        pd.testing.assert_frame_equal(cached, whole, check_exact=True)
        assert cached.attrs == whole.attrs
    return cached


def runs_by_trial(client, search):
    runs = client.search_runs([search.experiment])
    return {run.data.tags.get(record.TAG_TRIAL): run.info for run in runs}


def test_ended_trials_are_read_once(search, uri, cache, counted):
    check(search, uri, cache)
    counted.clear()
    load_runs(search.name, uri, cache=cache)
    # The running one, and the newest of those that ended.
    assert len(counted) <= 4
    ended = [i.run_id for t, i in runs_by_trial(search.client, search).items() if t in ("0", "1")]
    assert ended[1] not in counted or ended[0] not in counted


def test_a_running_trial_is_followed_to_its_end(search, uri, cache, client):
    check(search, uri, cache)
    run = runs_by_trial(client, search)["3"].run_id
    client.log_batch(run, [Metric(record.VAL_ACCURACY, 0.7, 1, 3), Metric(record.EPOCH, 3, 1, 3)])
    assert check(search, uri, cache)["score"].iloc[3] == 0.7
    client.set_tag(run, record.TAG_OUTCOME, Outcome.STOPPED_EARLY)
    check(search, uri, cache)  # told, but not terminated yet
    client.set_terminated(run, "FINISHED")
    assert check(search, uri, cache)["outcome"].iloc[3] == Outcome.STOPPED_EARLY


def test_new_trials_are_found(search, uri, cache):
    check(search, uri, cache)
    search.trial([0.9], kd_weight=0.9, **WHERE)
    search.trial([0.9], None, kd_weight=0.9, **WHERE)
    assert len(check(search, uri, cache)) == 6


def test_a_trial_delivered_late_with_its_old_times_is_found(search, uri, cache, client):
    check(search, uri, cache)
    number = search.trial([0.9], None, kd_weight=0.9, **WHERE)
    run = runs_by_trial(client, search)[str(number)].run_id
    client.set_tag(run, record.TAG_OUTCOME, Outcome.COMPLETE)
    client.set_terminated(run, "FINISHED", end_time=1000)  # long before all others
    assert check(search, uri, cache)["score"].iloc[number] == 0.9


@pytest.mark.parametrize("trial", ["0", "2", "3"], ids=["complete", "failed", "running"])
def test_a_run_that_was_deleted_is_gone_and_comes_back(search, uri, cache, client, trial):
    check(search, uri, cache)
    run = runs_by_trial(client, search)[trial].run_id
    client.delete_run(run)
    assert len(check(search, uri, cache)) == 3
    client.restore_run(run)
    assert len(check(search, uri, cache)) == 4


def test_a_deletion_and_a_late_arrival_do_not_hide_each_other(search, uri, cache, client):
    check(search, uri, cache)
    client.delete_run(runs_by_trial(client, search)["0"].run_id)
    number = search.trial([0.9], None, kd_weight=0.9, **WHERE)
    run = runs_by_trial(client, search)[str(number)].run_id
    client.set_tag(run, record.TAG_OUTCOME, Outcome.COMPLETE)
    client.set_terminated(run, "FINISHED", end_time=1000)
    assert list(check(search, uri, cache)["trial"]) == [1, 2, 3, number]


def test_a_trial_delivered_twice_counts_once_from_the_cache_too(search, uri, cache):
    search.trial([0.1], None, number=0, kd_weight=0.0, **WHERE)
    search.trial([0.2], Outcome.COMPLETE, number=1, kd_weight=0.25, **WHERE)
    assert len(check(search, uri, cache)) == 4


def test_a_score_that_is_no_number_stays_none_and_an_absent_one_missing(search, uri, cache):
    search.trial([np.nan], Outcome.FAILED, "diverged", kd_weight=0.9, **WHERE)
    search.trial([], Outcome.FAILED, "out of memory", kd_weight=0.9, **WHERE)
    table = check(search, uri, cache)
    assert table["score"].isna().tolist() == [False] * 4 + [True] * 2


def test_a_search_without_ended_trials_has_nothing_to_keep(world, client, uri, cache):
    writer = world.Writer(client, "cached-nothing")
    assert len(check(writer, uri, cache)) == 0
    writer.trial([0.5], None, kd_weight=0.5, **WHERE)
    assert len(check(writer, uri, cache)) == 1


def test_a_search_of_the_same_name_made_anew_sees_no_old_rows(world, client, uri, cache):
    old = world.Writer(client, "cached-again")
    old.trial([0.5], kd_weight=0.5, **WHERE)
    check(old, uri, cache)
    client.rename_experiment(old.experiment, "cached-again-deleted")
    client.delete_experiment(old.experiment)
    new = world.Writer(client, "cached-again")
    new.trial([0.8], kd_weight=0.1, **WHERE)
    assert check(new, uri, cache)["score"].tolist() == [0.8]


def test_a_renamed_search_keeps_its_rows(search, uri, cache, client):
    before = check(search, uri, cache)
    search.name += "-renamed"
    client.rename_experiment(search.experiment, search.name)
    pd.testing.assert_frame_equal(check(search, uri, cache), before)


def test_a_database_made_anew_under_an_old_path_sees_no_old_rows(world, tmp_path, cache):
    from mlflow.tracking import MlflowClient

    for score in (0.5, 0.8):
        # Another file each time, at the same path: what a removed home leaves of itself.
        uri = f"sqlite:///{tmp_path / 'link' / 'mlflow.db'}"
        folder = tmp_path / f"home-{score}"
        folder.mkdir()
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(folder)
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        writer = world.Writer(client, "cached-home")
        writer.trial([score], kd_weight=0.5, **WHERE)
        # MLflow keeps a store per URI: a process of its own for each.
        code = (
            "import sys; from pathlib import Path; from analysis import load_runs;"
            "print(load_runs('cached-home', sys.argv[1], cache=Path(sys.argv[2]))['score'].iloc[0])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, uri, str(cache)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(done.stdout) == score


def test_damaged_files_are_made_anew(search, uri, cache):
    before = check(search, uri, cache)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    middle = len(sound) // 3
    for damaged in (
        b"",
        b"PAR1" + b"\0" * 50,
        sound[:middle],
        sound[:middle] + bytes([sound[middle] ^ 255]) + sound[middle + 1 :],
        b"text\n" * 100,
    ):
        file.write_bytes(damaged)
        pd.testing.assert_frame_equal(check(search, uri, cache), before)
        assert [*cache.iterdir()] == [file]
        assert run_cache.load(file, key_of(file), reading.RUN_DTYPES) is not None


def key_of(file):
    import json

    import pyarrow.parquet as pq

    key = json.loads(pq.read_schema(file).metadata[b"kdcurve"])["key"]
    key.pop("format")
    return key


def test_a_cache_of_another_format_is_made_anew(search, uri, cache, monkeypatch):
    check(search, uri, cache)
    monkeypatch.setattr(run_cache, "FORMAT", run_cache.FORMAT + 1)
    check(search, uri, cache)


def test_without_a_cache_nothing_is_written_and_a_closed_folder_is_no_trouble(search, uri, cache):
    load_runs(search.name, uri, cache=False)
    assert not cache.exists()
    cache.write_text("a file where the folder should be")
    check(search, uri, cache)


def test_processes_that_write_at_once_leave_a_sound_file(search, uri, cache):
    code = (
        "import sys; from pathlib import Path; from analysis import load_runs;"
        "print(len(load_runs(sys.argv[1], sys.argv[2], cache=Path(sys.argv[3]))))"
    )
    command = [sys.executable, "-c", code, search.name, uri, str(cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["4", "4"]
    assert len([*cache.iterdir()]) == 1
    check(search, uri, cache)


def test_a_trial_that_ends_between_two_questions_is_in_the_table(
    search, uri, cache, client, monkeypatch
):
    check(search, uri, cache)
    run = runs_by_trial(client, search)["3"].run_id
    original, asked = reading._Look.has, []

    def has(self, *arguments, **options):
        if not asked:  # just before MLflow is asked how many there are
            client.set_tag(run, record.TAG_OUTCOME, Outcome.COMPLETE)
            client.set_terminated(run, "FINISHED")
        asked.append(arguments)
        return original(self, *arguments, **options)

    monkeypatch.setattr(reading._Look, "has", has)
    table = load_runs(search.name, uri, cache=cache)
    assert table["outcome"].iloc[3] == Outcome.COMPLETE
    check(search, uri, cache)


def test_the_name_of_a_file_depends_on_no_password():
    uri = "postgresql://me:{}@host/mlflow"
    names = {run_cache.file_name(uri.format(word), "1") for word in ("one", "two")}
    assert len(names) == 1
    assert run_cache.file_name(uri.format("one"), "2") not in names

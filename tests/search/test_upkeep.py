"""Upkeep of recorded searches: synced, deleted, repeated, cleaned."""

import os
import shutil
import time
from collections import Counter
from types import SimpleNamespace

import mlflow.exceptions
import optuna
import pytest
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search import deletion, leftovers, repetition, syncing, tracking
from search.deletion import belongings, delete
from search.errors import KdcurveError
from search.journal import EventKind, Journal, numbered, rows_of
from search.lease import Lease
from search.ledger import Ledger
from search.leftovers import What, clean, survey
from search.places import Places
from search.plan import shared_artifacts
from search.repetition import rerun
from search.syncing import sync
from search.tracking import Delivery
from search.writer import Spool, spool_paths
from tests.conftest import kdcurve
from tests.delivered import assert_whole, snapshot, stored
from trainables import record
from trainables.problem import open_training
from trainables.record import MACHINE_METRICS, SearchState

DOWN = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def original(tmp_path_factory, make_spec, plan, rehearsal) -> Places:
    """A home with a complete search, in sync, and one whose process was killed in its trial 4."""
    places = Places.at(tmp_path_factory.mktemp("original") / "home")
    places.make()
    journal = Journal(places.record)
    for name in ("whole", "cut"):
        spec = make_spec(name=name)
        ledger = plan(journal, spec)
        played = rehearsal(spec, ledger, places.folder(name))
        if name == "whole":
            played.run()
            ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
        else:
            played.run(trials=5, cut_at=2)
    sync("whole", places)
    return places


@pytest.fixture
def copied(original, tmp_path):
    """A copy of that home, without some of its files."""

    def copy(*without: str) -> Places:
        home = tmp_path / "home"
        shutil.copytree(original.home, home, ignore=shutil.ignore_patterns(*without))
        return Places.at(home)

    return copy


def client_of(places: Places) -> MlflowClient:
    return MlflowClient(places.tracking_uri)


LINKS = ("mlflow.parentRunId", record.TAG_TEACHER_RUN, record.TAG_SCORES_RUN)


def facts(places: Places, name: str) -> dict:
    """All that MLflow holds of a search but the names it gives its runs."""
    whole = snapshot(client_of(places), name)
    return {
        identity: (*rest, {k: v for k, v in tags.items() if k not in LINKS}, metrics)
        for identity, (_, *rest, tags, metrics) in whole.items()
    }


def studies(places: Places, name: str) -> dict:
    """All that Optuna's storage holds of a search."""
    storage = JournalStorage(JournalFileBackend(str(places.optuna(name))))
    return {
        study.study_name: [
            (t.number, t.state, t.value, t.params, t.intermediate_values, t.user_attrs)
            for t in optuna.load_study(study_name=study.study_name, storage=storage).trials
        ]
        for study in optuna.get_all_study_summaries(storage)
    }


def files(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestSync:
    @pytest.mark.parametrize(
        "lost",
        [("mlflow.db", "mlartifacts"), ("optuna.journal",), ("mlflow.db", "optuna.journal")],
        ids=["MLflow", "Optuna", "both"],
    )
    def test_what_is_lost_comes_back_as_it_was(self, original, copied, lost):
        places = copied(*lost)
        done = sync("whole", places)
        assert facts(places, "whole") == facts(original, "whole")
        assert len(facts(places, "whole")) == 25
        assert studies(places, "whole") == studies(original, "whole")
        assert sum(map(len, studies(places, "whole").values())) == 24
        assert (done.ended, done.delivered) == (24, 24 if "mlflow.db" in lost else 0)
        assert done.optuna == places.optuna("whole")

    def test_doing_it_again_changes_nothing(self, copied):
        places = copied()
        client, journal = client_of(places), Journal(places.record)
        before, events = snapshot(client, "whole"), journal.last_number("whole")
        for _ in range(2):
            done = sync("whole", places)
            assert snapshot(client, "whole") == before
            assert journal.last_number("whole") == events
            assert (done.delivered, done.answered, done.recovered) == (0, False, 0)

    def test_a_search_that_was_killed_leaves_no_run_running(self, copied):
        places = copied()
        journal, client = Journal(places.record), client_of(places)
        ledger = Ledger(journal, "cut")
        delivery = Delivery(journal, ledger.spec, places)  # as its own process did
        delivery.start()
        assert delivery.finish()
        assert {run.info.status for run in stored(client, "cut").values()} > {"RUNNING"}
        done = sync("cut", places)
        assert (done.ended, done.unfinished) == (4, 1)
        statuses = Counter(run.info.status for run in stored(client, "cut").values())
        assert statuses == {"FINISHED": 4, "KILLED": 2}  # the trial and the search
        assert_whole(client, journal, "cut")
        after = snapshot(client, "cut")
        sync("cut", places)
        assert snapshot(client, "cut") == after

    def test_the_time_since_a_search_was_killed_does_not_count_as_work(self, copied, monkeypatch):
        places = copied()
        before = Ledger(Journal(places.record), "cut").active_s
        late = time.time() + 10_000
        monkeypatch.setattr("search.journal.time.time", lambda: late)
        sync("cut", places)
        ledger = Ledger(Journal(places.record), "cut")
        assert ledger.state is SearchState.INTERRUPTED
        assert ledger.active_s == before

    def test_what_a_killed_process_left_in_its_spool_is_recorded_and_delivered(self, copied):
        places = copied()
        journal = Journal(places.record)
        metrics = {"epoch": 3, "val_accuracy": 0.5}
        lost = [
            (EventKind.REPORTED, 4, {"epoch": 3, "metrics": metrics}),
            (EventKind.ENDED, 4, {"outcome": "failed", "reason": "gone"}),
        ]
        spool = Spool(spool_paths(places.folder("cut"), journal))
        spool.append(rows_of(numbered(lost, journal.last_number("cut"))))
        done = sync("cut", places)
        assert (done.recovered, done.ended, done.unfinished) == (2, 5, 0)
        assert_whole(client_of(places), journal, "cut")
        assert stored(client_of(places), "cut")["4"].info.status == "FAILED"

    def test_answers_are_made_again_if_they_are_missing_or_older_than_a_trial(self, copied):
        places = copied()
        journal = Journal(places.record)
        report = places.answers("whole") / "report.html"
        made = journal.count("whole", EventKind.ANSWER)
        report.unlink()
        assert sync("whole", places).answered
        assert report.exists()
        assert not sync("whole", places).answered
        assert journal.count("whole", EventKind.ANSWER) == made + 1
        ledger = Ledger(journal, "whole")
        ledger.record(EventKind.RESUMED)
        ledger.record(EventKind.ENDED, 0, outcome="complete", reason=None)
        ledger.record(EventKind.CLOSED, state=SearchState.COMPLETE)
        assert sync("whole", places).answered
        assert not sync("whole", places).answered

    def test_without_answers_the_rest_is_done(self, make_spec, plan, copied):
        places = copied()
        ledger = plan(Journal(places.record), make_spec(name="empty"))
        ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
        done = sync("empty", places)
        assert done.report is None
        assert "complete" in done.no_answers
        assert stored(client_of(places), "empty")["search"].info.status == "KILLED"

    def test_a_search_that_some_process_runs_is_left_to_it(self, copied):
        places = copied()
        journal = Journal(places.record)
        before = files(places.home)
        lease = Lease(journal, "whole")
        with pytest.raises(KdcurveError, match=rf"in the hands of process {os.getpid()} .*"):
            sync("whole", places)
        lease.release()
        assert files(places.folder("whole")) == {
            k.removeprefix("searches/whole/"): v
            for k, v in before.items()
            if k.startswith("searches/whole/")
        }

    def test_a_lease_can_be_taken_over(self, copied):
        places = copied()
        Lease(Journal(places.record), "whole")
        assert sync("whole", places, take_over=True).ended == 24

    def test_a_server_that_does_not_answer_now_is_a_failure(self, copied):
        places = copied()
        events = Journal(places.record).last_number("cut")
        with pytest.raises(KdcurveError, match=f"{DOWN} does not answer: .*refused"):
            sync("cut", Places.at(places.home, tracking_uri=DOWN))
        assert Journal(places.record).last_number("cut") == events

    def test_it_gives_up_when_mlflow_takes_nothing_any_more(self, copied, monkeypatch):
        places = copied("mlflow.db")
        monkeypatch.setattr(syncing, "STALLED_S", 0.3)
        monkeypatch.setattr(tracking, "NOTICE_EVERY_S", 0.05)
        monkeypatch.setattr(tracking, "LONGEST_LAST_WAIT_S", 0.05)
        create = MlflowClient.create_run
        made = []

        def failing(self, *arguments, **options):
            if len(made) == 4:
                raise mlflow.exceptions.MlflowException("the database is away")
            made.append(1)
            return create(self, *arguments, **options)

        monkeypatch.setattr(MlflowClient, "create_run", failing)
        lines = []
        expected = r"has 3 of 24 trials: .*the database is away.*"  # the first is the search's
        with pytest.raises(KdcurveError, match=expected):
            sync("whole", places, say=lines.append)
        assert any("3 of 24" in line for line in lines)
        monkeypatch.undo()
        assert sync("whole", places).delivered == 21

    def test_runs_that_mlflow_refuses_are_told_with_the_reason(self, copied, monkeypatch):
        places = copied("mlflow.db")
        create = MlflowClient.create_run

        def refusing(self, *arguments, **options):
            if options.get("run_name") == "trial-7":
                raise mlflow.exceptions.MlflowException("no sevens", INVALID_PARAMETER_VALUE)
            return create(self, *arguments, **options)

        monkeypatch.setattr(MlflowClient, "create_run", refusing)
        done = sync("whole", places)
        assert list(done.refused) == ["trial-7"]
        assert "no sevens" in done.refused["trial-7"]
        assert len(stored(client_of(places), "whole")) == 24

    def test_a_search_that_really_ran_comes_back_through_the_command(self, exact_search, tmp_path):
        home = tmp_path / "home"
        shutil.copytree(
            exact_search.home, home, ignore=shutil.ignore_patterns("mlflow.db", "*.journal")
        )
        done = kdcurve(tmp_path, "sync", "exact", "--home", str(home))
        assert done.code == 0, done.output + done.errors
        assert "MLflow has all 48 trials (48 delivered now)." in done.output
        original = Places.at(exact_search.home)
        assert facts(Places.at(home), "exact") == facts(original, "exact")


@pytest.fixture
def place(tmp_path) -> Places:
    places = Places.at(tmp_path / "home")
    places.make()
    return places


SMALL = {
    "name": "small",
    "recipe": {"epochs": 2, "batch_size": 64},
    "contexts": {"method": "el2n", "fraction": 0.1, "teacher": "cnn4"},
    "seeds": {"trials": 1, "scores": 1},
}


class TestRerun:
    @pytest.fixture
    def small(self, place, make_spec, plan):
        """A search whose trial 0 really ran, with a teacher and scores from the cache."""
        ledger = plan(Journal(place.record), make_spec(**SMALL))
        (context,) = ledger.spec.context_list
        values = {"kd_weight": 0.5}
        proposal = {"context": context.key, "values": values, "seed": 0, "start_design": True}
        ledger.record(EventKind.PROPOSED, 0, **proposal)
        ledger.record(EventKind.STARTED, 0)
        config = ledger.spec.trial_config(context, values, 0)
        training = open_training(config, place.cache)
        for epoch in (1, 2):
            ledger.record(EventKind.REPORTED, 0, epoch=epoch, metrics=training.step())
        ledger.record(EventKind.ENDED, 0, outcome="complete", reason=None)
        ledger.record(EventKind.PROPOSED, 1, **proposal)
        ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
        return ledger

    def test_a_network_is_repeated_bit_for_bit_and_nothing_is_added(self, small, place):
        before = small.journal.last_number("small")
        said, epochs = [], []
        done = rerun("small", 0, place, say=said.append, progress=lambda *e: epochs.append(e))
        assert done.error is None
        assert done.compared == [1, 2]
        assert done.differences == {}
        assert set(done.recorded[2]) == set(done.repeated[2])
        measured = {"train_loss", "train_ce", "train_kd", "val_accuracy", "val_nll_scaled"}
        assert measured <= set(done.recorded[2])
        assert not set(done.recorded[2]) & MACHINE_METRICS
        assert epochs == [(1, 2), (2, 2)]
        assert said == []
        assert small.journal.last_number("small") == before

    def test_what_is_not_cached_any_more_is_made_first_and_said(self, small, place):
        shutil.rmtree(place.cache)
        said = []
        assert rerun("small", 0, place, say=said.append).differences == {}
        assert len(said) == 3
        assert "scores of el2n" in said[0]
        assert "teacher cnn4" in said[1]
        assert "soft labels" in said[2]

    def test_a_difference_in_any_epoch_and_metric_is_found(self, small, place, monkeypatch):
        train = repetition.open_training

        def nudged(config, cache):
            training = train(config, cache)
            step = training.step

            def step_and_nudge():
                metrics = step()
                nudge = {1: 1e-7, 2: 1e-9}[metrics["epoch"]]
                return {**metrics, "val_loss": metrics["val_loss"] + nudge, "seconds": 9e9}

            training.step = step_and_nudge
            return training

        monkeypatch.setattr(repetition, "open_training", nudged)
        done = rerun("small", 0, place)
        assert list(done.differences) == ["val_loss"]
        assert done.differences["val_loss"].epoch == 1
        assert done.differences["val_loss"].size == pytest.approx(1e-7)

    def test_a_metric_that_is_missing_or_not_a_number_is_a_difference(self):
        def of(recorded, repeated):
            return repetition.Rerun(None, None, {1: recorded}, {1: repeated}, None, {}).differences

        nan = float("nan")
        assert of({"a": nan, "b": 1.0}, {"a": nan, "b": 1}) == {}
        assert list(of({"a": 1.0}, {"a": nan})) == ["a"]
        assert list(of({"a": 1.0}, {"b": 1.0})) == ["a", "b"]
        assert of({"a": 0.1 + 0.2}, {"a": 0.3})["a"].size < 1e-16

    def test_a_failed_trial_raises_again_beyond_what_is_recorded(self, small, place, monkeypatch):
        small.record(EventKind.STARTED, 1)
        small.record(EventKind.ENDED, 1, outcome="failed", reason="ValueError: no")
        train = repetition.open_training

        def failing(config, cache):
            training = train(config, cache)
            step = training.step

            def fail_in_the_second():
                if training.epoch == 1:
                    raise ValueError("no")
                return step()

            training.step = fail_in_the_second
            return training

        monkeypatch.setattr(repetition, "open_training", failing)
        done = rerun("small", 1, place)
        assert isinstance(done.error, ValueError)
        assert (done.failed, done.compared, list(done.repeated)) == (True, [], [1])

    def test_what_is_not_there_cannot_be_repeated(self, small, place):
        with pytest.raises(KdcurveError, match=r"no trial 7; its trials are numbered 0 to 1"):
            rerun("small", 7, place)
        with pytest.raises(KdcurveError, match="no epoch of it is recorded"):
            rerun("small", 1, place)
        with pytest.raises(KdcurveError, match="did you mean small"):
            rerun("smal", 0, place)

    def test_trials_that_ray_ran_come_out_the_same(self, exact_search):
        places = Places.at(exact_search.home)
        trials = Ledger(Journal(places.record), "exact").trials
        for number in (0, 5, len(trials) - 1):
            done = rerun("exact", number, places)
            assert done.error is None
            assert len(done.compared) == trials[number].epoch
            assert done.differences == {}


class TestDelete:
    def test_all_of_a_search_goes_and_its_name_is_free(self, copied, make_spec, plan, rehearsal):
        places = copied()
        for folder in (places.checkpoints / "whole", places.tune / "whole", places.cache):
            folder.mkdir(parents=True)
            (folder / "file").write_text("x")
        client, journal = client_of(places), Journal(places.record)
        other, (old,) = files(places.folder("cut")), [client.get_experiment_by_name("whole")]
        doomed = belongings("whole", places)
        assert (doomed.events, doomed.trials) == (journal.last_number("whole"), 24)
        folders = [places.folder("whole"), places.checkpoints / "whole", places.tune / "whole"]
        assert list(doomed.folders) == folders
        delete("whole", places)
        assert journal.searches() == ["cut"]
        assert not any(folder.exists() for folder in folders)
        assert files(places.cache) == {"file": b"x"}
        assert files(places.folder("cut")) == other
        assert client.get_experiment_by_name("whole") is None
        assert client.get_experiment(old.experiment_id).lifecycle_stage == "deleted"

        spec = make_spec(name="whole")
        assert Delivery(journal, spec, places).check(new=True) is None
        ledger = plan(journal, spec)
        rehearsal(spec, ledger, places.folder("whole")).run(trials=3)
        ledger.record(EventKind.CLOSED, state=SearchState.INTERRUPTED)
        sync("whole", places)
        assert_whole(client, journal, "whole")
        delete("whole", places)
        assert client.get_experiment_by_name("whole") is None

    @pytest.mark.parametrize("cut", ["in MLflow", "in the folders", "in the record"])
    def test_a_deletion_that_was_cut_off_can_be_repeated(self, copied, monkeypatch, cut):
        places = copied()
        old = client_of(places).get_experiment_by_name("whole")
        (places.tune / "whole").mkdir(parents=True)
        owner, method = {
            "in MLflow": (MlflowClient, "delete_experiment"),
            "in the folders": (deletion, "_remove"),
            "in the record": (Journal, "delete"),
        }[cut]

        def killed(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(owner, method, killed)
        with pytest.raises(KeyboardInterrupt):
            delete("whole", places)
        monkeypatch.undo()
        assert "whole" in Journal(places.record).searches()
        delete("whole", places)
        assert "whole" not in Journal(places.record).searches()
        assert not places.folder("whole").exists()
        assert client_of(places).get_experiment_by_name("whole") is None
        assert client_of(places).get_experiment(old.experiment_id).lifecycle_stage == "deleted"

    def test_an_experiment_that_was_deleted_in_mlflow_no_longer_blocks_the_name(self, copied):
        places = copied()
        client = client_of(places)
        client.delete_experiment(client.get_experiment_by_name("whole").experiment_id)
        delete("whole", places)
        assert client.get_experiment_by_name("whole") is None

    def test_a_record_from_a_backup_can_be_deleted_once_more(self, copied, original):
        places = copied()
        delete("whole", places)
        Journal(places.record).write("whole", Journal(original.record).events("whole"))
        sync("whole", places)
        delete("whole", places)
        assert client_of(places).get_experiment_by_name("whole") is None

    def test_an_experiment_of_another_record_stays(self, copied, plan, make_spec, tmp_path):
        places = copied()
        other = Places.at(tmp_path / "other", tracking_uri=places.tracking_uri)
        other.make()
        plan(Journal(other.record), make_spec(name="whole"))
        assert delete("whole", other).experiments == ()
        assert client_of(places).get_experiment_by_name("whole").lifecycle_stage == "active"

    def test_without_mlflow_nothing_is_deleted_unless_it_is_left_alone(self, copied):
        places = copied()
        down = Places.at(places.home, tracking_uri=DOWN)
        with pytest.raises(KdcurveError, match=r"does not answer: .*nothing.*--keep-mlflow"):
            delete("whole", down)
        assert "whole" in Journal(places.record).searches()
        assert places.folder("whole").exists()
        delete("whole", down, keep_mlflow=True)
        assert "whole" not in Journal(places.record).searches()
        assert client_of(places).get_experiment_by_name("whole").lifecycle_stage == "active"

    def test_a_database_of_mlflow_that_is_not_there_is_not_made(self, copied):
        places = copied("mlflow.db")
        delete("whole", places)
        assert not (places.home / "mlflow.db").exists()

    def test_a_search_that_some_process_has_in_hand_stays(self, copied):
        places = copied()
        lease = Lease(Journal(places.record), "whole")
        for ask in (belongings, delete):
            with pytest.raises(KdcurveError, match=r"in the hands of process .*--take-over"):
                ask("whole", places)
        lease.release()
        Lease(Journal(places.record), "whole")
        delete("whole", places, take_over=True)
        assert "whole" not in Journal(places.record).searches()


def aged(path, hours=2.0):
    """Make a file or folder look as if nobody had touched it for hours."""
    then = time.time() - 3600 * hours
    for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
        os.utime(each, (then, then))


class TestClean:
    @pytest.fixture
    def storage(self, place, make_spec, plan):
        """Three searches, each with a teacher and scores, checkpoints and Tune's files."""
        journal = Journal(place.record)
        keys = {}
        for name, teacher, state in (
            ("done", "cnn4", SearchState.COMPLETE),
            ("cut", "cnn8", SearchState.INTERRUPTED),
            ("busy", "cnn16", SearchState.INTERRUPTED),
        ):
            contexts = {"method": "el2n", "fraction": 0.5, "teacher": teacher}
            ledger = plan(journal, make_spec(name=name, contexts=contexts, student=teacher))
            ledger.record(EventKind.CLOSED, state=state)
            # A data set of its own is made on the spot and has no file.
            keys[name] = [artifact.key for artifact in shared_artifacts(ledger.spec)[1:]]
            for key in keys[name]:
                self.add(place.cache / f"{key}.safetensors")
            self.add(place.checkpoints / name / "trial-3" / "epoch-000001.safetensors")
            self.add(place.tune / name / "result.json")
        lease = Lease(journal, "busy")
        yield SimpleNamespace(places=place, keys=keys, journal=journal)
        lease.release()

    @staticmethod
    def add(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        return path

    def left(self, storage):
        places = storage.places
        return {
            "cache": {
                name
                for name, keys in storage.keys.items()
                if all((places.cache / f"{key}.safetensors").exists() for key in keys)
            },
            "checkpoints": {path.name for path in places.checkpoints.iterdir()},
            "tune": {path.name for path in places.tune.iterdir()},
        }

    def test_parts_of_what_is_not_whole_stay_with_the_search_that_needs_them(self, storage):
        """An interrupted search goes on from the seeds and the shards that it has."""
        cache = storage.places.cache
        of = {
            name: [
                self.add(cache / f"{keys[0]}-seed3.safetensors"),
                self.add(cache / f"{keys[-1]}-shard12.safetensors"),
            ]
            for name, keys in storage.keys.items()
        }
        clean(storage.places)
        assert [path.exists() for path in of["done"]] == [False, False]
        assert all(path.exists() for path in (*of["cut"], *of["busy"]))

    def test_what_a_search_still_needs_stays(self, storage):
        removed = clean(storage.places)
        assert self.left(storage) == {
            "cache": {"cut", "busy"},
            "checkpoints": {"cut", "busy"},
            "tune": {"busy"},
        }
        assert Counter(each.what for each in removed) == {
            What.TEACHERS: 1,
            What.SCORES: 1,
            What.SOFT_LABELS: 1,
            What.CHECKPOINTS: 1,
            What.TUNE: 2,
        }
        assert all((each.files, each.size_bytes) == (1, 1000) for each in removed)
        assert clean(storage.places) == []

    def test_everything_takes_the_cache_of_resumable_searches_but_not_their_work(self, storage):
        clean(storage.places, everything=True)
        assert self.left(storage) == {
            "cache": {"busy"},
            "checkpoints": {"cut", "busy"},
            "tune": {"busy"},
        }

    def test_who_needs_something_is_said(self, storage):
        found = survey(storage.places)
        users = {each.path.stem: each.kept_for for each in found if each.what is What.TEACHERS}
        (_, done, _), (_, cut, _), (_, busy, _) = storage.keys.values()
        assert users == {done: None, cut: "cut (interrupted)", busy: "busy (running)"}

    def test_a_search_that_was_complete_and_runs_again_keeps_its_files(self, storage):
        lease = Lease(storage.journal, "done")
        clean(storage.places, everything=True)
        assert self.left(storage)["cache"] == {"done", "busy"}
        assert self.left(storage)["tune"] == {"done", "busy"}
        lease.release()

    def test_folders_of_searches_that_are_not_recorded_go_once_they_are_old(self, storage):
        folder = storage.places.checkpoints / "foreign"
        self.add(folder / "trial-0" / "epoch-000001.safetensors")
        clean(storage.places)
        assert folder.exists()
        aged(folder)
        clean(storage.places)
        assert not folder.exists()

    def test_files_that_a_killed_process_did_not_finish_go_once_they_are_old(self, storage):
        places = storage.places
        name = f".{storage.keys['busy'][0]}.safetensors.{'0f' * 16}"
        unfinished = [
            self.add(places.cache / name),
            self.add(places.checkpoints / "busy" / "trial-3" / name),
        ]
        mine = self.add(places.cache / ".mine")
        assert What.UNFINISHED not in {each.what for each in clean(storage.places)}
        for path in (*unfinished, mine):
            aged(path)
        removed = [each.path for each in clean(places) if each.what is What.UNFINISHED]
        assert sorted(removed) == sorted(unfinished)
        assert mine.exists()

    def test_only_what_was_agreed_to_goes(self, storage):
        agreed = {each.path for each in survey(storage.places) if each.what is What.TEACHERS}
        removed = clean(storage.places, only=agreed)
        assert [each.what for each in removed] == [What.TEACHERS]

    def test_what_cannot_be_removed_is_said_and_the_rest_goes(self, storage, monkeypatch):
        def refused(path, *_):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(leftovers.shutil, "rmtree", refused)
        with pytest.raises(KdcurveError, match=r"cannot remove .*: Permission denied \(and 2 more"):
            clean(storage.places)
        assert self.left(storage)["cache"] == {"cut", "busy"}

    def test_without_a_record_nothing_is_known_and_nothing_goes(self, storage, tmp_path):
        with pytest.raises(KdcurveError, match="there is no record"):
            clean(Places.at(tmp_path / "none", storage=storage.places.storage))
        assert self.left(storage)["cache"] == {"done", "cut", "busy"}

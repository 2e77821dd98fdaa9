import itertools
import json
from pathlib import Path

import mlflow.exceptions
import pytest
from mlflow.entities import RunTag, ViewType
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from analysis.runs import load_runs
from search import mirror as mirror_module
from search.journal import EventKind
from search.ledger import Ledger
from search.mirror import Mirror, RefusedError, RefusedRunError
from search.plan import shared_artifacts
from tests.delivered import (
    STATUS,
    add_epochs,
    add_trial,
    assert_whole,
    end,
    points,
    snapshot,
    stored,
)
from trainables import record
from trainables.config import ScoresSpec, TeacherSpec
from trainables.record import Kind, Outcome, SearchState

names = (f"mirrored-{number}" for number in itertools.count())
SCORED = {"method": ["random", "el2n"], "fraction": [0.5], "teacher": ["cnn4"]}


@pytest.fixture(scope="module")
def client(places) -> MlflowClient:
    return MlflowClient(places.tracking_uri)


@pytest.fixture
def search(make_spec, plan, journal):
    """A search with one trial of every outcome, recorded and not delivered yet."""
    found = plan(journal, make_spec(name=next(names)))
    for number, outcome in enumerate(Outcome):
        add_trial(found, number, outcome, epochs=number)
    return found


@pytest.fixture
def small_search(make_spec, plan, journal):
    """A teacher, a trial that ended, one that was cut off, and the search's end."""
    small = plan(journal, make_spec(name=next(names)))
    prepare(small)
    add_trial(small, 0, Outcome.FAILED, epochs=2)
    add_trial(small, 1, None, epochs=1)
    close(small, SearchState.INTERRUPTED)
    return small


@pytest.fixture
def scored(make_spec, plan, journal):
    """A search that needs a teacher and scores; all is recorded but the trials."""
    found = plan(journal, make_spec(name=next(names), contexts=SCORED))
    prepare(found)
    return found


def prepare(ledger):
    for artifact in shared_artifacts(ledger.spec):
        ledger.record(
            EventKind.PREPARED,
            key=artifact.key,
            artifact=artifact.model_dump(mode="json", exclude={"dataset"}),
            metadata={"val_accuracy": "0.75", "spec": "{}"},
            seconds=2.5,
        )


def close(ledger, state=SearchState.COMPLETE, **why):
    ledger.record(EventKind.CLOSED, state=state, **why)


def copy_of(ledger, name):
    """The same record under another name."""
    entries = [(e.kind, e.trial, e.data) for e in ledger.journal.events(ledger.search)]
    spec = ledger.spec.model_copy(update={"name": name})
    entries[0][2]["spec"] = spec.model_dump(mode="json", exclude_none=True)
    ledger.journal.append(name, entries)
    return Ledger(ledger.journal, name)


def mirror_of(ledger, client, places=None, **options):
    """A mirror that knows nothing of earlier deliveries, all events taken in."""
    nowhere = Path("nowhere")
    answers = places.answers(ledger.search) if places else nowhere
    mirror = Mirror(ledger.spec, client, Path.cwd().as_uri(), answers, **options)
    for event in ledger.journal.events(ledger.search):
        mirror.take(event)
    return mirror


def deliver(ledger, client, places=None):
    mirror = mirror_of(ledger, client, places)
    mirror.send(caught_up=True)
    return mirror


@pytest.fixture(autouse=True)
def _artifacts_go_to_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_ended_a_search_arrives_and_counts_until_it_is_taken_up_again(search, client, places):
    close(search, reason="6 trials in every context", early_stopping="2 trials stopped early")
    mirror = deliver(search, client)
    tags = stored(client, search.search)["search"].data.tags
    assert tags[record.TAG_REASON] == "6 trials in every context"
    assert tags[record.TAG_EARLY_STOPPING] == "2 trials stopped early"
    uri = places.tracking_uri
    assert load_runs(search.search, uri).attrs["ended_by"] == "6 trials in every context"
    assert load_runs(search.search, uri).attrs["early_stopping"] == "2 trials stopped early"
    search.record(EventKind.RESUMED)
    mirror.take(list(search.journal.events(search.search))[-1])
    mirror.send(caught_up=True)
    assert load_runs(search.search, uri).attrs["ended_by"] is None


def test_everything_recorded_arrives_under_its_name(search, journal, client, tmp_path):
    close(search)
    deliver(search, client)
    assert_whole(client, journal, search.search)
    runs = stored(client, search.search)
    parent = runs["search"]
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == search.search
    assert parent.data.params == {"dataset": "digits", "student": "cnn8"}
    expected = {
        record.TAG_STATE: SearchState.COMPLETE,
        record.TAG_OBJECTIVE: record.VAL_ACCURACY,
        record.TAG_TUNED: "kd_weight",
        record.TAG_KD_WEIGHT_RANGE: "0.0,1.0",
        "mlflow.source.git.commit": "abc1234",
        "kdcurve.version.kdcurve": "0.1",
        "kdcurve.hardware.cpus": "2",
        "kdcurve.plan.contexts": "2",
        "kdcurve.plan.trials": "24",
    }
    assert expected.items() <= parent.data.tags.items()
    experiment = client.get_experiment_by_name(search.search)
    assert experiment.tags[record.TAG_SEARCH] == search.search
    assert experiment.tags[record.TAG_SCHEMA] == str(record.SCHEMA_VERSION)
    file = client.download_artifacts(parent.info.run_id, "search.json", str(tmp_path))
    assert json.loads(Path(file).read_text())["name"] == search.search

    context = search.spec.context_list[1]
    trial = runs["3"]
    assert {k: kind(trial.data.params[k]) for k, kind in record.TRIAL_PARAMS.items()} == {
        "dataset": "digits",
        "label_noise": 0.0,
        "student": "cnn8",
        "method": "random",
        "fraction": 0.9,
        "teacher": "cnn4",
        "teacher_fraction": 1.0,
        "kd_weight": 0.3,
        "temperature": 4.0,
        "seed": 1,
        "teacher_seed": 0,
        "budget_epochs": 9,
        "kept_samples": 1164,
    }
    assert trial.data.tags[record.TAG_CONTEXT] == context.key
    assert trial.data.tags[record.TAG_CONTEXT_LABEL] == context.label
    starts = [record.TAG_START_DESIGN in runs[str(n)].data.tags for n in range(4)]
    assert starts == [True, False, False, False]


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_has_its_status_and_reason(search, client, outcome):
    deliver(search, client)
    number = list(Outcome).index(outcome)
    run = stored(client, search.search)[str(number)]
    assert run.info.status == STATUS[outcome]
    assert run.data.tags[record.TAG_OUTCOME] == outcome
    reason = None if outcome is Outcome.COMPLETE else f"reason {number}"
    assert run.data.tags.get(record.TAG_REASON) == reason


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (SearchState.COMPLETE, "FINISHED"),
        (SearchState.INTERRUPTED, "KILLED"),
        (SearchState.FAILED, "FAILED"),
    ],
)
def test_a_searchs_end_has_its_status(make_spec, plan, journal, client, state, status):
    ledger = plan(journal, make_spec(name=next(names)))
    deliver(ledger, client)
    parent = stored(client, ledger.search)["search"]
    assert (parent.data.tags[record.TAG_STATE], parent.info.status) == ("running", "RUNNING")
    close(ledger, state)
    deliver(ledger, client)
    parent = stored(client, ledger.search)["search"]
    assert (parent.data.tags[record.TAG_STATE], parent.info.status) == (state, status)


def test_a_proposed_trial_that_never_started_has_no_run(search, journal, client):
    context = search.spec.context_list[0].key
    proposal = {"context": context, "values": {"kd_weight": 1.0}, "seed": 0}
    for number in (4, 5):
        search.record(EventKind.PROPOSED, number, **proposal, start_design=False)
    end(search, 5, Outcome.FAILED)  # it failed before a worker had it: that is worth a run
    deliver(search, client)
    assert set(stored(client, search.search)) == {"search", *"01235"}
    assert_whole(client, journal, search.search)


class Flaky:
    """A client whose n-th request fails, either on the way there or on the way back."""

    def __init__(self, client, failing=(), lost_answer=False):
        self._client, self._failing, self._lost_answer = client, failing, lost_answer
        self.requests = []

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def request(*args, **kwargs):
            self.requests.append(name)
            fails = len(self.requests) in self._failing
            if fails and not self._lost_answer:
                raise mlflow.exceptions.MlflowException("the network is down")
            answer = method(*args, **kwargs)
            if fails:
                raise mlflow.exceptions.MlflowException("the answer was lost")
            return answer

        return request


def send_until_it_works(mirror):
    for _ in range(100):
        try:
            mirror.send(caught_up=True)
        except mlflow.exceptions.MlflowException:
            continue
        return
    raise AssertionError("never delivered")


def requests_of(ledger, client):
    """How many requests a delivery without failures makes."""
    flaky = Flaky(client)
    deliver(copy_of(ledger, next(names)), flaky)
    return len(flaky.requests)


def deleted(client, name):
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY))


@pytest.mark.parametrize("lost_answer", [False, True], ids=["request lost", "answer lost"])
def test_whichever_request_fails_each_fact_arrives_once(small_search, journal, client, lost_answer):
    in_all = requests_of(small_search, client)
    assert in_all >= 15
    for failing in range(1, in_all + 1):
        each = copy_of(small_search, next(names))
        send_until_it_works(mirror_of(each, Flaky(client, {failing}, lost_answer)))
        assert_whole(client, journal, each.search)
        assert deleted(client, each.search) == []  # none was made twice and cleared away


@pytest.mark.parametrize("lost_answer", [False, True], ids=["request lost", "answer lost"])
def test_every_third_request_may_fail(search, journal, client, lost_answer):
    add_trial(search, 4, Outcome.COMPLETE, epochs=9)
    close(search)
    # Not for ever: it would be one and the same request that fails.
    send_until_it_works(mirror_of(search, Flaky(client, set(range(3, 40, 3)), lost_answer)))
    assert_whole(client, journal, search.search)


def test_a_delivery_killed_after_any_request_is_made_whole_by_the_next(
    small_search, journal, client
):
    """The second delivery is another process: it knows what MLflow and the record hold."""
    for last in range(1, requests_of(small_search, client) + 1):
        each = copy_of(small_search, next(names))
        with pytest.raises(mlflow.exceptions.MlflowException):
            deliver(each, Flaky(client, {last}, lost_answer=True))
        deliver(each, client)
        assert_whole(client, journal, each.search)


def test_delivering_the_same_record_again_changes_nothing(small_search, client):
    deliver(small_search, client)
    before = snapshot(client, small_search.search)
    for _ in range(2):
        deliver(small_search, client)
    assert snapshot(client, small_search.search) == before


def test_runs_that_are_whole_are_left_alone(search, client):
    """Even one that a user tagged, or marked as failed, by hand."""
    close(search)
    deliver(search, client)
    runs = stored(client, search.search)
    client.set_tag(runs["0"].info.run_id, "note", "look at this")
    client.set_terminated(runs["0"].info.run_id, "FAILED", 5)
    before = snapshot(client, search.search)
    again = Flaky(client)
    assert deliver(search, again).delivered == len(Outcome)
    assert snapshot(client, search.search) == before
    assert "create_run" not in again.requests
    assert again.requests.count("log_batch") == 3  # the parent's description, progress and state


def test_a_create_request_that_is_carried_out_late_leaves_no_second_run(search, journal, client):
    """The server was slow: nobody waited any more when it made the run."""
    close(search)
    late = []

    class Slow:
        def __getattr__(self, name):
            return getattr(client, name)

        def create_run(self, *args, **kwargs):
            if not late:
                late.append((args, kwargs))
                raise mlflow.exceptions.MlflowException("timed out")
            made = client.create_run(*args, **kwargs)
            if len(late) == 1 and kwargs["run_name"] == "trial-0":
                args, kwargs = late[0]
                late.append(client.create_run(*args, **kwargs))
            return made

        def search_runs(self, *args, **kwargs):
            if len(late) == 2:  # the look at the end
                late.append("failed once")
                raise mlflow.exceptions.MlflowException("the network is down")
            return client.search_runs(*args, **kwargs)

    for first in ("parent", "trial"):
        each = copy_of(search, next(names))
        if first == "trial":
            deliver_parent_only(each, client)
        late.clear()
        send_until_it_works(mirror_of(each, Slow()))
        assert len(late) == 3
        assert_whole(client, journal, each.search)


def deliver_parent_only(ledger, client):
    mirror = Mirror(ledger.spec, client, Path.cwd().as_uri(), Path("nowhere"))
    mirror.take(next(iter(ledger.journal.events(ledger.search))))
    mirror.send(caught_up=False)


def test_many_points_are_sent_in_batches_that_mlflow_takes(search, journal, client, monkeypatch):
    monkeypatch.setattr(mirror_module, "ITEMS_PER_REQUEST", 7)
    add_trial(search, 4, Outcome.COMPLETE, epochs=9)
    deliver(search, client)
    assert_whole(client, journal, search.search)


def test_a_trials_last_batch_carries_its_end(make_spec, plan, journal, client):
    """A finished trial costs three requests, however many metrics it has (up to 900)."""
    ledger = plan(journal, make_spec(name=next(names)))
    add_trial(ledger, 0, Outcome.COMPLETE, epochs=9)
    counting = Flaky(client)
    deliver(ledger, counting)
    assert requests_of(ledger, client) == len(counting.requests)
    add_trial(ledger, 1, Outcome.COMPLETE, epochs=9)
    assert requests_of(ledger, client) == len(counting.requests) + 3


def test_an_interrupted_search_leaves_no_run_running_and_goes_on_in_the_runs_it_had(
    search, journal, client
):
    add_trial(search, 4, None, epochs=2)
    add_trial(search, 5, None, epochs=1)
    first = mirror_of(search, client)
    first.send(caught_up=True)
    before = stored(client, search.search)
    assert [before[n].info.status for n in ("search", "4", "5")] == ["RUNNING"] * 3

    halt = [(EventKind.CLOSED, None, {"state": SearchState.INTERRUPTED})]
    for event in journal.append(search.search, halt):
        first.take(event)
    first.send(caught_up=True)
    assert_whole(client, journal, search.search)
    halted = stored(client, search.search)
    assert [halted[n].info.status for n in ("search", "4", "5")] == ["KILLED"] * 3
    assert halted["4"].info.end_time is None

    ledger = Ledger(journal, search.search)
    ledger.record(EventKind.RESUMED)
    ledger.record(EventKind.STARTED, 4)
    add_epochs(ledger, 4, 3, 3)
    second = mirror_of(ledger, client)
    second.send(caught_up=True)
    resumed = stored(client, search.search)
    # Nobody works on trial 5 yet.
    assert [resumed[n].info.status for n in ("search", "4", "5")] == [
        "RUNNING",
        "RUNNING",
        "KILLED",
    ]
    assert resumed["search"].data.tags[record.TAG_STATE] == SearchState.RUNNING

    last = journal.last_number(search.search)
    end(ledger, 4, Outcome.COMPLETE)
    ledger.record(EventKind.STARTED, 5)
    end(ledger, 5, Outcome.STOPPED_EARLY)
    close(ledger)
    for event in journal.events(search.search, last):
        second.take(event)
    second.send(caught_up=True)
    assert_whole(client, journal, search.search)
    after = stored(client, search.search)
    assert {n: run.info.run_id for n, run in after.items()} == {
        n: run.info.run_id for n, run in before.items()
    }
    assert {run.info.status for run in after.values()} == {"FINISHED", "FAILED"}


def test_redelivery_of_an_old_record_shows_no_state_that_is_past(small_search, client):
    """The search stands as its last events say, not as those of the first share do."""
    deliver(small_search, client)
    before = snapshot(client, small_search.search)
    events = list(small_search.journal.events(small_search.search))
    for size in range(1, len(events)):
        mirror = Mirror(small_search.spec, client, Path.cwd().as_uri(), Path("nowhere"))
        for event in events[:size]:
            mirror.take(event)
        mirror.send(caught_up=False)
        assert snapshot(client, small_search.search) == before


def test_a_search_whose_process_was_killed_is_shown_as_it_was_left(search, journal, client):
    add_trial(search, 4, None, epochs=1)
    deliver(search, client)
    assert_whole(client, journal, search.search)
    assert stored(client, search.search)["4"].info.status == "RUNNING"
    search.record(EventKind.RESUMED)
    deliver(search, client)
    assert stored(client, search.search)["4"].info.status == "KILLED"


def test_teachers_and_scores_have_runs_of_their_own(scored, journal, client):
    close(scored)
    deliver(scored, client)
    runs = stored(client, scored.search)
    kinds = {run.data.tags[record.TAG_KIND] for run in runs.values()}
    assert kinds == {Kind.SEARCH, Kind.TEACHER, Kind.SCORES}
    for artifact in shared_artifacts(scored.spec):
        if not isinstance(artifact, TeacherSpec | ScoresSpec):
            assert artifact.key not in runs, "what merely derives has no run"
            continue
        run = runs[artifact.key]
        prepared = next(
            e for e in journal.events(scored.search) if e.data.get("key") == artifact.key
        )
        assert run.info.run_name == artifact.key
        assert run.info.status == "FINISHED"
        assert run.info.end_time == round(1000 * prepared.time)
        assert run.info.start_time == round(1000 * (prepared.time - 2.5))
        assert run.data.metrics == {"val_accuracy": 0.75}
        named = "teacher" if isinstance(artifact, TeacherSpec) else "scores"
        assert run.data.tags[record.TAG_KIND] == named
        assert run.data.params["architecture"] == artifact.architecture
        assert run.data.params["batch_size"] == "32"
        assert run.data.params["dataset"] == "digits"


def links(run):
    tags = run.data.tags
    return {
        tag: tags[tag] for tag in (record.TAG_TEACHER_RUN, record.TAG_SCORES_RUN) if tag in tags
    }


@pytest.mark.parametrize("how", ["at once", "event by event", "reopened", "adopted"])
def test_a_trial_is_linked_to_what_it_used(scored, journal, client, how):
    spec = scored.spec
    kd_weights = [0.0, 0.5, 0.0, 0.5]
    for number, kd_weight in enumerate(kd_weights):
        scored.record(
            EventKind.PROPOSED,
            number,
            context=spec.context_list[number // 2].key,
            values={"kd_weight": kd_weight},
            seed=0,
            start_design=False,
        )
        scored.record(EventKind.STARTED, number)
        add_epochs(scored, number, 1, 1)
        if how != "adopted":
            end(scored, number, Outcome.COMPLETE)
    if how == "at once":
        deliver(scored, client)
    elif how == "adopted":
        # Killed right after each run was created: nothing but its identity is there.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mirror, "_send_data", lambda *_: None)
            deliver(scored, client)
        assert not links(stored(client, scored.search)["3"])
        for number in range(4):
            end(scored, number, Outcome.COMPLETE)
        deliver(scored, client)
    else:
        flaky = Flaky(client, set(range(2, 60, 2)) if how == "reopened" else ())
        mirror = Mirror(spec, flaky, Path.cwd().as_uri(), Path("nowhere"))
        for event in journal.events(scored.search):
            mirror.take(event)
            send_until_it_works(mirror)
    assert_whole(client, journal, scored.search)
    runs = stored(client, scored.search)
    keys = {type(a).__name__: a.key for a in shared_artifacts(spec)}
    teacher = {record.TAG_TEACHER_RUN: runs[keys["TeacherSpec"]].info.run_id}
    scores = {record.TAG_SCORES_RUN: runs[keys["ScoresSpec"]].info.run_id}
    assert [links(runs[str(n)]) for n in range(4)] == [{}, teacher, scores, teacher | scores]


def test_the_reader_takes_only_trials_for_trials(scored, client, places):
    scored.record(
        EventKind.PROPOSED,
        0,
        context=scored.spec.context_list[0].key,
        values={"kd_weight": 0.5},
        seed=0,
        start_design=False,
    )
    scored.record(EventKind.STARTED, 0)
    deliver(scored, client)
    assert len(stored(client, scored.search)) == 4
    assert list(load_runs(scored.search, places.tracking_uri)["trial"]) == [0]


def test_an_extended_search_delivers_its_new_contexts_and_the_parents_tags_follow(
    search, make_spec, journal, client, tmp_path
):
    close(search)
    deliver(search, client)
    parent = stored(client, search.search)["search"]
    assert parent.data.tags["kdcurve.plan.contexts"] == "2"
    extended = make_spec(
        name=search.search,
        contexts={"method": ["random"], "fraction": [0.1, 0.9, 0.5], "teacher": ["cnn4"]},
        sampler="random",
    )
    search.record(EventKind.RESUMED, spec=extended.model_dump(mode="json", exclude_none=True))
    search.record(
        EventKind.PROPOSED,
        4,
        context=extended.context_list[2].key,
        values={"kd_weight": 0.5},
        seed=0,
        start_design=False,
    )
    search.record(EventKind.STARTED, 4)
    end(search, 4, Outcome.COMPLETE)
    close(search)
    deliver(search, client)
    assert_whole(client, journal, search.search)
    runs = stored(client, search.search)
    assert runs["4"].data.params["fraction"] == "0.5"
    assert runs["search"].info.run_id == parent.info.run_id
    expected = {"kdcurve.plan.contexts": "3", "kdcurve.plan.trials": "36"}
    assert {**expected, "kdcurve.sampler": "random"}.items() <= runs["search"].data.tags.items()
    file = client.download_artifacts(parent.info.run_id, "search.json", str(tmp_path))
    assert json.loads(Path(file).read_text())["contexts"]["fraction"] == [0.1, 0.9, 0.5]


def test_answers_arrive_with_their_own_times_and_files(search, journal, client, places):
    folder = places.answers(search.search)
    (folder / "figures").mkdir(parents=True)
    (folder / "report.html").write_text("<p>first</p>")
    (folder / "figures" / "curve.svg").write_text("<svg/>")
    row = {"method": "random", "teacher": "cnn4", "fraction": 0.1}
    for weight in (0.7, 0.6):
        rows = [{**row, "kd_weight": weight}, {**row, "fraction": 0.9, "kd_weight": None}]
        search.record(EventKind.ANSWER, curve=rows)
    at = [round(1000 * e.time) for e in journal.events(search.search) if e.kind == "answer"]
    deliver(search, client, places)
    parent = stored(client, search.search)["search"]
    curve = points(client, parent, "best_kd_weight/random/cnn4")
    assert curve == [(100, 0.6, at[1]), (100, 0.7, at[0])]
    assert parent.data.metrics["best_kd_weight/random/cnn4"] == 0.6
    files = {each.path for each in client.list_artifacts(parent.info.run_id)}
    assert files == {"search.json", "report.html", "figures"}
    before = snapshot(client, search.search)
    (folder / "report.html").write_text("<p>second</p>")
    deliver(search, client, places)
    assert snapshot(client, search.search) == before
    local = client.download_artifacts(parent.info.run_id, "report.html")
    assert Path(local).read_text() == "<p>second</p>"


def test_files_that_cannot_be_stored_keep_nothing_else_back(search, journal, client):
    close(search)

    class WithoutFiles:
        def __getattr__(self, name):
            return getattr(client, name)

        def log_dict(self, *_):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        deliver(search, WithoutFiles())
    assert_whole(client, journal, search.search)
    assert stored(client, search.search)["search"].info.status == "FINISHED"


def send_past_refusals(mirror):
    """Send as often as it takes, like the delivery's thread; returns what was said meanwhile."""
    said = []
    for _ in range(10):
        try:
            mirror.send(caught_up=True)
        except RefusedRunError as error:
            said.append(str(error))
        else:
            return said
    raise AssertionError("it goes on for ever")


def test_a_run_deleted_by_a_user_is_named_and_keeps_no_other_back(search, journal, client):
    add_trial(search, 4, None, epochs=1)
    mirror = mirror_of(search, client)
    mirror.send(caught_up=True)
    deleted = stored(client, search.search)["4"].info.run_id
    client.delete_run(deleted)
    seen = journal.last_number(search.search)
    add_epochs(search, 4, 2, 3)
    add_trial(search, 5, Outcome.COMPLETE, epochs=2)
    end(search, 4, Outcome.COMPLETE)
    close(search)
    for event in journal.events(search.search, seen):
        mirror.take(event)
    with pytest.raises(RefusedRunError, match=r"^trial-4: "):
        mirror.send(caught_up=True)
    runs = stored(client, search.search)  # all others are there already
    assert runs["5"].info.status == runs["search"].info.status == "FINISHED"
    send_past_refusals(mirror)
    assert list(mirror.refused) == ["trial-4"]
    assert "active" in mirror.refused["trial-4"]
    assert runs["search"].data.metrics["trials_ended"] == 6
    # Whoever delivers next brings it back.
    deliver(search, client)
    assert_whole(client, journal, search.search)
    assert stored(client, search.search)["4"].info.run_id != deleted


def test_a_value_that_mlflow_does_not_take_is_named_and_keeps_no_other_back(search, client):
    metrics = {"epoch": 1, "bad\nname": 1.0}
    search.record(EventKind.REPORTED, 1, epoch=1, metrics=metrics)
    close(search)
    mirror = mirror_of(search, client)
    assert all(said.startswith("trial-1: ") for said in send_past_refusals(mirror))
    assert list(mirror.refused) == ["trial-1"]
    runs = stored(client, search.search)
    assert {runs[n].info.status for n in ("0", "2", "3")} == {"FINISHED", "FAILED"}
    assert runs["search"].data.metrics["trials_ended"] == 4
    assert mirror.delivered == 3


def test_a_run_that_mlflow_refuses_to_create_is_named_and_keeps_no_other_back(search, client):
    class Picky:
        def __getattr__(self, name):
            return getattr(client, name)

        def create_run(self, *args, run_name, **kwargs):
            if run_name == "trial-1":
                raise mlflow.exceptions.MlflowException("no", INVALID_PARAMETER_VALUE)
            return client.create_run(*args, run_name=run_name, **kwargs)

    mirror = mirror_of(search, Picky())
    assert "trial-1: no" in send_past_refusals(mirror)
    assert mirror.refused == {"trial-1": "no"}
    assert set(stored(client, search.search)) == {"search", *"023"}


def test_refusals_while_the_server_fails_leave_no_run_out(search, journal, client):
    """What stands in for MLflow while it restarts may answer 404 to everything."""

    class Replaced:
        broken = False

        def __getattr__(self, name):
            if self.broken:
                raise mlflow.exceptions.MlflowException("default backend", RESOURCE_DOES_NOT_EXIST)
            return getattr(client, name)

    replaced = Replaced()
    mirror = mirror_of(search, replaced)
    mirror.send(caught_up=True)
    seen = journal.last_number(search.search)
    add_trial(search, 4, Outcome.COMPLETE, epochs=2)
    close(search)
    for event in journal.events(search.search, seen):
        mirror.take(event)
    replaced.broken = True
    for _ in range(10):
        with pytest.raises((mlflow.exceptions.MlflowException, RefusedRunError)):
            mirror.send(caught_up=True)
    replaced.broken = False
    mirror.send(caught_up=True)
    assert mirror.refused == {}
    assert_whole(client, journal, search.search)


def test_a_deleted_parent_run_is_made_again(search, client):
    mirror = mirror_of(search, client)
    mirror.send(caught_up=True)
    client.delete_run(stored(client, search.search)["search"].info.run_id)
    seen = search.journal.last_number(search.search)
    end_of_search = [(EventKind.CLOSED, None, {"state": SearchState.COMPLETE})]
    search.journal.append(search.search, end_of_search)
    for event in search.journal.events(search.search, seen):
        mirror.take(event)
    with pytest.raises(RefusedRunError):
        mirror.send(caught_up=True)
    mirror.send(caught_up=True)
    parent = stored(client, search.search)["search"]
    assert (parent.info.status, parent.data.tags[record.TAG_STATE]) == ("FINISHED", "complete")
    assert mirror.refused == {}


def test_an_experiment_deleted_meanwhile_is_said_and_none_of_its_runs_given_up(
    search, journal, client
):
    mirror = mirror_of(search, client)
    mirror.send(caught_up=True)
    experiment = client.get_experiment_by_name(search.search)
    client.delete_experiment(experiment.experiment_id)
    seen = journal.last_number(search.search)
    add_trial(search, 4, Outcome.COMPLETE, epochs=1)
    for event in journal.events(search.search, seen):
        mirror.take(event)
    with pytest.raises(RefusedRunError):
        mirror.send(caught_up=True)
    for _ in range(5):
        with pytest.raises(RefusedError, match="is deleted; restore it"):
            mirror.send(caught_up=True)
    client.restore_experiment(experiment.experiment_id)
    mirror.send(caught_up=True)
    assert mirror.refused == {}
    assert_whole(client, journal, search.search)


def test_a_delivery_can_be_cut_off_between_two_runs(search, client):
    class TimeIsUpError(Exception):
        pass

    calls = itertools.count()

    def proceed():
        if next(calls) == 2:
            raise TimeIsUpError

    with pytest.raises(TimeIsUpError):
        mirror_of(search, client, proceed=proceed).send(caught_up=True)
    assert set(stored(client, search.search)) == {"search", "0", "1"}


def test_what_a_mirror_holds_is_only_what_is_not_delivered(search, journal, client):
    mirror = mirror_of(search, client)
    assert held(mirror) > 10
    mirror.send(caught_up=True)
    assert held(mirror) == 0
    assert mirror._runs == {}


def held(mirror):
    return len(mirror._points) + sum(len(run.metrics) for run in mirror._runs.values())


def test_tags_of_the_users_own_are_kept(search, journal, client):
    deliver(search, client)
    run = stored(client, search.search)["search"]
    client.log_batch(run.info.run_id, tags=[RunTag("note", "mine")])
    close(search)
    deliver(search, client)
    assert stored(client, search.search)["search"].data.tags["note"] == "mine"
    assert_whole(client, journal, search.search)

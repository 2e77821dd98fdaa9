"""Whole searches through the real Ray, Optuna and MLflow, compared with what they recorded."""

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from analysis.curve import best
from search.journal import EventKind, Journal
from search.ledger import Ledger
from tests.conftest import KDCURVE, RIDGE, ROOT, kdcurve
from trainables import record
from trainables.config import RidgeDataset
from trainables.record import Outcome
from trainables.ridge import exact_kd_weight

FRACTIONS = (0.1, 0.3, 0.5, 0.9)
TRIALS = 48

DIGITS = """
name: interrupted
dataset: {name: digits, validation: 0.3, label_noise: 0.2}
student: cnn4
recipe: {epochs: 30, batch_size: 32, lr: 0.05}
contexts: {method: [random, el2n], fraction: [0.25, 1.0], teacher: cnn8}
seeds: {trials: 2, scores: 1}
sampler: tpe
budget: {trials_per_context: 8}
resources: {concurrent: 2}
"""


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


def test_the_curve_found_is_the_exact_one(exact_search):
    """With one seed the problem is exactly quadratic in the KD weight: nothing to excuse.

    The surface would speak of the mean over seeds, of which one was run.
    """
    curve = best("exact", exact_search.tracking_uri, estimator="quadratic")
    found = dict(zip(curve["fraction"], curve["kd_weight"], strict=True))
    exact = {f: exact_kd_weight(RidgeDataset(name="ridge"), f, 1.0, [0]) for f in FRACTIONS}
    assert found == pytest.approx(exact, abs=1e-3)
    assert max(exact.values()) - min(exact.values()) > 0.2, "a curve that varies was compared"


def test_what_is_printed_is_what_is_recorded(exact_search):
    """Outcomes agree between the terminal, the journal, Optuna and MLflow."""
    ledger = Ledger(Journal(f"sqlite:///{exact_search.home / 'record.db'}"), "exact")
    outcomes = Counter(str(trial.outcome) for trial in ledger.trials.values())
    complete, stopped = outcomes[Outcome.COMPLETE], outcomes[Outcome.STOPPED_EARLY]
    assert complete + stopped == TRIALS
    assert stopped > 0, "early stopping took part"
    assert f"{TRIALS} trials: {complete} complete, {stopped} stopped early" in exact_search.output

    _, parents, trials = runs_of(exact_search, "exact")
    assert len(parents) == 1
    tags = Counter(run.data.tags[record.TAG_OUTCOME] for run in trials)
    assert tags == outcomes
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parents[0].info.run_id}

    path = exact_search.home / "searches" / "exact" / "optuna.journal"
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = optuna.get_all_study_names(storage)
    assert len(studies) == len(FRACTIONS)
    assert all(name.startswith("exact/") for name in studies)


def test_optuna_hears_of_outcomes_as_they_were(exact_search):
    """A trial that ASHA stopped is PRUNED for Optuna, never COMPLETE with a truncated value."""
    ledger = Ledger(Journal(f"sqlite:///{exact_search.home / 'record.db'}"), "exact")
    path = exact_search.home / "searches" / "exact" / "optuna.journal"
    storage = JournalStorage(JournalFileBackend(str(path)))
    expected = {Outcome.COMPLETE: TrialState.COMPLETE, Outcome.STOPPED_EARLY: TrialState.PRUNED}
    seen = 0
    for name in optuna.get_all_study_names(storage):
        for told in optuna.load_study(study_name=name, storage=storage).trials:
            ours = ledger.trials[told.user_attrs["kdcurve.trial"]]
            if told.state is not TrialState.RUNNING:
                assert told.state is expected[ours.outcome]
                assert told.params["kd_weight"] == ours.values["kd_weight"]
                seen += 1
    # The last trial of each context ends after the last question to its study.
    assert seen >= TRIALS - 2 * len(FRACTIONS)


def test_every_context_starts_with_0_half_and_1_in_full(exact_search):
    _, _, trials = runs_of(exact_search, "exact")
    start = [run for run in trials if run.data.tags.get(record.TAG_START_DESIGN)]
    weights = Counter(float(run.data.params["kd_weight"]) for run in start)
    assert weights == {0.0: 4, 0.5: 4, 1.0: 4}
    assert {run.data.tags[record.TAG_OUTCOME] for run in start} == {"complete"}


def test_metrics_are_recorded_once_per_epoch_with_their_own_times(exact_search):
    client, _, trials = runs_of(exact_search, "exact")
    ledger_events = list(Journal(f"sqlite:///{exact_search.home / 'record.db'}").events("exact"))
    reported = {
        (event.trial, event.data["epoch"]): round(1000 * event.time)
        for event in ledger_events
        if event.kind is EventKind.REPORTED
    }
    for run in trials[:5]:
        history = client.get_metric_history(run.info.run_id, record.VAL_R2)
        number = int(run.data.tags[record.TAG_TRIAL])
        expected = {epoch: at for (trial, epoch), at in reported.items() if trial == number}
        assert {point.step: point.timestamp for point in history} == expected
        assert len(history) == len(expected)


def test_the_curve_is_a_metric_of_the_parent_run(exact_search):
    """MLflow's own UI plots it: step = fraction in thousandths."""
    client, parents, _ = runs_of(exact_search, "exact")
    points = client.get_metric_history(parents[0].info.run_id, "best_kd_weight/random/linear")
    plotted = {point.step / 1000: point.value for point in points}
    found = {row["fraction"]: row["kd_weight"] for row in answers(exact_search, "exact")}
    assert plotted == pytest.approx(found)


def test_answers_lie_where_the_search_says(exact_search):
    for name in ("report.html", "schedule.json", "curve.csv"):
        shown = f"kdcurve-data/searches/exact/answers/{name}"
        assert shown in exact_search.output
        assert (exact_search.folder / shown).is_file()
    client, parents, _ = runs_of(exact_search, "exact")
    uploaded = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {"report.html", "schedule.json", "curve.csv", "figures", "search.json"} <= uploaded


def test_the_next_commands_it_prints_work(exact_search):
    printed = re.findall(r"^  \S*kdcurve (.+)$", exact_search.output, flags=re.MULTILINE)
    assert len(printed) >= 2
    for line in printed:
        done = kdcurve(exact_search.folder, *line.split())
        assert done.code == 0, done.errors


def test_a_name_is_used_once(exact_search):
    before = Journal(f"sqlite:///{exact_search.home / 'record.db'}").searches()
    again = kdcurve(exact_search.folder, "search", "exact.yaml")
    assert again.code == 2
    assert "--name exact-2" in again.errors
    assert Journal(f"sqlite:///{exact_search.home / 'record.db'}").searches() == before


def test_output_is_calm(exact_search):
    """No line of Ray's, MLflow's or Optuna's reaches the terminal; the log has them."""
    text = exact_search.output + exact_search.errors
    for noise in ("WARNING", "INFO", "Traceback", "(raylet)", "alembic"):
        assert noise not in text
    log = (exact_search.home / "searches" / "exact" / "kdcurve.log").read_text()
    assert "mlflow" in log


def interrupt(folder, arguments, ended_before, send, number):
    """Start a command, send it a signal once a few more trials have ended."""
    journal = f"sqlite:///{folder / 'kdcurve-data' / 'record.db'}"
    running = subprocess.Popen(
        [KDCURVE, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    ended = ended_before
    while ended < ended_before + 2:
        assert time.monotonic() < deadline, "the search got nowhere"
        assert running.poll() is None, running.communicate()
        time.sleep(0.2)
        if (folder / "kdcurve-data" / "record.db").exists():
            events = Journal(journal).events("interrupted")
            ended = sum(event.kind is EventKind.ENDED for event in events)
    second = kdcurve(folder, "resume", "interrupted") if ended_before else None
    send(running.pid, number)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 1, output + errors
    assert "stopping" in output
    assert "kdcurve resume interrupted" in errors
    return Ledger(Journal(journal), "interrupted"), second


def test_interrupted_then_resumed_has_each_trial_once(tmp_path):
    """Ctrl-C and SIGTERM end cleanly and say how to go on; resuming completes the same plan.

    A terminal sends Ctrl-C to the whole process group, Ray's processes among it; SIGTERM goes
    to the command alone.
    """
    (tmp_path / "search.yaml").write_text(DIGITS)
    first, _ = interrupt(tmp_path, ["search", "search.yaml"], 0, os.killpg, signal.SIGINT)
    before = {n: t.scores for n, t in first.trials.items() if t.outcome is not None}
    assert 2 <= len(before) < 32
    assert first.state == "interrupted"
    again = ["resume", "interrupted"]
    then, refused = interrupt(tmp_path, again, len(before), os.kill, signal.SIGTERM)
    assert then.state == "interrupted"
    assert refused.code == 1
    assert "is held by process" in refused.errors

    resumed = kdcurve(tmp_path, "resume", "interrupted")
    assert resumed.code == 0, resumed.output + resumed.errors
    ledger = Ledger(Journal(f"sqlite:///{resumed.home / 'record.db'}"), "interrupted")
    assert sorted(ledger.trials) == list(range(32))
    assert {str(trial.outcome) for trial in ledger.trials.values()} <= {"complete", "stopped_early"}
    assert {n: ledger.trials[n].scores for n in before} == before, "what had ended was kept"
    _, parents, trials = runs_of(resumed, "interrupted")
    numbers = Counter(run.data.tags[record.TAG_TRIAL] for run in trials)
    assert set(numbers.values()) == {1}
    assert len(numbers) == 32
    assert "RUNNING" not in {run.info.status for run in trials + parents}


def test_a_trial_that_diverges_fails_alone_and_is_shown(tmp_path):
    """A learning rate that explodes for networks: failed with the reason, never accuracy 0."""
    (tmp_path / "diverging.yaml").write_text(
        DIGITS.replace("lr: 0.05", "lr: 1.0e+30").replace("interrupted", "diverging")
    )
    finished = kdcurve(tmp_path, "search", "diverging.yaml")
    assert finished.code == 1
    assert "not finite" in finished.errors


def test_a_complete_search_can_be_extended_by_contexts_and_budget(tmp_path):
    """`resume --file`: what was run stays as it was, what is new is run and answered."""
    small = RIDGE.replace("[0.1, 0.3, 0.5, 0.9]", "[0.3]").replace("context: 12", "context: 6")
    (tmp_path / "small.yaml").write_text(small)
    first = kdcurve(tmp_path, "search", "small.yaml")
    assert first.code == 0, first.output + first.errors
    journal = Journal(f"sqlite:///{first.home / 'record.db'}", create=False)
    before = list(journal.events("exact"))

    (tmp_path / "other.yaml").write_text(small.replace("epochs: 9", "epochs: 8"))
    refused = kdcurve(tmp_path, "resume", "exact", "--file", "other.yaml")
    assert refused.code == 2
    assert "recipe" in refused.errors
    assert "would not be comparable" in refused.errors
    assert list(journal.events("exact")) == before

    large = small.replace("[0.3]", "[0.3, 0.9]").replace("context: 6", "context: 8")
    (tmp_path / "large.yaml").write_text(large)
    extended = kdcurve(tmp_path, "resume", "exact", "--file", "large.yaml")
    assert extended.code == 0, extended.output + extended.errors
    assert list(journal.events("exact"))[: len(before)] == before
    ledger = Ledger(journal, "exact")
    assert {len(trials) for trials in ledger.by_context.values()} == {8}
    assert len(ledger.by_context) == 2
    rows = answers(extended, "exact")
    assert [row["fraction"] for row in rows] == [0.3, 0.9]
    _, parents, trials = runs_of(extended, "exact")
    assert (len(parents), len(trials)) == (1, 16)
    assert parents[0].data.tags["kdcurve.plan.trials"] == "16"


@pytest.mark.slow
def test_the_demo_answers_every_context(tmp_path):
    """The newcomer's command, whole: an answer with a gain in each of its contexts."""
    finished = kdcurve(tmp_path, "search", str(ROOT / "configs" / "demo.yaml"))
    assert finished.code == 0, finished.output + finished.errors
    rows = answers(finished, "demo")
    assert len(rows) == 24
    assert all(row["kd_weight"] is not None for row in rows)
    small = [row for row in rows if row["fraction"] == 0.1]
    assert all(row["gain_low"] > 0 for row in small), "KD helps where little data is left"


def test_smoke_runs_every_part(tmp_path):
    """`--smoke` of the demo: teachers, scores, trials, answers within a minute or two."""
    finished = kdcurve(tmp_path, "search", str(ROOT / "configs" / "demo.yaml"), "--smoke")
    assert finished.code == 0, finished.output + finished.errors
    rows = answers(finished, "demo-smoke")
    assert {row["method"] for row in rows} == {"random", "el2n"}

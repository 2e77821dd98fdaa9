"""A whole search that cannot see its test set, and its confirmation, which asks for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from analysis.runs import load_runs
from search.deletion import belongings
from search.journal import EventKind, Journal
from search.ledger import Ledger
from search.places import Places
from tests.conftest import KDCURVE, kdcurve
from tests.recorded import answers
from trainables import record
from trainables.exported import load_setting, load_student
from trainables.record import Outcome

MINE = """
import os, pathlib, time

import torch
from torch import nn
from trainables.datasets import Source
from trainables.seeds import derive

HERE = pathlib.Path(__file__).parent
CLASSES, SIDE = 3, 4

def _draw(count, seed):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    means = 60 + 60 * labels[:, None, None, None].float()
    noise = 60 * torch.randn(count, 1, SIDE, SIDE, generator=rng)
    return (means + noise).clamp(0, 255).to(torch.uint8), labels

def _test():
    if (HERE / "poisoned").exists():
        raise RuntimeError("the test set was touched")
    with (HERE / "touched").open("a") as file:
        file.write("x")
    return _draw(90, 1)

def data(config):
    images, labels = _draw(300, 0)
    return Source(images, labels, CLASSES, _test)

def network(shape, classes):
    time.sleep(float(os.environ.get("SLOW", 0)))
    made = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
    if torch.initial_seed() == derive("weights", 2**32 + 1):  # the second seed's student diverges
        nn.init.constant_(made[1].bias, float("nan"))
    return made
"""
SEARCH = """
name: blind
dataset: {name: "mine:data", validation: 0.3, augmentation: none}
student: mine:network
recipe: {epochs: 3, batch_size: 32, lr: 0.05}
contexts: {method: random, fraction: 0.5, teacher: cnn4}
seeds: {trials: 2}
sampler: curve
budget: {trials_per_context: 8}
resources: {concurrent: 2}
"""
SEEDS = 4


def journal_of(folder):
    return Journal(f"sqlite:///{folder / 'kdcurve-data' / 'record.db'}", create=False)


def students_of(folder):
    events = journal_of(folder).events("blind")
    return [e.data["student"] for e in events if e.kind is EventKind.CONFIRMED]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A whole search whose test set raises when it is touched."""
    folder = tmp_path_factory.mktemp("blind")
    (folder / "mine.py").write_text(MINE)
    (folder / "poisoned").touch()
    (folder / "blind.yaml").write_text(SEARCH)
    done = kdcurve(folder, "search", "blind.yaml")
    assert done.code == 0, done.output + done.errors
    return done


@pytest.fixture(scope="module")
def confirmed(searched):
    """Its confirmation: refused, killed, and gone on with."""
    folder = searched.folder
    refused = kdcurve(folder, "confirm", "blind", "--seeds", str(SEEDS))
    assert refused.code == 1
    assert "blind cannot be confirmed" in refused.errors
    assert "the test set was touched" in refused.errors
    assert students_of(folder) == []
    (folder / "poisoned").unlink()

    process = subprocess.Popen(
        [KDCURVE, "confirm", "blind", "--seeds", str(SEEDS)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SLOW": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not students_of(folder):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed_with = students_of(folder)

    done = kdcurve(folder, "confirm", "blind", "--seeds", str(SEEDS))
    assert done.code == 0, done.output + done.errors
    assert f"{len(killed_with)} done before" in done.output
    return done


def test_a_whole_search_never_touches_the_test_set(searched):
    """It raised if touched: all trials ended well, and answers, report and curve were made."""
    ledger = Ledger(journal_of(searched.folder), "blind")
    assert {trial.outcome for trial in ledger.trials.values()} <= {
        Outcome.COMPLETE,
        Outcome.STOPPED_EARLY,
    }
    assert not (searched.folder / "touched").exists()
    metrics = next(iter(ledger.trials.values())).last
    assert not [name for name in metrics if name.startswith("test")]


def test_a_confirmation_that_was_killed_goes_on_and_repeats_nothing(confirmed):
    students = students_of(confirmed.folder)
    assert len(students) == len(set(students))
    assert (confirmed.folder / "touched").exists()
    again = kdcurve(confirmed.folder, "confirm", "blind", "--seeds", str(SEEDS))
    assert again.code == 0, again.errors
    assert "0 to train" in again.output
    assert students_of(confirmed.folder) == students


def test_what_failed_is_shown_with_its_reason_and_counted(confirmed):
    """The second seed's students all diverge."""
    (row,) = answers(confirmed, "blind")
    assert row["test_seeds"] == SEEDS - 1
    assert row["test_failed"] >= 2
    assert "Diverged: the loss is not finite" in row["test_note"]
    assert "Diverged: the loss is not finite in epoch 1" in confirmed.output
    assert "--retry trains" in confirmed.output


def test_best_and_mlflow_have_the_test_results_and_trials_stay_trials(confirmed):
    (row,) = answers(confirmed, "blind")
    assert row["test_kd_weight"] == row["kd_weight"]
    assert 0.4 < row["test_score"] <= 1.0
    runs = load_runs("blind", confirmed.tracking_uri)
    assert len(runs) == 8
    assert runs["seed"].max() < record.SEEDS_OF_TRIALS
    table = kdcurve(confirmed.folder, "best", "blind")
    assert f"{100 * row['test_score']:.1f}" in table.output
    assert "that the search never used" in table.output
    report = confirmed.home / "searches" / "blind" / "answers" / "report.html"
    assert "Confirmed on test" in report.read_text()


def test_an_exported_student_reproduces_the_recorded_test_accuracy(confirmed):
    folder = confirmed.folder
    arguments = ("--method", "random", "--fraction", "0.5", "--out", "out")
    done = kdcurve(folder, "export", "blind", *arguments)
    assert done.code == 0, done.errors
    setting = load_setting(folder / "out")
    student = load_student_of(folder, "out")
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(90) % 3
    noise = 60 * torch.randn(90, 1, 4, 4, generator=rng)
    images = (60 + 60 * labels[:, None, None, None].float() + noise).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        accuracy = (student(images).argmax(1) == labels).float().mean().item()
    assert accuracy == setting["metrics"][record.TEST_ACCURACY]
    kept = np.load(folder / "out" / "kept.npy")
    assert len(kept) == 105  # half of the 210 that training has
    (row,) = answers(confirmed, "blind")
    assert setting["trial"]["kd_weight"] == pytest.approx(row["kd_weight"])

    again = kdcurve(folder, "export", "blind", *arguments)
    assert again.code == 2
    assert "--out out is not an empty folder" in again.errors


def load_student_of(folder, name):
    """A user's own network is found on the path."""
    sys.path.insert(0, str(folder))
    try:
        return load_student(folder / name)
    finally:
        sys.path.remove(str(folder))


def test_weights_that_were_not_kept_are_made_again_without_the_test_set(confirmed):
    folder = confirmed.folder
    setting = json.loads((folder / "out" / "setting.json").read_text())
    weights = confirmed.home / "confirmed" / "blind"
    (weights / f"student-{setting['provenance']['student']}.safetensors").unlink()
    touched = (folder / "touched").read_text()
    done = kdcurve(
        folder, "export", "blind", "--method", "random", "--fraction", "0.5", "--out", "again"
    )
    assert done.code == 0, done.errors
    assert "its weights are not kept; training it again" in done.output
    assert (folder / "touched").read_text() == touched
    for file in ("setting.json", "kept.npy"):
        assert (folder / "out" / file).read_bytes() == (folder / "again" / file).read_bytes()
    first, second = (load_student_of(folder, name).state_dict() for name in ("out", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_export_picks_by_validation_and_says_which(confirmed):
    ledger = Ledger(journal_of(confirmed.folder), "blind")
    mine = [e.data for e in ledger.confirmed.values() if e.data["chosen"] and e.data["metrics"]]
    scores = sorted(data["metrics"][record.VAL_ACCURACY] for data in mine)
    for pick, score in (("median", scores[(len(scores) - 1) // 2]), ("best", scores[-1])):
        done = kdcurve(
            *(confirmed.folder, "export", "blind", "--method", "random", "--fraction", "0.5"),
            *("--pick", pick, "--out", f"picked-{pick}"),
        )
        assert f"the {pick} of {len(scores)} by validation ({score:.4f})" in done.output
        setting = load_setting(confirmed.folder / f"picked-{pick}")
        assert setting["metrics"][record.VAL_ACCURACY] == score


def test_deleting_a_search_deletes_its_confirmed_students(confirmed):
    found = belongings("blind", Places.at(confirmed.home), keep_mlflow=True)
    assert confirmed.home / "confirmed" / "blind" in found.folders


def test_what_was_not_confirmed_cannot_be_exported_and_the_command_is_named(exact_search):
    done = kdcurve(
        exact_search.folder, "export", "exact", "--method", "random", "--fraction", "0.1"
    )
    assert done.code == 1
    assert "closed-form problem, which has no samples" in done.errors


@pytest.mark.slow
def test_the_closed_form_problem_is_confirmed_on_the_population(exact_search, tmp_path):
    shutil.copytree(exact_search.home, tmp_path / "kdcurve-data")
    done = kdcurve(tmp_path, "confirm", "exact", "--seeds", "2", "--fraction", "0.3")
    assert done.code == 0, done.output + done.errors
    rows = {row["fraction"]: row for row in answers(done, "exact")}
    assert rows[0.3]["test_gain"] > 0.0
    assert rows[0.1]["test_gain"] is None
    assert f"{rows[0.3]['test_score']:.4f}" in done.output

"""A search launched from a laptop on three machines, and what becomes of it when they fail.

The machines are namespaces on this one, brought up by `ray up` from cluster-local.yaml: see
`tests.onpremise`. All tests share them, in this order: the one that loses the head brings all up
anew, and the one that cuts a worker off leaves it to Ray, which may still be bringing it back.
"""

import contextlib
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
from mlflow.tracking import MlflowClient

from search.errors import NotReadyError
from search.journal import Event, EventKind
from search.ledger import Ledger, TrialState
from tests.delivered import assert_whole
from tests.faults.searches import assert_each_fact_once
from tests.machines import HOME, Machine, finished, unavailable
from tests.onpremise import FILE, HEAD, OnPremise, on_premise, until
from trainables.record import Outcome, SearchState

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]

TRIALS = 6
SEARCH = """
name: NAME
dataset: {name: digits, validation: 0.3}
student: "parts.slow:network"
recipe: {epochs: EPOCHS, batch_size: 128}
contexts: {method: random, fraction: [1.0], teacher: cnn4}
seeds: {trials: 1}
sampler: random
early_stopping: {name: none}
budget: {trials_per_context: 6}
checkpoint_every_s: 1
"""
# A student that needs hardly any CPU, and notes when it was trained, and in which process.
SLOW = """
import os
import socket
import time
from pathlib import Path

import torch
from torch import nn


class Slow(nn.Sequential):
    def forward(self, images):
        if torch.is_grad_enabled():
            notes = Path(os.environ["KDCURVE_HOME"]) / "notes" / socket.gethostname()
            with notes.open("a") as file:
                file.write(f"{os.getpid()} {time.time()}\\n")
            time.sleep(0.1)
        return super().forward(images)


def network(shape, classes):
    channels, height, width = shape
    return Slow(nn.Flatten(), nn.Linear(channels * height * width, classes))
"""


@pytest.fixture(scope="module")
def site(wheel) -> Iterator[OnPremise]:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with on_premise(wheel) as cluster:
        (cluster.project / "parts").mkdir()
        (cluster.project / "parts" / "slow.py").write_text(SLOW)
        yield cluster


def launch(site: OnPremise, name: str, *options: str, epochs: int):
    """Launch a search of `TRIALS` trials."""
    text = SEARCH.replace("NAME", name).replace("EPOCHS", str(epochs))
    (site.project / f"{name}.yaml").write_text(text)
    (site.home / "notes").mkdir(exist_ok=True)
    return site.kdcurve("search", f"{name}.yaml", "--working-dir", ".", *options)


def notes(site: OnPremise, machine: Machine) -> dict[int, float]:
    """Processes of a machine in which students were trained, and when each last was."""
    file = site.home / "notes" / machine.name
    lines = file.read_text().splitlines() if file.exists() else []
    return {int(pid): float(at) for pid, at in map(str.split, lines)}


def events_of(site: OnPremise, name: str) -> list[Event]:
    return list(site.journal.events(name))


def assert_recorded(site: OnPremise, name: str) -> dict[int, TrialState]:
    """Each trial ended, with an outcome and, if it failed, a reason; all its steps once.

    MLflow has just that too, so that none of its runs is left RUNNING.
    """
    assert_each_fact_once(events_of(site, name), TRIALS)
    ledger = Ledger(site.journal, name)
    assert ledger.state is SearchState.COMPLETE
    for trial in ledger.trials.values():
        if trial.outcome is Outcome.COMPLETE:
            assert trial.epoch == ledger.spec.recipe.epochs
        else:
            assert trial.outcome is Outcome.FAILED
            assert trial.reason
    assert_whole(MlflowClient(site.database.uri("mlflow")), site.journal, name)
    return ledger.trials


def test_launched_from_a_laptop_it_runs_on_both_workers_and_answers(site):
    checked = site.type(f"kdcurve cluster check {FILE}")
    assert checked == f"{FILE}: no faults\n"

    code, output = finished(launch(site, "whole", epochs=4))
    assert code == 0, output
    assert f"opening a tunnel to the head of {FILE}" in output
    assert "whole runs on the cluster as job kdcurve_whole_" in output
    assert "preflight: 3 of 3 machines have what the search needs" in output
    trials = assert_recorded(site, "whole")
    assert {trial.outcome for trial in trials.values()} == {Outcome.COMPLETE}
    assert all(notes(site, worker) for worker in site.workers)
    assert not notes(site, site.head)

    code, output = finished(site.kdcurve("attach", "whole"))
    assert code == 0, output
    assert f"{TRIALS} trials: {TRIALS} complete" in output

    site.type(f"ray exec {FILE} 'kdcurve best whole --format csv > best.csv'")
    with site.head.path(f"{HOME}/best.csv").open() as file:
        answers = list(csv.DictReader(file))
    assert [answer["method"] for answer in answers] == ["random"]


@contextlib.contextmanager
def without_the_shared_folder(machine: Machine) -> Iterator[None]:
    """A folder of the machine's own lies in its place."""
    machine.run("mount", "-t", "tmpfs", "own", "/shared")
    try:
        yield
    finally:
        machine.run("umount", "--lazy", "/shared")


@contextlib.contextmanager
def without_a_package(machine: Machine, folder: Path) -> Iterator[None]:
    """An installed package is not where it belongs."""
    machine.run("mv", str(folder), "/tmp")
    try:
        yield
    finally:
        machine.run("mv", f"/tmp/{folder.name}", str(folder))


def test_a_machine_that_lacks_something_is_named_and_nothing_is_started(site):
    first, second = site.workers
    with (
        without_the_shared_folder(first),
        without_a_package(second, Path(safetensors.__file__).parent),
    ):
        code, output = finished(launch(site, "lacking", epochs=4))
    assert code == NotReadyError.exit_code, output
    assert "preflight, before anything was started:" in output
    assert "Go on with" not in output, "there is nothing to go on with"
    faults = {line.split()[0]: line for line in output.splitlines() if line.startswith("  192.168")}
    assert set(faults) == {first.address, second.address}, output
    assert "is not seen where the search runs; it has to be a file system" in faults[first.address]
    assert "No module named 'safetensors'" in faults[second.address]
    assert "lacking" not in site.journal.searches()
    assert not list(site.home.glob("preflight-*"))


def test_a_machine_with_another_token_does_not_get_in(site):
    stranger = site.network.switch_on("stranger", "192.168.1.66", shares=False)
    stranger.run("mkdir", "-m", "700", ".ray")
    token = ".ray/auth_token"

    def try_it(*command: str):
        """What Ray says to the stranger."""
        address = f"--address={HEAD}:6379"
        return finished(stranger.start("env", "RAY_AUTH_MODE=token", "ray", *command, address))

    stranger.path(f"{HOME}/{token}").write_text("0" * 64)
    for command in ("start", "health-check"):
        code, output = try_it(command)
        assert code != 0, output
        assert "token" in output
    assert stranger.address not in site.alive()
    stranger.path(f"{HOME}/{token}").write_text(site.head.path(f"{HOME}/{token}").read_text())
    code, output = try_it("health-check")
    assert code == 0, f"it was the token alone: {output}"
    site.network.switch_off(stranger)


def test_a_lost_head_is_replaced_and_the_search_goes_on(site):
    running = launch(site, "lost", "--no-preflight", epochs=16)
    until(lambda: site.journal.count("lost", EventKind.ENDED) > 0, "a trial ended")
    until(lambda: Ledger(site.journal, "lost").unfinished(), "others are under way")
    known = events_of(site, "lost")
    site.network.switch_off(site.head)
    code, output = finished(running)
    assert code == 1
    assert "no cluster answers" in output

    site.replace_head()
    site.up()
    go_on = site.kdcurve("resume", "lost", "--working-dir", ".", "--take-over")
    code, output = finished(go_on)
    assert code == 0, output
    assert events_of(site, "lost")[: len(known)] == known
    trials = assert_recorded(site, "lost")
    assert {trial.outcome for trial in trials.values()} == {Outcome.COMPLETE}


def test_of_a_machine_cut_off_and_back_no_trial_runs_twice_at_once(site):
    """From when its trial is given up, or taken up again elsewhere, it does no more of it."""
    cut, other = site.workers
    before = {machine: {*notes(site, machine)} for machine in site.workers}
    running = launch(site, "cut", "--no-preflight", epochs=16)
    for machine in site.workers:
        until(lambda here=machine: {*notes(site, here)} - before[here], f"{machine.name} at work")
    until(lambda: site.journal.count("cut", EventKind.CHECKPOINTED) > 2, "checkpoints")
    begun = {event.trial for event in events_of(site, "cut") if event.kind is EventKind.STARTED}
    site.network.unplug(cut)
    unplugged, workers = time.time(), {*notes(site, cut)}
    try:
        until(lambda: cut.address not in site.alive(), "the machine counts as lost")
        lost = time.time()
        until(lambda: max(notes(site, other).values()) > lost + 5, "the other one goes on")
    finally:
        site.network.plug_in(cut)
    code, output = finished(running)
    assert code == 0, output
    trials = assert_recorded(site, "cut")
    assert sum(trial.outcome is Outcome.FAILED for trial in trials.values()) <= 1
    elsewhere = [
        event.time
        for event in events_of(site, "cut")
        if event.trial in begun
        and event.time > unplugged
        and (event.kind is EventKind.STARTED or event.data.get("outcome") == Outcome.FAILED)
    ]
    assert max(notes(site, cut)[pid] for pid in workers) < min(elsewhere, default=lost)


def test_the_cluster_is_taken_down_from_the_laptop(site):
    """`ray down` ends Ray on the head; the workers notice."""
    site.type(f"ray down --yes {FILE}")
    for machine in (site.head, *site.workers):
        until(lambda here=machine: "raylet" not in here.run("ps", "ax"), f"{machine.name} is free")

"""A search launched on a cluster outlives the machine that launched it: on one real head."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.journal import EventKind, Journal
from search.ledger import Ledger
from tests.conftest import KDCURVE, ROOT
from tests.heads import Head, head
from trainables.record import SearchState

pytestmark = pytest.mark.slow

WAIT_S = 240.0
SEARCH = """
name: mine
dataset: {name: "parts.mine:data", validation: 0.3, augmentation: none}
student: cnn4
recipe: {epochs: 10, batch_size: 32}
contexts: {method: random, fraction: [1.0], teacher: cnn4}
seeds: {trials: 1}
sampler: random
early_stopping: {name: none}
budget: {trials_per_context: 30}
resources: {concurrent: 1}
checkpoint_every_s: 1
"""
MINE = """
import json
import os
from pathlib import Path

import torch


def data(config):
    import search

    from trainables.datasets import Source

    home = Path(os.environ["KDCURVE_HOME"])
    home.mkdir(exist_ok=True)
    with (home / "seen").open("a") as file:
        line = {"search": search.__file__, "path": os.environ["PYTHONPATH"].split(os.pathsep)}
        file.write(json.dumps(line) + "\\n")
    images = torch.randint(0, 256, (400, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(400) % 10
    return Source(images, labels, images[:100], labels[:100], classes=10)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A head whose node has a PYTHONPATH of its own."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "own").mkdir()
    with head(folder, str(folder / "own")) as running:
        yield running


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """A project with a module of the user's, and packages named like ours that raise."""
    folder = tmp_path_factory.mktemp("laptop")
    (folder / "parts").mkdir()
    (folder / "parts" / "mine.py").write_text(MINE)
    for package in ("search", "trainables", "analysis"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (folder / "mine.yaml").write_text(SEARCH)
    return folder


def start(laptop: Path, node: Head, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("KDCURVE", "RAY"))}
    return subprocess.Popen(
        [KDCURVE, *arguments, "--address", node.address],
        cwd=laptop,
        env={**ours, "PYTHONPATH": str(ROOT), **node.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(laptop: Path, node: Head, *arguments: str, **environment: str) -> tuple[int, str]:
    process = start(laptop, node, *arguments, **environment)
    output, _ = process.communicate(timeout=WAIT_S)
    return process.returncode, output


def until(process: subprocess.Popen[str], holds: Callable[[str], bool]) -> str:
    """Read what a command prints until a line is as wanted; returns all of it."""
    read = ""
    assert process.stdout is not None
    deadline = time.monotonic() + WAIT_S
    for line in process.stdout:
        read += line
        if holds(line):
            return read
        assert time.monotonic() < deadline, read
    raise AssertionError(read)


def some_trials_ended(line: str) -> bool:
    return " trials (" in line


@pytest.mark.faults
def test_a_wrong_or_missing_token_is_refused_at_once(laptop, node, tmp_path):
    (tmp_path / "wrong").write_text("0" * 64)
    for path in ("wrong", "missing"):
        code, output = run(laptop, node, "attach", "x", RAY_AUTH_TOKEN_PATH=str(tmp_path / path))
        assert code == 1
        assert "refuses this machine's token; it is read from RAY_AUTH_TOKEN" in output
        assert "Traceback" not in output


def test_a_search_that_nobody_launched_is_not_found(laptop, node):
    for command in ("attach", "stop"):
        code, output = run(laptop, node, command, "nobody")
        assert code == 1
        assert "no search named 'nobody' ran on the cluster" in output


def test_what_the_head_finds_wrong_comes_back_as_it_would_here(laptop, node):
    (laptop / "far.yaml").write_text(
        SEARCH.replace("parts.mine:data", "imagefolder").replace("name: mine", "name: far")
    )
    code, output = run(laptop, node, "search", "far.yaml")
    assert code == 2, output
    assert "dataset.root: " in output
    assert "Go on with" not in output, "there is nothing to go on with"
    assert not (node.home / "searches" / "far").exists()


def test_detached_attached_stopped_and_resumed(laptop, node):
    command = ("search", "mine.yaml", "--working-dir", ".")
    first = start(laptop, node, *command)
    shown = until(first, some_trials_ended)
    assert "mine runs on the cluster as job kdcurve_mine_1" in shown
    assert "preflight: 1 of 1 machines have what the search needs" in shown

    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C does
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 0, output
    assert f"kdcurve attach mine --address {node.address}" in output

    second = start(laptop, node, "attach", "mine")
    until(second, some_trials_ended)
    code, output = run(laptop, node, *command)
    assert code == 1
    assert "mine is running on the cluster" in output
    code, output = run(laptop, node, "stop", "mine")
    assert code == 0, output
    assert "stopping; what has ended is recorded" in output
    assert f"Go on with: kdcurve resume mine --address {node.address}" in output.replace(
        str(KDCURVE), "kdcurve"
    )
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1, "who follows learns that it did not come to its end"
    assert "mine was stopped" in output

    journal = Journal(f"sqlite:///{node.home / 'record.db'}", create=False)
    before = Ledger(journal, "mine")
    assert before.state is SearchState.INTERRUPTED
    ended = len(before.trials) - len(before.unfinished())
    assert 0 < ended < 30

    code, output = run(laptop, node, "resume", "mine", "--working-dir", ".")
    assert code == 0, output
    after = Ledger(journal, "mine")
    assert after.state is SearchState.COMPLETE
    assert len(after.trials) == journal.count("mine", EventKind.ENDED) == 30
    assert journal.count("mine", EventKind.RESUMED) == 1

    # Ray's own variable, which it prefers to what it is told, does not lead elsewhere.
    code, output = run(laptop, node, "attach", "mine", RAY_ADDRESS="http://127.0.0.1:1")
    assert code == 0, output
    assert "30 trials: 30 complete" in output


def test_ours_came_as_a_wheel_and_the_nodes_own_path_is_kept(laptop, node):
    """After the search above: what a trial saw of its surroundings."""
    lines = [json.loads(line) for line in (node.home / "seen").read_text().splitlines()]
    assert lines
    for line in lines:
        assert "py_modules_files" in line["search"]
        assert str(node.home.parent / "own") in line["path"]
        assert any("working_dir_files" in part for part in line["path"])
    versions = next(
        event.data["versions"]
        for event in Journal(f"sqlite:///{node.home / 'record.db'}").milestones("mine")
        if event.kind is EventKind.PLANNED
    )
    assert "+" in versions["kdcurve"], "the version names the content"

"""A study from its search file to its verdict, on digits."""

import json
import os
import subprocess
import sys

import pytest

from search.journal import Journal
from tests.conftest import ROOT

STUDY = """
name: tiny
dataset: {name: digits, validation: 0.3}
student: cnn4
recipe: {iterations: 40, batch_size: 32, lr: 0.05}
contexts: {method: [random, el2n], fraction: [0.2, 0.8], teacher: cnn8}
seeds: {trials: 2, scores: 1}
sampler: grid-crn
early_stopping: {name: none}
budget: {trials_per_context: 5}
resources: {concurrent: 2}
"""


def study(folder, claim):
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "studies.py", claim, "tiny.yaml"),
            *("--seeds", "2", "--out", "figures"),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_study_runs_once_and_answers_again_from_the_record(tmp_path):
    (tmp_path / "tiny.yaml").write_text(STUDY)
    text, figures = study(tmp_path, "gain")
    assert f"{figures['verdict']['word']}: " in text
    assert len(figures["differences"]) == figures["verdict"]["differences"] == 4
    assert {each["n"] for each in figures["differences"]} <= {2}
    journal = Journal(f"sqlite:///{tmp_path / 'kdcurve-data' / 'record.db'}", create=False)
    events = sum(1 for _ in journal.events("tiny"))
    _, again = study(tmp_path, "gain")
    assert again == figures
    _, beside = study(tmp_path, "random")
    assert [each["method_other"] for each in beside["differences"]] == ["el2n", "el2n"]
    assert sum(1 for _ in journal.events("tiny")) == events
    names = {f"{claim}.{ending}" for claim in ("gain", "random") for ending in ("svg", "png")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names

"""Searches that really ran, shared by the tests that look at what they left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.postgres import Postgres, UnavailableError, running

ROOT = Path(__file__).parent.parent
PACKAGES = ("search", "trainables", "analysis")
KDCURVE = Path(sys.executable).parent / "kdcurve"

RIDGE = """
name: exact
dataset: {name: ridge}
student: linear
recipe: {epochs: 9}
contexts:
  method: random
  fraction: [0.1, 0.3, 0.5, 0.9]
  teacher: linear
seeds: {trials: 1}
sampler: tpe
budget: {trials_per_context: 12}
resources: {concurrent: 2}
"""
DIGITS = """
name: interrupted
dataset: {name: digits, validation: 0.3, label_noise: 0.2}
student: cnn4
recipe: {epochs: 12, batch_size: 32, lr: 0.05}
contexts: {method: [random, el2n], fraction: [0.25, 1.0], teacher: cnn8}
seeds: {trials: 2, scores: 1}
sampler: tpe
budget: {trials_per_context: 8}
resources: {concurrent: 2}
"""


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    folder: Path
    output: str
    errors: str
    code: int

    @property
    def home(self) -> Path:
        return self.folder / "kdcurve-data"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"


def kdcurve(folder: Path, *arguments: str) -> Finished:
    """Run the installed command in a folder, as a user would; the test's own limit ends it."""
    done = subprocess.run(
        [KDCURVE, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(folder, done.stdout, done.stderr, done.returncode)


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory) -> Iterator[None]:
    """Tables of runs are cached in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started for the first test that asks."""
    try:
        with running() as server:
            yield server
    except UnavailableError as reason:
        pytest.skip(f"PostgreSQL cannot run here: {reason}")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The package as it stands here, as users install it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if name.startswith(PACKAGES) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("kdcurve-*.whl"))


@pytest.fixture(scope="session")
def exact_search(tmp_path_factory) -> Finished:
    """A whole search on the closed-form problem, started from a hostile folder.

    The folder holds packages named like ours, which fail when imported.
    """
    folder = tmp_path_factory.mktemp("exact")
    for package in PACKAGES:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (folder / "exact.yaml").write_text(RIDGE)
    finished = kdcurve(folder, "search", "exact.yaml")
    assert finished.code == 0, finished.output + finished.errors
    return finished

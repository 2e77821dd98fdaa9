"""What a user installs: the wheel is whole, and Ray's workers run our packages."""

import ipaddress
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import PACKAGES, ROOT

PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--quiet")

WHO_IS_THERE = """
import contextlib, json, sys
from pathlib import Path
import ray
from search.cluster import connected


@ray.remote
def files():
    import analysis, search, trainables
    return {module.__name__: module.__file__ for module in (search, trainables, analysis)}


def naive():
    return ray.init(
        address="local",  # not another that runs on this machine
        num_cpus=1,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        log_to_driver=False,
    )


with naive() if sys.argv[1] == "naive" else connected(Path("ray-folder"), None):
    try:
        if sys.argv[1] == "listeners":
            import psutil
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            sockets = [s for each in family for s in each.net_connections("inet")]
            print(json.dumps(sorted({s.laddr.ip for s in sockets if s.status == "LISTEN"})))
            sys.exit()
        print(json.dumps(ray.get(files.remote())))
    except ray.exceptions.RayTaskError as error:
        print(json.dumps(str(error.cause)))
"""


def hostile_folder(path: Path) -> Path:
    """A folder with packages named like ours, as a user's project may have."""
    for package in PACKAGES:
        (path / package).mkdir(parents=True)
        (path / package / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    return path


def ask_a_worker(cwd: Path, how: str, installed: Path | None = None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if installed is not None:
        environment["PYTHONPATH"] = str(installed)
    # -P keeps the folder off the driver's own path, as for the installed command.
    done = subprocess.run(
        [sys.executable, "-P", "-c", WHO_IS_THERE, how],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_wheel_holds_all_that_runs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {name for name in names if ".dist-info" not in name}
    tracked = subprocess.check_output(["git", "ls-files", *PACKAGES], cwd=ROOT, text=True)
    assert ours == set(tracked.splitlines())
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_workers_import_ours_whatever_lies_in_the_folder(tmp_path, wheel):
    """From the wheel, in a folder with packages of our names: theirs are never imported."""
    installed = tmp_path / "site"
    subprocess.run(
        [*PIP_INSTALL, "--no-deps", "--no-index", "--target", installed, wheel],
        check=True,
    )
    files = ask_a_worker(hostile_folder(tmp_path / "project"), "ours", installed)
    expected = {name: str(installed / name / "__init__.py") for name in PACKAGES}
    assert files == expected


def test_a_plain_start_of_ray_would_import_theirs(tmp_path):
    """The danger is real: without our care a worker takes what lies in the folder."""
    assert "the wrong package" in ask_a_worker(hostile_folder(tmp_path / "project"), "naive")


def test_a_local_ray_listens_on_the_loopback_interface_only(tmp_path, monkeypatch):
    """Every listening socket of every process that a local search starts, whatever else runs."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # somebody's cluster, not ours
    addresses = [ipaddress.ip_address(each) for each in ask_a_worker(tmp_path, "listeners")]
    addresses = [getattr(each, "ipv4_mapped", None) or each for each in addresses]
    assert addresses
    assert all(each.is_loopback for each in addresses), addresses

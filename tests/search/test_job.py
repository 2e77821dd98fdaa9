"""What a search's way to a cluster refuses before anything is sent, and what it sends."""

import importlib.metadata
import os
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from search.bundle import require_no_secrets, require_own_parts, sent_along
from search.cli import app
from search.commands_cluster import is_elsewhere, there
from search.errors import KdcurveError, UsageError
from search.job import Cluster
from search.places import Places
from search.specfile import parse_spec
from search.tunnel import tunnel
from search.wheel import pack
from tests.conftest import ROOT

SPEC = {
    "name": "mine",
    "dataset": {"name": "digits"},
    "student": "cnn4",
    "recipe": {"epochs": 1},
    "contexts": {"method": "random", "fraction": [0.5], "teacher": "torchvision:resnet18"},
}


@pytest.fixture
def kdcurve(monkeypatch):
    for name in ("HOME", "RECORD", "TRACKING_URI", "STORAGE"):
        monkeypatch.delenv(f"KDCURVE_{name}", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


def test_an_address_of_http_means_a_job():
    assert is_elsewhere("http://127.0.0.1:8265", None)
    assert is_elsewhere("https://ray.example.org", None)
    for address in (None, "auto", "ray://10.0.0.1:10001", "10.0.0.1:6379"):
        assert not is_elsewhere(address, None)
    assert there(None, None).address == "http://127.0.0.1:8265"
    with pytest.raises(UsageError, match="give one of them"):
        there("http://127.0.0.1:8265", ROOT / "cluster.yaml")


def test_where_nothing_listens_is_one_clear_error(tmp_path, kdcurve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(KdcurveError, match=f"no cluster answers at {address} .*refused"):
        Cluster(address)
    file = tmp_path / "far.yaml"
    file.write_text(
        "name: far\ndataset: {name: imagefolder, root: /on/the/cluster}\nstudent: cnn4\n"
        "recipe: {epochs: 1}\ncontexts: {method: random, fraction: [0.5], teacher: cnn4}\n"
    )
    asked = kdcurve("search", file, "--address", address)
    assert asked.exit_code == 1, "the file is sound: its data set is looked for on the cluster"
    assert f"no cluster answers at {address}" in asked.stderr


def test_faults_of_the_file_are_found_here(tmp_path, kdcurve):
    file = tmp_path / "bad.yaml"
    file.write_text("name: bad\nstudents: cnn4\n")
    asked = kdcurve("search", file, "--address", "http://127.0.0.1:1")
    assert asked.exit_code == 2
    assert "students: unknown key" in asked.stderr


def test_places_with_a_password_are_not_sent(tmp_path, kdcurve):
    file = ROOT / "configs" / "ridge.yaml"
    options = ("--address", "http://127.0.0.1:1", "--record", "postgresql://me:hunter22@h/d")
    asked = kdcurve("search", file, *options)
    assert asked.exit_code == 2
    assert "KDCURVE_RECORD: 'postgresql://me:***@h/d' holds a password" in asked.stderr
    assert "hunter22" not in asked.output
    require_no_secrets({"KDCURVE_RECORD": "postgresql://me@h/d?sslmode=require"})


def test_what_is_not_the_default_is_sent(tmp_path):
    assert Places.at().named() == {}
    places = Places.at(tmp_path, record="postgresql://me@h/d", storage=tmp_path / "shared")
    assert places.named() == {
        "home": str(tmp_path),
        "record": "postgresql://me@h/d",
        "storage": str(tmp_path / "shared"),
    }


def test_own_parts_need_their_folder(tmp_path):
    require_own_parts(parse_spec(SPEC), None)
    mine = parse_spec({**SPEC, "student": "nets.mine:network"})
    require_own_parts(mine, tmp_path)
    with pytest.raises(UsageError, match=r"parts of your own \(nets.mine:network\); --working-dir"):
        require_own_parts(mine, None)


def test_the_file_alone_is_sent_or_the_folder_it_lies_in(tmp_path):
    project = tmp_path / "project"
    (project / "configs").mkdir(parents=True)
    file = project / "configs" / "mine.yaml"
    file.write_text("name: mine\n")
    with sent_along(file, None) as (folder, sent):
        assert (folder / sent).read_text() == "name: mine\n"
        assert project not in folder.parents
    with sent_along(file, project) as (folder, sent):
        assert (folder, sent) == (project, "configs/mine.yaml")
    with sent_along(None, None) as (folder, _):
        assert any(folder.iterdir()), "Ray sends no empty folder"
    (tmp_path / "other").mkdir()
    for elsewhere, why in (("other", "does not lie in it"), ("none", "there is no such folder")):
        with pytest.raises(UsageError, match=why), sent_along(file, tmp_path / elsewhere):
            pass


def test_the_wheel_is_what_runs_here_and_requires_nothing(tmp_path):
    (tmp_path / "again").mkdir()
    wheel, again = pack(tmp_path), pack(tmp_path / "again")
    assert (wheel.name, wheel.read_bytes()) == (again.name, again.read_bytes())
    site = tmp_path / "site"
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--target", site)
    subprocess.run([*install, wheel], check=True)
    code = (
        "import importlib.metadata as m, search.cli; d = m.distribution('kdcurve'); "
        "print(search.cli.__file__, d.version, d.requires)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, version, requires = done.stdout.split()
    assert file == str(site / "search" / "cli.py")
    assert version.startswith(importlib.metadata.version("kdcurve") + "+")
    assert requires == "None"


def test_a_tunnel_to_a_cluster_that_is_down_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray notes which machines are set up
    with (
        pytest.raises(KdcurveError, match=r"no tunnel to the head of .*not found.*Is it up"),
        tunnel(ROOT / "cluster-local.yaml"),
    ):
        pass


def test_a_cluster_that_does_not_say_where_searches_live_is_told_so(tmp_path):
    """A job's own folder, where the default would lie, goes with the job."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KDCURVE")}

    def listed(*options):
        return subprocess.run(
            [sys.executable, "-P", "-m", "search", "list", *options],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = listed()
    assert done.returncode == 2
    assert done.stderr.startswith("kdcurve: the cluster does not say where searches live; set KDC")
    assert listed("--home", "here").returncode != 2

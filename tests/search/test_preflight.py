"""Machines that lack something are named before a search costs anything."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from search.preflight import Machine, Report, judge, look, probe, versions
from tests.conftest import ROOT

HERE = {"python": "3.11.9", "kdcurve": "0.1.0", "torch": "2.14.1", "ray": "2.60.0"}
ONE = Machine("a" * 56, "10.0.0.1", {"CPU": 8, "GPU": 1})
TWO = Machine("b" * 56, "10.0.0.2", {"CPU": 8, "GPU": 1})
GIB = 2**30
SOUND = Report(TWO, versions=HERE, devices=[("L4", 20 * GIB, 24 * GIB)], cuda="13.0")
LACKS = {
    "no answer": (replace(SOUND, silent="did not answer within 180 s"), "did not answer"),
    "another torch": (
        replace(SOUND, versions={**HERE, "torch": "2.9.0"}),
        "torch is 2.9.0, and 2.14.1 where the search runs from; install the same",
    ),
    "no kdcurve": (
        replace(SOUND, versions={k: v for k, v in HERE.items() if k != "kdcurve"}),
        "kdcurve is missing, and 0.1.0",
    ),
    "a full disk": (
        replace(SOUND, storage="/shared: No space left on device"),
        "cannot write to the storage: /shared: No space left on device",
    ),
    "a storage of its own": (
        replace(SOUND, hidden=True, unseen=[ONE.label]),
        "what it writes to the storage is not seen where the search runs; it has to be a file",
    ),
    "a storage that shows half": (
        replace(SOUND, unseen=[ONE.label]),
        "does not see what 10.0.0.1 (aaaaaaaa) wrote to the storage; it has to be a file system",
    ),
    "no data": (
        replace(SOUND, data="no folder /data/cifar"),
        "no folder /data/cifar; put the data set where all machines find it",
    ),
    "a fast clock": (replace(SOUND, clock_s=75.0), "its clock is 75 s fast; turn on time sync"),
    "a slow clock": (replace(SOUND, clock_s=-75.0), "its clock is 75 s slow"),
    "no CUDA": (
        replace(SOUND, devices=[], cuda=None),
        "declares 1 GPUs to Ray, but torch finds 0: torch was built without CUDA",
    ),
    "no driver": (
        replace(SOUND, devices=[]),
        "declares 1 GPUs to Ray, but torch finds 0: torch was built for CUDA 13.0; look at nvidia",
    ),
    "a full GPU": (
        replace(SOUND, devices=[("L4", 2 * GIB, 24 * GIB)]),
        "GPU 0 (L4) has 2.0 of 24.0 GiB free, too few for a trial's 0.5 of it",
    ),
}


@pytest.mark.parametrize("case", LACKS)
def test_what_a_machine_lacks_is_named_with_it(case):
    report, expected = LACKS[case]
    faults = judge([replace(SOUND, machine=ONE), report], HERE, gpu=0.5)
    assert len(faults) == 1
    assert faults[0].startswith("10.0.0.2 (bbbbbbbb): ")
    assert expected in faults[0]


def test_machines_that_lack_nothing_have_no_faults():
    busy = replace(SOUND, devices=[("L4", 7 * GIB, 24 * GIB)], clock_s=2.0)
    assert judge([SOUND, busy, replace(SOUND, devices=None)], HERE, gpu=0.5) == []


def test_all_faults_of_all_machines_come_together():
    broken = replace(SOUND, unseen=[ONE.label], clock_s=60.0)
    assert len(judge([broken, replace(broken, machine=ONE)], HERE, gpu=0.5)) == 4


def test_a_probe_finds_what_is_there(tmp_path):
    folder = tmp_path / "storage" / "preflight"
    report = probe(ONE, folder, {"name": "digits"}, gpus=False)
    assert report == Report(ONE, versions=versions())
    unseen, clock = look(folder, [ONE, TWO])
    assert unseen == [TWO.label]
    assert abs(clock - time.time()) < 5


def test_a_probe_finds_what_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    dataset = {"name": "fashion_mnist", "root": str(tmp_path / "nowhere")}
    report = probe(ONE, tmp_path / "file" / "preflight", dataset, gpus=False)
    assert "Not a directory" in report.storage
    assert "nowhere" in report.data
    own = {"name": "nobody_has_this:data"}
    assert "nobody_has_this" in probe(ONE, tmp_path, own, gpus=False).data


def test_gpus_are_counted_by_torch_itself():
    """Here there are none, and that is what is found, whatever Ray hides."""
    import torch

    report = probe(ONE, Path("/proc/none"), None, gpus=True)
    assert len(report.devices) == torch.cuda.device_count()
    assert report.cuda == torch.version.cuda


ASK = """
import json, os, sys
from pathlib import Path
from ray.cluster_utils import Cluster
import ray
from search.errors import KdcurveError
from search.places import Places
from search.preflight import preflight
from search.specfile import parse_spec

spec = parse_spec({
    "name": "here", "dataset": {"name": "digits"}, "student": "cnn4", "recipe": {"epochs": 1},
    "contexts": {"method": "random", "fraction": [0.5], "teacher": "cnn4"},
})
small = {"num_cpus": 1, "object_store_memory": 2**27, "node_ip_address": "127.0.0.1"}
cluster = Cluster(True, head_node_args={**small, "include_dashboard": False})
cluster.add_node(**small)
odd = cluster.add_node(**small, env_vars={"PYTHONPATH": sys.argv[1]})
lost = cluster.add_node(**small, env_vars={"PYTHONPATH": sys.argv[2]})
cluster.wait_for_nodes()
ray.init(cluster.address, log_to_driver=False)
try:
    preflight(spec, Places.at(sys.argv[3]), print, alone=False)
except KdcurveError as error:
    print(json.dumps({"odd": odd.node_id, "lost": lost.node_id, "said": str(error)}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.faults
def test_of_four_machines_the_two_that_differ_are_named(tmp_path):
    """Nodes of one real cluster: one with another torch, one without our packages."""
    import json

    other = tmp_path / "other" / "torch-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1\n")
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for package in ("search", "trainables", "analysis"):
        # Not a package: an editable installation would add what is missing from one.
        (hostile / f"{package}.py").touch()
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-c", ASK),
            os.pathsep.join((str(tmp_path / "other"), str(ROOT))),
            str(hostile),
            str(tmp_path / "home"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    header, *faults = said["said"].splitlines()
    assert header == "preflight, before anything was started:"
    assert len(faults) == 2, faults
    odd = next(fault for fault in faults if f"({said['odd'][:8]})" in fault)
    assert "torch is 0.0.1, and " in odd
    lost = next(fault for fault in faults if f"({said['lost'][:8]})" in fault)
    assert "kdcurve cannot run there (No module named 'search.preflight')" in lost
    assert not list((tmp_path / "home").glob("preflight-*"))

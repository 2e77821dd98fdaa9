"""Every fault of a cluster file is found before a machine is started, and named."""

import copy
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.cluster_file import Installed, cluster_faults, load_cluster, still_to_do
from search.errors import UsageError
from search.specfile import read_yaml
from tests.conftest import ROOT

HERE = Installed(ray="2.60.0", python="3.11")
"""What the shipped files install."""
AWS, LOCAL = (read_yaml(ROOT / name, "") for name in ("cluster.yaml", "cluster-local.yaml"))


def put(*path_and_value):
    """An edit of a file: a value at a place, or, with `...`, its removal."""

    def edit(config):
        *path, last, value = path_and_value
        for part in path:
            config = config[part]
        if value is ...:
            del config[last]
        else:
            config[last] = value

    return edit


def swap(key, old, new):
    """An edit of all commands in a list."""

    def edit(config):
        assert old in "\n".join(config[key]), "the case is about nothing"
        config[key] = [command.replace(old, new) for command in config[key]]

    return edit


HEAD, GPU = (("available_node_types", name) for name in ("head", "gpu"))
START, SETUP = "head_start_ray_commands", "setup_commands"
BAD = {
    "typo at the top": (AWS, put("idle_timeout_minute", 5), "did you mean 'idle_timeout_minutes'"),
    "wrong type": (AWS, put("max_workers", "eight"), "max_workers: 'eight': allowed: integer"),
    "unknown provider": (AWS, put("provider", "type", "asw"), "'asw'; did you mean 'aws'"),
    "typo in provider": (
        AWS,
        put("provider", "avaliability_zone", "us-east-1a"),
        "provider.avaliability_zone: unknown key; did you mean 'availability_zone'",
    ),
    "no region": (AWS, put("provider", "region", ...), "provider.region: missing"),
    "no provider": (AWS, put("provider", ...), "provider: missing"),
    "typo in node_config": (
        AWS,
        put(*GPU, "node_config", "InstanceMarketOption", {}),
        "node_config.InstanceMarketOption: unknown key; did you mean 'InstanceMarketOptions'",
    ),
    "typo deep in node_config": (
        AWS,
        put(*GPU, "node_config", "BlockDeviceMappings", 0, "Ebs", {"VolumSize": 150}),
        r"BlockDeviceMappings\[0\].Ebs.VolumSize: unknown key; did you mean 'VolumeSize'",
    ),
    "typo in a node type": (AWS, put(*GPU, "max_worker", 3), "gpu.max_worker: unknown key"),
    "spot without notices": (
        AWS,
        swap("worker_start_ray_commands", "nohup kdcurve cluster watch-node", "true"),
        r"worker_start_ray_commands: `kdcurve cluster watch-node` is not .* \(gpu\) would not",
    ),
    "no image": (AWS, put(*GPU, "node_config", "ImageId", ...), "gpu.node_config.ImageId: miss"),
    "no instance type": (AWS, put(*HEAD, "node_config", "InstanceType", ...), "InstanceType: miss"),
    "Ray's security group": (
        AWS,
        put(*HEAD, "node_config", "SecurityGroupIds", ...),
        "head.node_config.SecurityGroupIds: missing; .* port 22 to the world",
    ),
    "open security group": (
        AWS,
        put("provider", "security_group", {"IpPermissions": [{"CidrIp": "0.0.0.0/0"}]}),
        "provider.security_group.IpPermissions: '0.0.0.0/0'",
    ),
    "no key pair": (AWS, put(*GPU, "node_config", "KeyName", ...), "gpu.node_config.KeyName: miss"),
    "no user": (AWS, put("auth", "ssh_user", ...), "auth.ssh_user: missing"),
    "no head type": (AWS, put("head_node_type", "heap"), "'heap'; did you mean 'head'"),
    "no node types": (AWS, put("available_node_types", {}), "available_node_types: missing"),
    "CPUs on the head": (AWS, put(*HEAD, "resources", "CPU", 2), "head.resources.CPU: 2: trials"),
    "GPUs on the head": (AWS, put(*HEAD, "resources", {"CPU": 0}), "head.resources.GPU: None"),
    "more at least than at most": (AWS, put(*GPU, "min_workers", 9), "9 is more than max_workers"),
    "more at least than in all": (AWS, put("max_workers", -1), "max_workers: -1"),
    "no workers": (AWS, put("max_workers", 0), "max_workers: no worker could ever start"),
    "no bound": (AWS, put("max_workers", ...), "max_workers: missing"),
    "ignored key": (AWS, put("min_workers", 1), "min_workers: "),
    "no idle timeout": (AWS, put("idle_timeout_minutes", ...), "idle_timeout_minutes: missing"),
    "no time to idle": (AWS, put("idle_timeout_minutes", 0), "idle_timeout_minutes: 0"),
    "no head start": (AWS, put(START, ...), f"{START}: missing; Ray's own open the dashboard"),
    "no worker start": (AWS, put("worker_start_ray_commands", ...), "worker_start_ray_comm.*miss"),
    "Ray is not started": (AWS, put(START, ["ray stop"]), f"{START}: no command has `ray start`"),
    "open dashboard": (
        AWS,
        swap(START, "127.0.0.1", "0.0.0.0"),
        "--dashboard-host=0.0.0.0 opens the dashboard; allowed: 127.0.0.1",
    ),
    "no dashboard": (AWS, swap(START, "--disable-usage", "--include-dashboard=false"), "through t"),
    "no autoscaler": (AWS, swap(START, "--autoscaling-config=", "-"), "lacks --autoscaling-config"),
    "trials on the head": (LOCAL, swap(START, "--num-cpus=0", ""), "lacks --num-cpus=0; trials"),
    "worker without a head": (
        AWS,
        swap("worker_start_ray_commands", "--address=$RAY_HEAD_IP:6379", ""),
        "needs --address=",
    ),
    "no token authentication": (
        AWS,
        swap(SETUP, "export RAY_AUTH_MODE=token", ""),
        "head_start_ray_commands: RAY_AUTH_MODE=token is set nowhere",
    ),
    "no token": (AWS, put("file_mounts", {}), "file_mounts: no token"),
    "no setup": (AWS, put(SETUP, ...), "setup_commands: missing; .* development version"),
    "no boto3": (AWS, put("head_setup_commands", []), "nothing installs boto3"),
    "no Jobs API": (
        LOCAL,
        put(SETUP, ["mountpoint -q /shared", "pip install ray==2.60.0"]),
        "nothing installs ray.default.",
    ),
    "another Ray": (AWS, swap(SETUP, "==2.60.0", "==2.54.0"), "Ray 2.54.0; allowed: 2.60.0"),
    "any Ray": (AWS, swap(SETUP, "==2.60.0", ""), "setup_commands: no version of Ray"),
    "another Python": (AWS, swap(SETUP, "--python 3.11", "--python 3.12"), "Python 3.12; allow"),
    "another image": (
        AWS,
        put("docker", {"image": "rayproject/ray:2.54.0-py310-gpu", "container_name": "ray"}),
        "docker.image: Ray 2.54.0; allowed: 2.60.0",
    ),
    "an image that changes": (
        AWS,
        put("docker", {"image": "rayproject/ray:latest-gpu", "container_name": "ray"}),
        "docker.image: 'rayproject/ray:latest-gpu' changes over time",
    ),
    "no shared storage": (AWS, swap(SETUP, "KDCURVE_HOME", "HOMES"), "no shared storage"),
    "storage in a bucket": (
        AWS,
        swap(SETUP, "KDCURVE_HOME=/shared/kdcurve", "KDCURVE_HOME=s3://bucket/kdcurve"),
        "storage 's3://bucket/kdcurve' is a bucket; allowed: a folder",
    ),
    "storage of each machine": (
        AWS,
        swap(SETUP, "KDCURVE_HOME=/shared", "KDCURVE_HOME=/tmp"),
        "storage '/tmp/kdcurve' is each machine's own",
    ),
    "storage that nobody mounts": (
        LOCAL,
        swap(SETUP, "mountpoint -q", "ls"),
        "nothing mounts /shared/kdcurve",
    ),
    "record in a file": (
        AWS,
        swap(SETUP, "'postgresql://kdcurve@db.example.org/kdcurve?sslmode=require'", "sqlite:///r"),
        "KDCURVE_RECORD: 'sqlite:///r' is a file",
    ),
    "no tracking": (AWS, swap(SETUP, "_TRACKING_URI", ""), "KDCURVE_TRACKING_URI: missing"),
    "password in a URI": (
        AWS,
        swap(SETUP, "kdcurve@db", "kdcurve:hunter22@db"),
        r"setup_commands\[\d\]: holds a password or token",
    ),
    "token in a command": (
        AWS,
        swap(START, "ray stop", "RAY_AUTH_TOKEN=0123 ray stop"),
        r"head_start_ray_commands\[0\]: holds a password or token",
    ),
    "keys of the account": (
        AWS,
        put("provider", "aws_credentials", {"aws_access_key_id": "A"}),
        "provider.aws_credentials: no secrets in this file",
    ),
    "fewer workers than machines": (LOCAL, put("max_workers", 1), "max_workers: 1, but provider.w"),
    "no machines": (LOCAL, put("provider", "worker_ips", ...), "provider.worker_ips: missing"),
    "autoscaler v2": (
        LOCAL,
        swap(START, "RAY_enable_autoscaler_v2=0", ""),
        "put RAY_enable_autoscaler_v2=0 before `ray start`",
    ),
}


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-local.yaml"])
def test_the_shipped_files_have_no_fault(name):
    load_cluster(ROOT / name, HERE)


@pytest.mark.parametrize("case", BAD)
def test_each_fault_is_named(case):
    base, edit, expected = BAD[case]
    config = copy.deepcopy(base)
    edit(config)
    faults = cluster_faults(config, HERE)
    assert any(re.search(expected, fault) for fault in faults), faults


def test_all_faults_of_a_file_come_together(tmp_path):
    config = copy.deepcopy(AWS)
    edits = ("typo at the top", "open dashboard", "no idle timeout", "another Ray", "no token")
    for case in edits:
        BAD[case][1](config)
    assert len(cluster_faults(config, HERE)) == len(edits)


@pytest.mark.parametrize(
    "shape", [None, [], "text", {}, {"provider": 3}, {"provider": {}}, {"provider": {"type": []}}]
)
def test_a_file_of_any_shape_is_answered_with_faults(shape):
    assert cluster_faults(shape, HERE)


@pytest.mark.parametrize("key", AWS)
@pytest.mark.parametrize("value", [None, 3, "text", [None], {"a": [1]}])
def test_a_value_of_any_shape_is_answered_with_faults(key, value):
    cluster_faults({**AWS, key: value}, HERE)


def test_what_rays_own_check_says_is_a_fault_too():
    """A shape that the schema lets pass, at which Ray itself fails."""
    faults = cluster_faults({**AWS, "docker": {"container_name": "ray"}}, HERE)
    assert len(faults) == 1
    assert faults[0].startswith("Ray refuses it: ")


def test_what_is_left_to_do_is_told_apart_from_faults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    left = "\n".join(still_to_do(AWS))
    for value in ("ami-", "sg-", "fs-", "db.example.org", "dist", "~/.ray/auth_token"):
        assert value in left
    (tmp_path / "dist").mkdir()
    assert "dist:" not in "\n".join(still_to_do(AWS))


def test_the_command_exits_with_2_and_every_fault(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("cluster_name: mine\ncluster_name: yours\n")
    asked = CliRunner().invoke(app, ["cluster", "check", str(path)])
    assert asked.exit_code == 2
    assert "duplicate key" in asked.stderr
    path.write_text("cluster_name: mine\n")
    asked = CliRunner().invoke(app, ["cluster", "check", str(path)])
    assert asked.exit_code == 2
    assert "provider: missing" in asked.stderr
    with pytest.raises(UsageError, match="cannot read the cluster file"):
        load_cluster(tmp_path / "missing.yaml")


def test_checking_loads_neither_boto3_nor_torch():
    code = (
        "import sys; from pathlib import Path; from search.cluster_file import load_cluster; "
        f"load_cluster(Path({str(ROOT / 'cluster.yaml')!r})); "
        "print([m for m in ('boto3', 'torch', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""A cluster of machines of one's own, set up as docs/cluster.md says, from cluster-local.yaml.

The machines are namespaces (see `tests.machines`), with the addresses that the file names. They
come with Python and the packages of this environment, as if installed from `constraints.txt`, and
have no internet. PostgreSQL runs beside them.
"""

import contextlib
import functools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from search.journal import Journal
from tests import postgres
from tests.conftest import ROOT
from tests.machines import HOME, USER, Machine, Network, network

FILE = "cluster-local.yaml"
DATABASE, LAPTOP, HEAD = "192.168.1.5", "192.168.1.2", "192.168.1.10"
WORKERS = {"worker-1": "192.168.1.11", "worker-2": "192.168.1.12"}
FOLDER = f"{HOME}/project"
"""Of the laptop: what the docs call the folder with the cluster file."""
WAIT_S = 900.0

# What a small cluster changes about the file. Ray gives a silent machine up after some 10 s.
EDITS = {
    "?sslmode=require": "",  # the tests' PostgreSQL is built without TLS
    "pip install --constraint": "pip install --no-deps --constraint",  # all else is there
    "--object-manager-port=8076": "--object-manager-port=8076 --object-store-memory=100000000",
    "--address=$RAY_HEAD_IP:6379": "--address=$RAY_HEAD_IP:6379 --num-cpus=1",
    "    export RAY_AUTH_MODE=token\n": """\
    export RAY_AUTH_MODE=token
    export RAY_health_check_initial_delay_ms=1000
    export RAY_health_check_period_ms=1000
    export RAY_health_check_timeout_ms=3000
    export RAY_health_check_failure_threshold=5
""",
}
ALIVE = """
import ray
ray.init("auto", log_to_driver=False)
print("alive:", *sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]))
"""


def edited(text: str) -> str:
    """The cluster file with `EDITS`, each of which has to fit."""
    for old, new in EDITS.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@dataclass
class OnPremise:
    """The machines, as a user sees them who sits at the laptop."""

    network: Network
    database: postgres.Postgres
    laptop: Machine
    head: Machine
    workers: list[Machine]

    @functools.cached_property
    def journal(self) -> Journal:
        """The record of all searches."""
        return Journal(self.database.uri("kdcurve"))

    @property
    def home(self) -> Path:
        """KDCURVE_HOME, on the shared folder."""
        return self.network.shared / "kdcurve"

    @property
    def project(self) -> Path:
        """The folder with the cluster file, on the laptop."""
        return self.laptop.path(FOLDER)

    def prepare(self, wheel: Path) -> None:
        """What the docs ask for before `ray up`: keys, the package, the files."""
        (self.project / "dist").mkdir(parents=True)
        shutil.copy(wheel, self.project / "dist")
        shutil.copy(ROOT / "constraints.txt", self.project)
        (self.project / FILE).write_text(edited((ROOT / FILE).read_text()))
        self.type(f"pip install --quiet --no-deps dist/{wheel.name}")
        self.type("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        self.type("(umask 077; ray get-auth-token --generate >/dev/null)")
        for machine in (self.head, *self.workers):
            self._install(machine)

    def _install(self, machine: Machine) -> None:
        """What a machine needs before `ray up`: the laptop's key, Python, on the head passwords."""
        key = self.laptop.path(f"{HOME}/.ssh/id_ed25519.pub").read_text()
        machine.path(f"{HOME}/.ssh/authorized_keys").write_text(key)
        machine.run("mkdir", "kdcurve")
        machine.run("ln", "-s", sys.prefix, "kdcurve/env")
        if machine is self.head:
            passwords = machine.path(f"{HOME}/.pgpass")
            passwords.touch(mode=0o600)
            passwords.write_text(f"{DATABASE}:5432:*:{USER}:{self.database.password}\n")

    def up(self) -> None:
        """`ray up`, and wait for the workers."""
        self.type(f"ray up --yes {FILE}")
        self.until_alive(self.head, *self.workers)

    def replace_head(self) -> None:
        """A new machine for the head, which was lost; nothing of Ray runs there yet."""
        self.head = self.network.switch_on("head", HEAD)
        self._install(self.head)
        self.type("rm /tmp/ray/cluster-kdcurve.*")  # as the docs say of a machine that was wiped

    def type(self, line: str) -> str:
        """Let the user type a line; returns what it prints.

        Raises:
            AssertionError: it failed.
        """
        return self.laptop.run("bash", "-c", line, folder=FOLDER)

    def kdcurve(self, *arguments: str) -> "subprocess.Popen[str]":
        """Let the user start a command for this cluster."""
        return self.laptop.start("kdcurve", *arguments, "--cluster", FILE, folder=FOLDER)

    def alive(self) -> list[str]:
        """Addresses of the machines that Ray counts on."""
        surroundings = ". ~/kdcurve/environment"
        said = self.head.run("bash", "-c", f"{surroundings}; python - <<'END'{ALIVE}END")
        return said.rpartition("alive:")[2].split()

    def until_alive(self, *machines: Machine) -> None:
        """Wait until these machines, and no others, are in the cluster."""
        wanted = sorted(machine.address for machine in machines)
        until(lambda: self.alive() == wanted, f"{wanted} are up", every_s=5)


def until(holds: Callable[[], object], what: str, every_s: float = 0.5) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not in {WAIT_S:.0f} s: {what}"
        time.sleep(every_s)


@contextlib.contextmanager
def on_premise(wheel: Path) -> Iterator[OnPremise]:
    """A cluster that is up inside the block, with kdcurve from a wheel."""
    with network(DATABASE) as switch, postgres.running(DATABASE, 5432) as database:
        for name in ("kdcurve", "mlflow"):
            database.uri(name)
        laptop = switch.switch_on("laptop", LAPTOP, shares=False)
        head = switch.switch_on("head", HEAD)
        workers = [switch.switch_on(name, address) for name, address in WORKERS.items()]
        site = OnPremise(switch, database, laptop, head, workers)
        site.prepare(wheel)
        site.up()
        yield site

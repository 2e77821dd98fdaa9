"""Machines in a network of their own, all of them on this one: namespaces, which need root.

Each has its own processes, addresses, shared memory and files. The files are a copy on write of
this machine's, in memory, so that one can install, break and fill what it likes. Nothing is left
of a machine that is switched off, nor of any once the process that started them is gone; nothing
outside can be reached from inside, nor the other way round.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

USER = "kdcurve"
HOME = f"/home/{USER}"
BOOT_S = 60.0
END_S = 1200.0
"""How long a command may take."""
_PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "chroot", "sshd", "ssh", "rsync")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET

# Becomes the first process of a machine, inside new namespaces. Its user has root's number: the
# files that are copied are root's. The line that it reads says that the cable is plugged in.
_BOOT = """
set -eu
name=$1 address=$2 disk=$3 shared=$4
shift 4
root=$disk/root

copy() {
    own=$(mktemp -d "$disk/copy-XXXXXX")
    mkdir -p "$own/changes" "$own/work" "$root$1"
    mount -t overlay "$name" "$root$1" \
        -o "lowerdir=$1,upperdir=$own/changes,workdir=$own/work"
}

hostname "$name"
mount -t tmpfs "$name" "$disk"
copy /
for empty in /tmp /run; do mount -t tmpfs "$name" "$root$empty"; done
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t tmpfs "$name" "$root/dev/shm"
mount -t proc "$name" "$root/proc"
for folder; do copy "$folder"; done
if [ -n "$shared" ]; then
    mkdir "$root/shared"
    mount --bind "$shared" "$root/shared"
fi

sed -i "1i USER:*:0:0::HOME:/bin/bash" "$root/etc/passwd"
echo "$address $name" >> "$root/etc/hosts"
printf '[global]\\nno-index = true\\n' > "$root/etc/pip.conf"
mkdir -p -m 700 "$root/run/sshd" "$root/HOME" "$root/HOME/.ssh"
ssh-keygen -q -t ed25519 -N '' -f "$root/run/sshd/key"

read -r _
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
exec chroot "$root" /usr/sbin/sshd -D -e -f /dev/null -h /run/sshd/key \
    -o ListenAddress="$address" -o PidFile=none -o UsePAM=no \
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no < /dev/null
""".replace("USER", USER).replace("HOME", HOME)


def unavailable() -> str | None:
    """Why there can be no such machines here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root of a Linux machine can make namespaces"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"not installed here: {', '.join(missing)}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file systems"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--fork", "true"],
        env={"PATH": _PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() or None


def finished(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and output of a command, once it has ended."""
    output, _ = process.communicate(timeout=END_S)
    return process.returncode, output


@dataclass(frozen=True)
class Machine:
    """A machine that is switched on."""

    name: str
    address: str
    first: int
    """Its first process; all others end with it."""
    keeper: "subprocess.Popen[str]"

    def path(self, path: str) -> Path:
        """Where a file of the machine's is found from here."""
        return Path(f"/proc/{self.first}/root") / path.lstrip("/")

    def start(self, *arguments: str, folder: str = HOME) -> "subprocess.Popen[str]":
        """Start a command there, as after a login; what it prints can be read."""
        path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return subprocess.Popen(
            [
                *("nsenter", f"--target={self.first}", "--all", "--root"),
                *("env", "-i", f"--chdir={folder}", f"HOME={HOME}", f"USER={USER}", f"PATH={path}"),
                *("LANG=C.UTF-8", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, folder: str = HOME) -> str:
        """Run a command there; returns what it prints.

        Raises:
            AssertionError: it failed.
        """
        code, output = finished(self.start(*arguments, folder=folder))
        assert code == 0, f"{self.name}: {' '.join(arguments)}\n{output}"
        return output


class Network:
    """A switch that machines are plugged into; the thread that made it is plugged in too."""

    def __init__(self, folder: Path) -> None:
        """Use a folder for what the machines share."""
        self.shared = folder / "shared"
        self.shared.mkdir()
        self._disk = folder / "disk"  # each machine mounts its own there
        self._disk.mkdir()
        self._machines: dict[str, Machine] = {}

    def switch_on(self, name: str, address: str, *, shares: bool = True) -> Machine:
        """A new machine, as it is after the installation; it answers to SSH."""
        namespaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--propagation=private")
        shared = str(self.shared) if shares else ""
        copies = dict.fromkeys((sys.base_prefix, sys.prefix))
        keeper = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=KILL"),
                *("unshare", *namespaces, "--fork", "--kill-child"),
                *("sh", "-c", _BOOT, "sh", name, address, str(self._disk), shared, *copies),
            ],
            env={"PATH": _PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        machine = Machine(name, address, _only_child(keeper.pid), keeper)
        self._machines[name] = machine
        _ip("link", "add", name, "type", "veth", "peer", "eth0", "netns", str(machine.first))
        _ip("link", "set", name, "master", "bridge", "up")
        assert keeper.stdin is not None
        keeper.stdin.write("plugged in\n")
        keeper.stdin.close()
        _until_it_answers(machine)
        return machine

    def switch_off(self, machine: Machine) -> None:
        """As if its power had failed: all of its processes at once, and what it had in memory."""
        del self._machines[machine.name]
        with contextlib.suppress(ProcessLookupError):
            os.kill(machine.first, signal.SIGKILL)
        machine.keeper.wait()
        with contextlib.suppress(subprocess.CalledProcessError):  # it goes by itself, but later
            _ip("link", "delete", machine.name)

    def unplug(self, machine: Machine) -> None:
        """Nothing reaches the machine, and nothing comes from it."""
        _ip("link", "set", machine.name, "down")

    def plug_in(self, machine: Machine) -> None:
        """The end of `unplug`."""
        _ip("link", "set", machine.name, "up")

    def close(self) -> None:
        """Switch all machines off."""
        for machine in list(self._machines.values()):
            self.switch_off(machine)


@contextlib.contextmanager
def network(address: str) -> Iterator[Network]:
    """A network without machines yet. This thread, and what it starts, is inside.

    Args:
        address: of this thread there.
    """
    with (
        tempfile.TemporaryDirectory(prefix="kdcurve-machines-") as folder,
        Path("/proc/thread-self/ns/net").open() as outside,
    ):
        _libc("unshare", _NEW_NETWORK)
        try:
            _ip("link", "set", "lo", "up")
            _ip("link", "add", "bridge", "type", "bridge")
            _ip("address", "add", f"{address}/24", "dev", "bridge")
            _ip("link", "set", "bridge", "up")
            with contextlib.closing(Network(Path(folder))) as made:
                yield made
        finally:
            _libc("setns", outside.fileno(), _NEW_NETWORK)


def _libc(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], env={"PATH": _PATH}, check=True, capture_output=True)


def _only_child(pid: int) -> int:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            return child.pid
        time.sleep(0.01)
    raise AssertionError("no namespaces came up")


def _until_it_answers(machine: Machine) -> None:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and machine.keeper.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((machine.address, 22), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"{machine.name} does not answer")

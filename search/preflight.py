"""Every machine looked at before a search costs anything: what it lacks, by name.

A task on each machine reports what it finds (`probe`); `judge` compares that with what is needed.
MLflow and the record are not asked for: only the process that runs the search writes to them, and
it has asked them by then.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import NotReadyError
from search.places import Places
from search.space import SearchSpec
from trainables.config import ImageDataset, is_own
from trainables.parts import find
from trainables.sizes import describe

ANSWER_S = 180.0
"""How long all machines together have to answer; a first import of torch from NFS takes long."""
SKEW_S = 10.0
"""Clocks further apart than this are a fault."""
_PACKAGES = ("kdcurve", "torch", "ray")
_SHARED = "; it has to be a file system that all machines share"
_DEVICES = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(count)]
print(json.dumps({"devices": devices, "cuda": torch.version.cuda}))
"""


@dataclass(frozen=True, eq=False)
class Machine:
    """A node of the cluster, as Ray knows it."""

    id: str
    address: str
    resources: Mapping[str, float]

    @property
    def label(self) -> str:
        """What to call it in messages: addresses repeat where nodes share a machine."""
        return f"{self.address} ({self.id[:8]})"


@dataclass(frozen=True)
class Report:
    """What one machine found. A text says what is wrong, None that nothing is."""

    machine: Machine
    silent: str | None = None
    """Why there is no report."""
    versions: Mapping[str, str] = field(default_factory=dict)
    clock_s: float = 0.0
    """How far its clock is from the driver's, at least."""
    storage: str | None = None
    """Why it cannot write there."""
    hidden: bool = False
    """Whether what it writes there is not seen where the search runs from."""
    unseen: Sequence[str] = ()
    """Labels of other machines whose files it does not see."""
    data: str | None = None
    devices: Sequence[tuple[str, int, int]] | None = None
    """GPUs with free and total bytes; None if they were not asked for."""
    cuda: str | None = None
    """The CUDA that torch was built for."""


def preflight(spec: SearchSpec, places: Places, say: Callable[[str], None], *, alone: bool) -> None:
    """Look at every machine of the cluster that Ray is connected to.

    Args:
        spec: the search.
        places: where the storage is.
        say: takes note of a line.
        alone: look even if there is one machine only.

    Raises:
        NotReadyError: some lack something; the message names each of them, what, and what to do.
    """
    machines = [
        Machine(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    if len(machines) == 1 and not alone:
        return
    faults = judge(_ask(spec, places, machines), versions(), spec.resources.gpu)
    if faults:
        raise NotReadyError("\n  ".join(["preflight, before anything was started:", *faults]))
    say(f"preflight: {len(machines)} of {len(machines)} machines have what the search needs")


def judge(reports: Sequence[Report], here: Mapping[str, str], gpu: float) -> list[str]:
    """Faults of the machines, each with the machine's name and what to do.

    Args:
        reports: of all machines.
        here: versions where the search is run from.
        gpu: GPUs that a trial asks for.
    """
    faults = []
    for each in reports:
        faults += [f"{each.machine.label}: {fault}" for fault in _faults(each, here, gpu)]
    return faults


def _faults(report: Report, here: Mapping[str, str], gpu: float) -> list[str]:
    if report.silent is not None:
        return [report.silent]
    faults = [
        f"{name} is {report.versions.get(name, 'missing')}, and {version} where the search runs "
        "from; install the same on all machines"
        for name, version in here.items()
        if report.versions.get(name) != version
    ]
    if report.storage is not None:
        faults.append(f"cannot write to the storage: {report.storage}")
    if report.hidden:
        faults.append(f"what it writes to the storage is not seen where the search runs{_SHARED}")
    elif report.unseen:
        faults.append(f"does not see what {', '.join(report.unseen)} wrote to the storage{_SHARED}")
    if report.data is not None:
        faults.append(
            f"{report.data}; put the data set where all machines find it, and its absolute path "
            "into dataset.root"
        )
    if abs(report.clock_s) > SKEW_S:
        faults.append(
            f"its clock is {abs(report.clock_s):.0f} s {'fast' if report.clock_s > 0 else 'slow'}; "
            "turn on time synchronisation (timedatectl set-ntp true)"
        )
    if report.devices is not None:
        faults += _gpus(report, gpu)
    return faults


def _gpus(report: Report, share: float) -> list[str]:
    """Faults of the GPUs; half of a trial's share has to be free, since others may run."""
    devices, declared = report.devices or (), int(report.machine.resources.get("GPU", 0))
    if len(devices) < declared:
        why = (
            f"torch was built for CUDA {report.cuda}; look at nvidia-smi"
            if report.cuda
            else "torch was built without CUDA; install a build with it"
        )
        return [f"declares {declared} GPUs to Ray, but torch finds {len(devices)}: {why}"]
    return [
        f"GPU {index} ({name}) has {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, too few for "
        f"a trial's {share:g} of it; look at nvidia-smi for who holds the rest"
        for index, (name, free, total) in enumerate(devices)
        if free < 0.5 * min(share, 1.0) * total
    ]


def versions() -> dict[str, str]:
    """What has to be the same on all machines."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _ask(spec: SearchSpec, places: Places, machines: Sequence[Machine]) -> list[Report]:
    """Let every machine report, then look for what the others wrote."""
    folder = places.storage / f"preflight-{uuid.uuid4().hex}"
    deadline = time.monotonic() + ANSWER_S
    reports: dict[Machine, Report] = {}
    try:
        for machine, report, _ in _on_each(
            probe, {each: (each, folder, *_wanted(each, spec)) for each in machines}, deadline
        ):
            silent = isinstance(report, str)
            reports[machine] = Report(machine, silent=report) if silent else report
        wrote = [each for each, report in reports.items() if not (report.silent or report.storage)]
        hidden, _ = look(folder, wrote)  # else all the others would be found at fault with one
        asked = time.time()
        for machine, answer, answered in _on_each(
            look, dict.fromkeys(wrote, (folder, wrote)), deadline
        ):
            if isinstance(answer, str):
                reports[machine] = Report(machine, silent=answer)
                continue
            others, clock = answer
            skew = max(0.0, clock - answered) or min(0.0, clock - asked)
            reports[machine] = replace(
                reports[machine],
                hidden=machine.label in hidden,
                unseen=[other for other in others if other not in hidden],
                clock_s=skew,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return list(reports.values())


def _wanted(machine: Machine, spec: SearchSpec) -> tuple[dict[str, Any] | None, bool]:
    """The data set that a machine needs, and whether its GPUs are looked at."""
    resources, asked = machine.resources, spec.resources
    if resources.get("CPU", 0) < asked.cpu or resources.get("GPU", 0) < min(asked.gpu, 1):
        return None, False  # no trial runs there
    pictures = isinstance(spec.dataset, ImageDataset)
    return spec.dataset.model_dump() if pictures else None, asked.gpu > 0


def _on_each(
    function: Callable[..., Any],
    arguments: Mapping[Machine, tuple[Any, ...]],
    deadline: float,
) -> Iterator[tuple[Machine, Any, float]]:
    """Call a function on machines; yields what each returned, or a text why it did not, and when.

    The tasks ask for no resources, so that machines at work answer too.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    waiting = {}
    for machine, values in arguments.items():
        there = NodeAffinitySchedulingStrategy(machine.id, soft=False)
        waiting[task.options(scheduling_strategy=there).remote(*values)] = machine
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            break
        machine = waiting.pop(done[0])
        try:
            yield machine, ray.get(done[0]), time.time()
        except ray.exceptions.RayError as error:
            yield machine, _why(error), time.time()
    for future, machine in waiting.items():
        ray.cancel(future, force=True)
        yield machine, f"did not answer within {ANSWER_S:.0f} s", time.time()


def _why(error: Exception) -> str:
    """Why a machine did not report, in a line."""
    text = str(error)
    missing = re.search(r"No module named '[^']*'", text)
    if missing:
        return f"kdcurve cannot run there ({missing[0]}); install it, as on the other machines"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"could not be looked at: {lines[-1] if lines else type(error).__name__}"


def probe(machine: Machine, folder: Path, dataset: dict[str, Any] | None, gpus: bool) -> Report:
    """Look at the machine that this runs on.

    Args:
        machine: its name.
        folder: on the storage; a file of the machine's is left there.
        dataset: the data set to look for, if trials run here.
        gpus: whether they ask for GPUs.
    """
    importlib.import_module("trainables.trial")  # with all that trials import
    report = Report(machine, versions=versions(), storage=_write(folder, machine))
    if dataset is not None:
        report = replace(report, data=_missing_data(dataset))
    return replace(report, **_devices()) if gpus else report


def _write(folder: Path, machine: Machine) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{machine.id}"
        temporary.write_text(machine.id)
        temporary.replace(folder / machine.id)  # as caches and checkpoints are written
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    return None


def look(folder: Path, wrote: Sequence[Machine]) -> tuple[list[str], float]:
    """Labels of machines whose files are not seen here, and the time by this clock."""
    unseen = []
    for each in wrote:
        try:  # by name: a listing may be older than the file
            seen = (folder / each.id).read_text() == each.id
        except OSError:
            seen = False
        if not seen:
            unseen.append(each.label)
    return unseen, time.time()


def _missing_data(dataset: dict[str, Any]) -> str | None:
    config = ImageDataset.model_validate(dataset)
    try:
        if is_own(config.name):
            find(config.name, "a data set")  # only found: to call it may take long
        else:
            describe(config)
    except ValueError as error:
        return str(error)
    return None


def _devices() -> dict[str, Any]:
    """GPUs as torch sees them, in a process of its own: Ray hides them from tasks without one."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(  # noqa: S603  (this Python)
        [sys.executable, "-c", _DEVICES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {"devices": [], "cuda": None}
    return {"devices": [tuple(each) for each in found["devices"]], "cuda": found["cuda"]}

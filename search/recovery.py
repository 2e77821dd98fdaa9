"""What failed on a cluster: why, and whether a trial is taken up again.

A training is deterministic: what it raised by itself it would raise again. Only what its machine
did to it is worth another try.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from analysis.secrets import redacted
from search.ledger import TrialState
from search.sections import Faults, Resources

MOST_LOSSES = 100
"""Machines that a trial may lose; one that brings its machines down must end some day."""
_LONGEST_REASON = 1000
"""Characters: MLflow's tags have a limit, and a reason is one line."""
_LOST = ("node has died", "node was terminated", "raylet died")
"""Ray's words for a machine that is gone."""
_ADVICE = " Some common causes include"
"""What Ray appends to the end of a process, on and on."""
_MACHINE = re.compile(r"\[Node (\S+)\]")
"""Where Ray could not make what a process runs with."""
_HOST_MEMORY = "can't allocate memory"
"""What torch's allocator for CPUs says in a plain RuntimeError."""


class Cause(StrEnum):
    """Why a trial is worth another try."""

    LOST = "lost"
    """Its machine was lost, is about to be, or cannot be reached."""
    DIED = "died"
    """Its process died or could not be made, its GPU failed, or the storage did."""
    MEMORY = "memory"
    """Its machine ran out of memory."""
    GPU_MEMORY = "gpu_memory"
    """Its GPU did."""


class OutOfHostMemoryError(RayActorError):
    """Ray ended a trial's process because its machine ran out of memory."""


class ProcessSetupError(RayActorError):
    """Ray could not set up a trial's process on a machine."""


_MEMORY = (OutOfHostMemoryError, OutOfMemoryError)
"""A trial's, and a task's."""
_SETUP = (ProcessSetupError, RuntimeEnvSetupError)
"""A trial's, and a task's."""


def of_an_actor(error: object) -> object:
    """What Ray says of a process, in the form in which Tune takes it for that of one trial.

    These errors of Ray's are neither an actor's nor a task's, so that Tune (up to 2.60 at least)
    raises out of `fit` and takes all other trials along.
    """
    if isinstance(error, OutOfMemoryError):
        return OutOfHostMemoryError(error_msg=str(error))
    if isinstance(error, RuntimeEnvSetupError):
        return ProcessSetupError(error_msg=str(error))
    return error


def reason_of(error: BaseException | None) -> str:
    """Why a training or a task failed, in one line without secrets."""
    if error is None:
        return "its process left no exception"
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines() or [""]
    # Of memory Ray says the essential first, and then much about everybody's.
    line = lines[0 if isinstance(cause, _MEMORY) else -1]
    text = line.strip().partition(_ADVICE)[0]
    reason = redacted(f"{type(cause).__name__}: {text}")[:_LONGEST_REASON]
    if isinstance(cause, _SETUP) and (machine := _MACHINE.search(str(cause))):
        reason += f" (restart Ray on {machine[1]})"
    return reason


def cause_of(error: BaseException | None) -> Cause | None:
    """Why what failed like this is worth another try; None: it is not."""
    if error is None:
        return Cause.DIED
    if isinstance(error, _MEMORY):
        return Cause.MEMORY
    if isinstance(error, RayActorError):
        gone = any(words in str(error) for words in _LOST)
        lost = error.preempted or gone or isinstance(error, ActorUnavailableError)
        return Cause.LOST if lost else Cause.DIED
    if isinstance(error, NodeDiedError):
        return Cause.LOST
    if isinstance(error, (WorkerCrashedError, RuntimeEnvSetupError)):
        return Cause.DIED
    return _cause_of_raised(error.cause if isinstance(error, RayTaskError) else error)


def _cause_of_raised(error: BaseException) -> Cause | None:
    # By name: torch, with which some of these are loaded, is not needed here otherwise.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "MachineLeavingError" in kinds:
        return Cause.LOST
    if "OutOfMemoryError" in kinds:
        return Cause.GPU_MEMORY
    if isinstance(error, MemoryError) or _HOST_MEMORY in str(error):
        return Cause.MEMORY
    return Cause.DIED if isinstance(error, OSError) or "AcceleratorError" in kinds else None


def may_retry(cause: Cause, trial: TrialState, faults: Faults) -> bool:
    """Whether a trial is taken up again, after so many tries."""
    allowed = {Cause.LOST: MOST_LOSSES, Cause.DIED: faults.retries}
    return trial.retries[cause] < allowed.get(cause, min(1, faults.retries))


def room(
    resources: Resources, retries: Mapping[str, int], machines: Iterable[Mapping[str, float]]
) -> dict[str, float]:
    """What a trial holds while it runs: more than others after it ran out of memory.

    A whole GPU, or the place of two trials on its machine.

    Args:
        resources: of a trial.
        retries: how often it was taken up again, by cause.
        machines: resources of each, by Ray's names; no more is asked for than one of them has.
    """
    cpu, gpu = resources.cpu, resources.gpu
    if retries.get(Cause.GPU_MEMORY) and gpu:
        gpu = max(gpu, 1.0)
    if retries.get(Cause.MEMORY):
        fit = [m.get("CPU", 0.0) for m in machines if m.get("GPU", 0.0) >= gpu]
        cpu = max(cpu, min(2 * cpu, max(fit, default=cpu)))
    return {"cpu": cpu, "gpu": gpu}

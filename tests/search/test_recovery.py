"""Which failures of a trial are worth another try, how often, and with how much room."""

import pickle

import pytest
import torch
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from search.ledger import TrialState
from search.recovery import (
    MOST_LOSSES,
    Cause,
    OutOfHostMemoryError,
    ProcessSetupError,
    cause_of,
    may_retry,
    of_an_actor,
    reason_of,
    room,
)
from search.sections import Faults, Resources
from trainables.engine import Diverged
from trainables.trial import MachineLeavingError

pytestmark = pytest.mark.faults


def raised(error):
    """As a trial's exception arrives."""
    return RayTaskError("train", f"Traceback …\n{error!r}", error)


CAUSES = {
    "preempted": (RayActorError(error_msg="gone", preempted=True), Cause.LOST),
    "a lost machine": (RayActorError(error_msg="The actor died … its node has died."), Cause.LOST),
    "an unreachable machine": (ActorUnavailableError("unavailable", b"\0" * 16), Cause.LOST),
    "a machine about to go": (raised(MachineLeavingError("about to go")), Cause.LOST),
    "a killed process": (RayActorError(error_msg="its worker process has died"), Cause.DIED),
    "a machine lost under a task": (NodeDiedError("it died"), Cause.LOST),
    "a task's killed process": (WorkerCrashedError(), Cause.DIED),
    "a machine on which no task starts": (RuntimeEnvSetupError("no wheel"), Cause.DIED),
    "a machine on which no trial starts": (ProcessSetupError(error_msg="no wheel"), Cause.DIED),
    "the memory monitor, of a task": (OutOfMemoryError("low on memory"), Cause.MEMORY),
    "an error that got lost": (None, Cause.DIED),
    "the storage": (raised(OSError(5, "Input/output error")), Cause.DIED),
    "the memory monitor": (OutOfHostMemoryError(error_msg="low on memory"), Cause.MEMORY),
    "Python's allocator": (raised(MemoryError()), Cause.MEMORY),
    "torch's allocator": (
        raised(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")),
        Cause.MEMORY,
    ),
    "CUDA's allocator": (raised(torch.OutOfMemoryError("CUDA out of memory.")), Cause.GPU_MEMORY),
    "divergence": (raised(Diverged(3, 7, {})), None),
    "a mistake": (raised(KeyError("kd_weight")), None),
}


@pytest.mark.parametrize("case", CAUSES)
def test_what_the_machine_did_is_told_from_what_the_training_did(case):
    error, cause = CAUSES[case]
    assert cause_of(error) == cause


@pytest.mark.parametrize("of", ["a task", "a trial"])
def test_of_memory_the_first_line_is_the_reason(of):
    said = "node low on memory\n\nRefer to …"
    error = OutOfMemoryError(said) if of == "a task" else OutOfHostMemoryError(error_msg=said)
    assert reason_of(error) == f"{type(error).__name__}: node low on memory"


def test_a_reason_is_one_line_without_ray_s_advice():
    error = RayActorError(
        error_msg="The actor died.\nIts worker exits with code 2. Some common causes include: (1)"
    )
    assert reason_of(error) == "RayActorError: Its worker exits with code 2."
    assert reason_of(None) == "its process left no exception"


NO_WHEEL = RuntimeEnvSetupError(
    "[Node 192.168.1.11] Traceback (most recent call last):\n  File …\n"
    "ValueError: Local directory /tmp/ray/x does not exist on the cluster.\n"
)
"""As Ray says it: the machine first, the cause last."""


@pytest.mark.parametrize("error", [NO_WHEEL, of_an_actor(NO_WHEEL)], ids=["a task", "a trial"])
def test_a_machine_on_which_nothing_starts_is_named(error):
    assert reason_of(error) == (
        f"{type(error).__name__}: ValueError: Local directory /tmp/ray/x does not exist on the "
        "cluster. (restart Ray on 192.168.1.11)"
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [(NO_WHEEL, Cause.DIED), (OutOfMemoryError("low on memory\n\nRefer to …"), Cause.MEMORY)],
    ids=["no process", "no memory"],
)
def test_what_ray_says_of_a_process_survives_the_file_that_tune_keeps_it_in(error, cause):
    found = of_an_actor(error)
    assert isinstance(found, RayActorError), "Tune keeps an actor's and a task's errors alone"
    kept = pickle.loads(pickle.dumps(found))
    assert cause_of(kept) is cause
    assert reason_of(kept) == reason_of(found)


def tries(cause, faults):
    trial = TrialState(0, "c", {}, 0, start_design=False)
    while may_retry(cause, trial, faults):
        trial.retries[cause] += 1
    return trial.retries[cause]


def test_tries_are_bounded_and_lost_machines_do_not_count():
    assert tries(Cause.DIED, Faults(retries=2)) == 2
    assert tries(Cause.MEMORY, Faults()) == tries(Cause.GPU_MEMORY, Faults()) == 1
    assert tries(Cause.LOST, Faults(retries=0)) == MOST_LOSSES
    assert tries(Cause.DIED, Faults(retries=0)) == tries(Cause.MEMORY, Faults(retries=0)) == 0


@pytest.mark.parametrize(
    ("retries", "cpu", "gpu"),
    [({}, 2, 0.25), ({Cause.DIED: 2}, 2, 0.25), ({Cause.GPU_MEMORY: 1}, 2, 1.0)],
)
def test_only_what_ran_out_of_memory_gets_more_room(retries, cpu, gpu):
    assert room(Resources(cpu=2, gpu=0.25), retries, [{"CPU": 8, "GPU": 1}]) == {
        "cpu": cpu,
        "gpu": gpu,
    }


@pytest.mark.parametrize(("machine", "cpu"), [(8, 4), (3, 3), (1, 2)])
def test_no_more_room_is_asked_for_than_a_machine_has(machine, cpu):
    machines = [{"CPU": machine, "GPU": 1}, {"CPU": 64}]
    assert room(Resources(cpu=2, gpu=1), {Cause.MEMORY: 1}, machines)["cpu"] == cpu
    assert room(Resources(cpu=2, gpu=2), {Cause.GPU_MEMORY: 1}, machines)["gpu"] == 2

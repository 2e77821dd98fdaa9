"""Which failures of a trial are worth another try, how often, and with how much room."""

import pickle

import pytest
import torch
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
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
    cause_of,
    may_retry,
    reason_of,
    room,
)
from search.space import Faults, Resources
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
    "a machine on which nothing starts": (RuntimeEnvSetupError("no wheel"), Cause.DIED),
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


def test_an_error_of_memory_survives_the_file_that_tune_keeps_it_in():
    kept = pickle.loads(
        pickle.dumps(OutOfHostMemoryError(error_msg="node low on memory\n\nRefer to …"))
    )
    assert cause_of(kept) is Cause.MEMORY
    assert reason_of(kept) == "OutOfHostMemoryError: node low on memory"


def test_a_reason_is_one_line_without_ray_s_advice():
    error = RayActorError(
        error_msg="The actor died.\nIts worker exits with code 2. Some common causes include: (1)"
    )
    assert reason_of(error) == "RayActorError: Its worker exits with code 2."
    assert reason_of(None) == "its process left no exception"


def test_a_machine_on_which_nothing_starts_is_named():
    """As Ray says it: the machine first, the cause last."""
    error = RuntimeEnvSetupError(
        "[Node 192.168.1.11] Traceback (most recent call last):\n  File …\n"
        "ValueError: Local directory /tmp/ray/x does not exist on the cluster.\n"
    )
    assert reason_of(error) == (
        "RuntimeEnvSetupError: ValueError: Local directory /tmp/ray/x does not exist on the "
        "cluster. (restart Ray on 192.168.1.11)"
    )


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

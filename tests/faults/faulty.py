"""A user's network that misbehaves where a test has left a file that says so.

Copied into the folder of a search, as a module of the user's own. Whoever removes a file of
`faults/` commits that fault, once; `nodes/` has a file for every machine that trains.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
BATCHES_BEFORE = 25
"""What a process trains before it misbehaves: some epochs."""
MOST_CHUNKS = 36
"""Of 256 MiB, taken until Ray ends the process."""
BATCH_S = 0.06
"""Slow enough for every epoch to be reported by itself."""


def _hog():
    taken = []
    while len(taken) < MOST_CHUNKS:
        taken.append(torch.ones(2**28, dtype=torch.uint8))
        time.sleep(0.05)
    time.sleep(60)


def _no_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def _no_storage():
    raise OSError(5, "Input/output error")


def _no_memory():
    raise MemoryError


FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hung": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "gpu_memory": _no_gpu_memory,
    "memory": _no_memory,
    "storage": _no_storage,
    "hog": _hog,
}


class Faulty(nn.Sequential):
    """A linear classifier."""

    batches = 0

    def forward(self, images):
        found = super().forward(images)
        if not self.training or not sys.argv[0].endswith("default_worker.py"):
            return found
        time.sleep(BATCH_S)
        self.batches += 1
        if self.batches % 5 == 0:
            self._note_machine()
        if self.batches >= BATCHES_BEFORE:
            for path in sorted((HERE / "faults").iterdir()):
                fault = path.name.partition("-")[0]
                if self._claims(path):
                    if fault == "diverging":
                        return found * torch.nan
                    FAULTS[fault]()
        return found

    def _note_machine(self):
        import ray

        (HERE / "nodes" / ray.get_runtime_context().get_node_id()).touch()

    def _claims(self, path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        self.batches = 0
        return True


def network(shape, classes):
    return Faulty(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

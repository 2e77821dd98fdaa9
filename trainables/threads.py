"""Threads of the numerical libraries, as many as a trial was granted CPUs."""

import torch
from threadpoolctl import threadpool_limits


def pin_threads(cpus: float) -> None:
    """Use as many threads as Tune granted CPUs: busy processes with more collapse."""
    threads = max(1, int(cpus))
    torch.set_num_threads(threads)
    threadpool_limits(threads)

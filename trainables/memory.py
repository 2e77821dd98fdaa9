"""How much memory a training takes at its peak, apart from what the process did before."""

import re
import resource
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def reset_peak(device: torch.device) -> None:
    """Begin anew: a worker trains one student after another.

    Where Linux does not allow it for the process, its peak remains that of its whole life.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes(device: torch.device) -> float:
    """Peak since `reset_peak`: of the device's memory on a GPU, else of the process's."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
    except OSError:
        found = None
    peak_kib = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024.0 * peak_kib

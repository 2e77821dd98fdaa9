"""The memory that training takes: kept from batch to batch, and measured at its peak."""

import ctypes
import platform
import re
import resource
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As glibc's `malloc.h` numbers them."""
_KEPT_BYTES = 2**30


def keep_freed() -> None:
    """Let this process keep up to 1 GiB of what it frees, for the next batch to use.

    By default glibc gives large blocks back to the system at once, and every batch has its
    activations' pages faulted in and zeroed again. With another C library nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)


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

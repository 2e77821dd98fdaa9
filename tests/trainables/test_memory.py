import platform
import subprocess
import sys

import pytest

CODE = """
import sys, torch
from trainables.memory import peak_bytes, reset_peak
cpu = torch.device("cpu")
before = peak_bytes(cpu)
torch.ones(64, 2**20).sum()
with_it = peak_bytes(cpu)
reset_peak(cpu)
print(with_it - before, with_it - peak_bytes(cpu))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of a whole life")
def test_a_peak_is_seen_and_forgotten_again():
    """256 MiB, in a process of its own that nothing else fills."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    grown, fallen = map(float, done.stdout.split())
    assert 0.9 * 2**28 < grown < 1.5 * 2**28
    assert fallen > 0.9 * 2**28


FAULTS = """
import resource, torch
from trainables.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed()
print(before, min(faults() for _ in range(4)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_freed_memory_is_used_again_instead_of_faulted_in_anew():
    """Tensors of 64 MiB, above any threshold that glibc reaches by itself."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after < 0.5 * before

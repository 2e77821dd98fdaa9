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

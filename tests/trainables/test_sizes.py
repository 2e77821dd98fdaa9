import subprocess
import sys

import pytest

from trainables.sizes import count_kept, count_validation


@pytest.mark.parametrize(
    ("samples", "fraction", "kept"),
    [(10, 0.25, 3), (10, 0.35, 4), (10, 0.05, 1), (10, 0.001, 1), (10, 1.0, 10), (1293, 0.1, 129)],
)
def test_kept_counts_round_half_up_and_keep_at_least_one(samples, fraction, kept):
    assert count_kept(samples, fraction) == kept


def test_validation_leaves_something_on_either_side():
    assert count_validation(10, 0.001) == 1
    assert count_validation(10, 0.999) == 9


def test_sizes_load_no_torch():
    code = "import trainables.sizes, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

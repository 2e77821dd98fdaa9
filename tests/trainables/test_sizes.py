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


def test_describing_published_data_and_folders_loads_no_torch(tmp_path):
    code = f"""
import sys
from PIL import Image
from pathlib import Path
from trainables.config import ImageDataset
from trainables.sizes import describe
for label in "ab":
    Path({str(tmp_path)!r}, "train", label).mkdir(parents=True)
    Image.new("L", (4, 4)).save(Path({str(tmp_path)!r}, "train", label, "0.png"))
assert describe(ImageDataset(name="imagefolder", root={str(tmp_path)!r})).shape == (1, 4, 4)
for name in ("digits", "cifar10", "cifar100", "svhn", "fashion_mnist"):
    describe(ImageDataset(name=name, download=name != "digits"))
sys.exit("torch" in sys.modules or "pyarrow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

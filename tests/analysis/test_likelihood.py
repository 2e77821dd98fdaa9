import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.likelihood import scaled_nll
from trainables.calibration import scale

_SPEC = importlib.util.spec_from_file_location(
    "calibration_cases", Path(__file__).parent.parent / "trainables" / "test_calibration.py"
)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
CASES = _MODULE.CASES


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_what_trials_record(case):
    """The hard cases of `trainables.calibration` (perfect, wrong, huge, narrow logits)."""
    logits, labels = case
    (found,) = scaled_nll(logits.numpy()[None], labels.numpy())
    assert found == pytest.approx(scale(logits, labels).nll, abs=1e-8)


def test_a_network_s_value_does_not_depend_on_its_company():
    """Sharp, flat and wrong logits side by side, over several leading axes and chunks."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    logits = rng.normal(size=(3, 30, 400, 10)) * np.geomspace(0.01, 50, 90).reshape(3, 30, 1, 1)
    logits[1, :, np.arange(400), labels] += 3
    logits[2, 5, np.arange(400), labels] -= 9
    logits[0, 0] = 0
    found = scaled_nll(logits.astype(np.float32), labels)
    assert found.shape == (3, 30)
    for i, j in [(0, 0), (0, 7), (1, 3), (2, 5), (2, 29)]:
        alone = scale(torch.tensor(logits[i, j]).float(), torch.tensor(labels)).nll
        assert found[i, j] == pytest.approx(alone, abs=1e-8)


def test_float16_and_nothing_at_all():
    labels = np.array([0, 1])
    half = np.array([[[2.0, 0.0], [0.5, 0.0]]], np.float16)
    assert scaled_nll(half, labels) == pytest.approx(scaled_nll(half.astype(float), labels))
    assert scaled_nll(np.empty((0, 2, 2)), labels).shape == (0,)

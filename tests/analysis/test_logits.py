import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from analysis.logits import load_logits
from trainables import cache, record

LABELS = np.array([0, 1, 2, 1], np.int32)


def _write(folder, number, logits=None, labels=LABELS):
    logits = np.full((4, 3), number, np.float16) if logits is None else logits
    path = folder / f"{record.logits_key(number)}.safetensors"
    save_file({record.VAL_LOGITS: logits, record.VAL_LABELS: labels}, path)
    return path


def test_reads_in_the_order_asked_for(tmp_path):
    for number in (1, 2, 3):
        _write(tmp_path, number)
    found = load_logits(tmp_path, [3, 1, 3])
    assert found.numbers == (3, 1)
    assert found.logits[:, 0, 0].tolist() == [3, 1]
    assert found.logits.dtype == np.float16
    assert np.array_equal(found.labels, LABELS)
    assert not found.skipped


def test_reads_what_the_trials_cache_writes(tmp_path):
    tensors = {
        record.VAL_LOGITS: torch.arange(12).reshape(4, 3).half(),
        record.VAL_LABELS: torch.from_numpy(LABELS),
    }
    cache.store(tmp_path, record.logits_key(7), tensors, {})
    assert load_logits(tmp_path, [7]).logits.tolist() == [np.arange(12).reshape(4, 3).tolist()]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"\xff" * 100), "damaged"),
        (lambda path: save_file({record.VAL_LOGITS: np.zeros((4, 3), np.float16)}, path), "labels"),
    ],
    ids=["missing", "truncated", "empty", "garbage", "without labels"],
)
def test_a_spoilt_file_costs_its_trial_alone(tmp_path, spoil, reason):
    for number in (1, 2, 3):
        path = _write(tmp_path, number)
    spoil(path)
    found = load_logits(tmp_path, [3, 1, 2])
    assert found.numbers == (1, 2)
    assert list(found.skipped) == [3]
    assert reason in found.skipped[3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": LABELS[::-1].copy()}, "other samples"),
        ({"labels": LABELS + 2}, "labels 2 to 4 of 3 classes"),
        ({"labels": LABELS[:2].copy()}, "do not fit"),
        ({"logits": np.full((4, 3), np.inf, np.float16)}, "not finite"),
        ({"logits": np.zeros((4, 5), np.float16)}, "other samples"),
    ],
    ids=["other labels", "impossible labels", "fewer labels", "overflow", "other classes"],
)
def test_what_cannot_be_compared_is_left_out(tmp_path, change, reason):
    _write(tmp_path, 1)
    _write(tmp_path, 2, **change)
    found = load_logits(tmp_path, [1, 2])
    assert found.numbers == (1,)
    assert reason in found.skipped[2]


def test_nothing_there(tmp_path):
    found = load_logits(tmp_path / "nowhere", [4, 5])
    assert found.numbers == ()
    assert found.skipped == {4: "missing", 5: "missing"}
    assert found.logits.shape == (0, 0, 0)

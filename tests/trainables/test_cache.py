import hashlib
import logging

import pytest
import safetensors.torch
import torch

from trainables import cache


def _make(calls):
    def make():
        calls.append(1)
        return {"a": torch.arange(6.0).reshape(2, 3), "empty": torch.zeros(0)}, {"accuracy": "0.9"}

    return make


def test_second_request_reads_what_the_first_made(tmp_path):
    calls = []
    made = cache.get_or_make(tmp_path / "new", "key", _make(calls))
    read = cache.get_or_make(tmp_path / "new", "key", _make(calls))
    assert len(calls) == 1
    assert made[1] == read[1] == {"accuracy": "0.9"}
    assert torch.equal(made[0]["a"], read[0]["a"])
    assert cache.exists(tmp_path / "new", "key")
    assert not cache.exists(tmp_path / "new", "other")


def _flip_last_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        _flip_last_byte,
        lambda content: content[:-4],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: content.replace(b"0.9", b"1.0"),
    ],
    ids=["flipped bit", "truncated", "no header", "empty", "altered metadata"],
)
@pytest.mark.faults
def test_damaged_file_is_named_and_made_again(tmp_path, caplog, damage):
    calls = []
    expected, _ = cache.get_or_make(tmp_path, "key", _make(calls))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(cache.DamagedError, match=r"key\.safetensors"):
        cache.load(tmp_path, "key")
    with caplog.at_level(logging.WARNING):
        again, _ = cache.get_or_make(tmp_path, "key", _make(calls))
    assert len(calls) == 2
    assert str(path) in caplog.text
    assert torch.equal(again["a"], expected["a"])
    assert torch.equal(cache.load(tmp_path, "key")[0]["a"], expected["a"])


def test_failed_making_leaves_nothing_behind(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.get_or_make(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_told_apart_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        cache.load(tmp_path, "key")


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 5), (0, 4), (1000, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.bfloat16])
def test_checksum_is_that_of_the_bytes_safetensors_would_write(shape, dtype):
    tensor = (torch.rand(shape) * 3).to(dtype)
    digest = hashlib.sha256(b"{}")
    digest.update(f"a {dtype} {shape}".encode() + safetensors.torch.save({"": tensor}))
    assert cache._checksum({"a": tensor}, {}) == digest.hexdigest()


def test_views_and_half_precision_survive(tmp_path):
    tensor = torch.arange(12).reshape(3, 4).t().to(torch.bfloat16)
    cache.get_or_make(tmp_path, "key", lambda: ({"t": tensor}, {}))
    assert torch.equal(cache.load(tmp_path, "key")[0]["t"], tensor)

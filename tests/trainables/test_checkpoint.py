import dataclasses
import json
import logging
import math
import os

import pytest
import torch

from trainables import cache, checkpoint, datasets, models, record
from trainables.config import Recipe, RidgeDataset, TrialConfig
from trainables.ridge import RidgeTraining
from trainables.soft_labels import Table
from trainables.training import Training, train

CPU = torch.device("cpu")


def _epochs(folder):
    return sorted(int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*"))


def _without_times(reports):
    timed = (record.SECONDS, record.SAMPLES_PER_S, record.PEAK_MEMORY_BYTES)
    return [{k: v for k, v in report.items() if k not in timed} for report in reports]


def _training(splits, recipe, kd_weight=0.4, layout=torch.contiguous_format):
    splits = dataclasses.replace(splits, augmentation="crop-flip")
    teacher = torch.randn(162, 200, 10, generator=torch.Generator().manual_seed(0))
    training = Training(
        models.build("cnn4", splits.shape, 10, seed=1),
        datasets.training_samples(splits, torch.arange(200)),
        datasets.validation_samples(splits),
        recipe,
        seed=1,
        kd_weight=kd_weight,
        temperature=3.0,
        soft_labels=Table(teacher, torch.arange(200), CPU),
        device=CPU,
    )
    training.model.to(memory_format=layout)
    return training


def _ridge(epochs=9):
    return RidgeTraining(
        TrialConfig(
            dataset=RidgeDataset(name="ridge"),
            student="linear",
            teacher="linear",
            method="random",
            recipe=Recipe(epochs=epochs),
            fraction=0.3,
            kd_weight=0.4,
            seed=3,
        )
    )


def _finish(training):
    reports = []
    train(training, reports.append)
    return reports


def _saved_after(training, epochs, folder):
    reports = [training.step() for _ in range(epochs)]
    checkpoint.save(folder, training.epoch, training.state_dict(), reports)
    return reports


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("recipe", "kd_weight"),
    [
        (Recipe(epochs=5, batch_size=32), 0.4),
        (Recipe(iterations=23, batch_size=32), 0.0),
        (Recipe(epochs=5, batch_size=32, momentum=0.0), 1.0),
        (Recipe(epochs=5, batch_size=32, optimizer="adamw", lr=0.01, warmup=0.7), 0.4),
        (Recipe(epochs=4, batch_size=50, precision="fp16", clip_norm=1.0), 0.4),
    ],
)
def test_training_taken_up_from_a_file_continues_bit_for_bit(
    tmp_path, few_digits, recipe, kd_weight, layout
):
    undisturbed = _training(few_digits, recipe, kd_weight, layout)
    expected = _finish(undisturbed)

    _saved_after(_training(few_digits, recipe, kd_weight, layout), 2, tmp_path)
    second = _training(few_digits, recipe, kd_weight, layout)
    saved = checkpoint.load_newest(tmp_path)
    second.load_state_dict(saved.state)
    assert second.epoch == saved.epoch == 2
    reports = saved.reports + _finish(second)

    assert _without_times(reports) == _without_times(expected)
    states = undisturbed.model.state_dict(), second.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(
        undisturbed.cohort.generator.get_state(), second.cohort.generator.get_state()
    )


def test_ridge_training_taken_up_from_a_file_continues_bit_for_bit(tmp_path):
    expected = _finish(_ridge())
    _saved_after(_ridge(), 4, tmp_path)
    saved = checkpoint.load_newest(tmp_path)
    second = _ridge()
    second.load_state_dict(saved.state)
    assert _without_times(saved.reports + _finish(second)) == _without_times(expected)


def _same(one, two):
    """Equal in value and type, all the way down."""
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for key, other in zip(one, two, strict=True):
            _same(key, other)
            _same(one[key], two[other])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            _same(a, b)
    elif isinstance(one, float):
        assert math.copysign(1, one) == math.copysign(1, two)
        assert one == two or (math.isnan(one) and math.isnan(two))
    else:
        assert one == two


def test_whatever_a_state_holds_comes_back_with_its_type(tmp_path):
    shared = torch.arange(4.0)
    state = {
        "dict": {0: "int", "0": "str", True: {}, "tensor": [], "tuple": ()},
        "numbers": [1, 1.0, True, False, None, 2**70, 0.1, -0.0, math.nan, math.inf, -math.inf],
        "betas": (0.9, (0.999, [1, (2,)])),
        "text": "τ² \ud800 \x00 'quoted'",
        "tensors": [
            torch.tensor(3),
            torch.zeros(0, 2),
            torch.arange(6).reshape(2, 3).t(),
            torch.tensor([1.5, math.nan], dtype=torch.bfloat16).nan_to_num(7.0),
            torch.tensor([True, False]),
            torch.Generator().manual_seed(1).get_state(),
        ],
        "tied": [shared, shared, shared[1:]],
    }
    reports = [{"epoch": 1, "val_loss": 0.1 + 0.2}, {"epoch": 2, "val_loss": math.inf}]
    checkpoint.save(tmp_path, 2, state, reports)
    saved = checkpoint.load_newest(tmp_path)
    _same(saved.state, state)
    _same(saved.reports, reports)


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"bytes", len])
def test_nothing_but_data_is_written(tmp_path, thing):
    with pytest.raises(TypeError, match=type(thing).__name__):
        checkpoint.save(tmp_path, 1, {"deep": [{"down": thing}]}, [])
    assert _epochs(tmp_path) == []


@pytest.mark.faults
def test_the_two_newest_by_epoch_stay_whatever_the_clock_says(tmp_path):
    for epoch in (999_998, 999_999, 1_000_000):
        path = checkpoint.save(tmp_path, epoch, {}, [])
        os.utime(path, (2e9 - epoch, 2e9 - epoch))
    assert _epochs(tmp_path) == [999_999, 1_000_000]
    assert checkpoint.load_newest(tmp_path).epoch == 1_000_000


def test_epochs_that_were_abandoned_do_not_displace_new_ones(tmp_path):
    for epoch in (8, 9):
        checkpoint.save(tmp_path, epoch, {}, [])
    checkpoint.save(tmp_path, 3, {}, [])
    assert _epochs(tmp_path) == [3]
    checkpoint.save(tmp_path, 4, {}, [])
    checkpoint.save(tmp_path, 5, {}, [])
    checkpoint.discard_after(tmp_path, 4)
    assert _epochs(tmp_path) == [4]


def test_nothing_saved_is_nothing_found(tmp_path):
    assert checkpoint.load_newest(tmp_path / "missing") is None
    (tmp_path / ".epoch-000003.safetensors.0af3").write_bytes(b"half")
    (tmp_path / "epoch-3.txt").write_text("a stranger")
    assert checkpoint.load_newest(tmp_path) is None
    checkpoint.save(tmp_path, 2, {"a": 1}, [])
    assert checkpoint.load_newest(tmp_path).state == {"a": 1}


def _altered(content):
    """Still valid JSON of the same length, but not what was written."""
    assert b"13" in content
    return content.replace(b"13", b"14")


DAMAGES = {
    "truncated": lambda content: content[:-3],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: b"\xff" * 64,
    "flipped bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "altered number": _altered,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.faults
def test_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, caplog, damage):
    paths = [
        checkpoint.save(tmp_path, epoch, {"at": epoch, "t": torch.arange(5.0)}, [{"epoch": epoch}])
        for epoch in (12, 13)
    ]
    paths[1].write_bytes(damage(paths[1].read_bytes()))
    with caplog.at_level(logging.WARNING):
        saved = checkpoint.load_newest(tmp_path)
    assert (saved.epoch, saved.state["at"], saved.reports) == (12, 12, [{"epoch": 12}])
    assert str(paths[1]) in caplog.text
    assert str(paths[0]) not in caplog.text

    paths[0].write_bytes(damage(paths[1].read_bytes() + b"13"))
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_newest(tmp_path) is None
    assert str(paths[0]) in caplog.text


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"state": "{", "reports": "[]"},
        {"state": json.dumps({"tensor": "7"}), "reports": "[]"},
        {"state": json.dumps({"dict": 7}), "reports": "[]"},
        {"state": json.dumps({"dict": [[[], 1]]}), "reports": "[]"},
    ],
    ids=["none", "no JSON", "missing tensor", "no pairs", "list as a key"],
)
@pytest.mark.faults
def test_file_that_is_no_checkpoint_counts_as_damaged(tmp_path, caplog, metadata):
    checkpoint.save(tmp_path, 12, {}, [])
    path = cache.store(tmp_path, "epoch-000013", {"0": torch.zeros(1)}, metadata)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_newest(tmp_path).epoch == 12
    assert str(path) in caplog.text


def test_unreadable_file_is_passed_over(tmp_path, caplog):
    checkpoint.save(tmp_path, 12, {}, [])
    (tmp_path / "epoch-000013.safetensors").mkdir()
    assert checkpoint.load_newest(tmp_path).epoch == 12
    assert "epoch-000013" in caplog.text


def test_failed_write_leaves_those_before_it(tmp_path, monkeypatch):
    for epoch in (1, 2):
        checkpoint.save(tmp_path, epoch, {"at": epoch}, [])

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 3, {"at": 3}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-000001.safetensors",
        "epoch-000002.safetensors",
    ]
    assert checkpoint.load_newest(tmp_path).state == {"at": 2}

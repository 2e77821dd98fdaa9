import os

import numpy as np
import pytest
import torch
from PIL import Image

from trainables import datasets, held_out, sizes
from trainables.config import ImageDataset
from trainables.sources import pictures
from trainables.sources.common import DataError

SHAPE = (12, 10)
"""Height and width."""


def _picture(path, seed, shape=SHAPE, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path):
    seed = 0
    for split, each in (("train", 6), ("test", 2)):
        for name in ("cat", "Ant", "bee"):
            for index in range(each):
                _picture(tmp_path / "pics" / split / name / f"{index}.png", seed := seed + 1)
    (tmp_path / "pics" / "train" / "cat" / "Thumbs.db").write_bytes(b"not a picture")
    (tmp_path / "pics" / "train" / ".hidden").mkdir()
    return tmp_path / "pics"


def _config(root, **options):
    return ImageDataset(name="imagefolder", root=str(root), **options)


def test_classes_are_the_sorted_names_of_folders(root):
    train = datasets.read(_config(root), "train")
    assert train.classes == 3
    assert train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    expected = np.asarray(Image.open(root / "train" / "bee" / "2.png")).transpose(2, 0, 1)
    assert np.array_equal(train.images[8].numpy(), expected)
    assert held_out.load_test(_config(root))[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_described_sizes_are_the_loaded_sizes(root):
    for options in ({}, {"image_size": 8}, {"subset": 0.5, "validation": 0.2}):
        info, splits = (
            sizes.describe(_config(root, **options)),
            datasets.load(_config(root, **options)),
        )
        assert info == sizes.DatasetInfo(len(splits.labels), splits.classes, splits.shape)


def test_other_names_of_the_splits_and_deeper_folders_are_found(root):
    (root / "train").rename(root / "Training")
    (root / "Training" / "bee").rename(root / "Training" / "bees")
    (root / "Training" / "bee" / "deep").mkdir(parents=True)
    (root / "Training" / "bees").rename(root / "Training" / "bee" / "deep" / "down")
    train = datasets.read(_config(root, train="Training"), "train")
    assert train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_grey_scale_stays_one_channel(root):
    for path in root.rglob("*.png"):
        _picture(path, 0, mode="L")
    train = datasets.read(_config(root), "train")
    assert train.images.shape == (18, 1, *SHAPE)
    assert sizes.describe(_config(root)).shape == (1, *SHAPE)
    assert held_out.load_test(_config(root))[0].shape == (6, 1, *SHAPE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_pictures_among_coloured_ones_become_rgb(root, mode):
    path = root / "train" / "Ant" / "0.png"
    _picture(path, 5, mode=mode)
    train = datasets.read(_config(root), "train")
    expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(train.images[0].numpy(), expected)


def test_a_late_coloured_picture_among_grey_ones_is_named(root, monkeypatch):
    monkeypatch.setattr(pictures, "_LOOKED_AT", 2)
    for path in root.rglob("*.png"):
        _picture(path, 0, mode="L")
    _picture(root / "train" / "cat" / "5.png", 0)
    with pytest.raises(DataError, match=r"cat/5\.png: in colour"):
        datasets.read(_config(root), "train")


def test_sixteen_bits_are_refused_rather_than_clipped(root):
    path = root / "train" / "Ant" / "1.png"
    Image.fromarray(np.full(SHAPE, 40_000, np.uint16)).save(path)
    with pytest.raises(DataError, match=r"Ant/1\.png: pixels of mode I;16; allowed: 8 bits"):
        datasets.read(_config(root), "train")


def test_the_first_picture_of_another_size_is_named(root):
    _picture(root / "train" / "bee" / "3.png", 0, shape=(12, 11))
    with pytest.raises(DataError, match=r"bee/3\.png: 11x12 pixels, the first has 10x12") as error:
        datasets.read(_config(root), "train")
    assert error.value.key == "image_size"
    assert datasets.read(_config(root, image_size=8), "train").images.shape == (18, 3, 8, 8)


def test_image_size_scales_the_shorter_side_and_cuts_out_the_middle(root):
    # Red, green and blue thirds, each 20 wide: of 60x20 the middle square is the green one.
    stripes = np.zeros((20, 60, 3), np.uint8)
    for channel in range(3):
        stripes[:, 20 * channel : 20 * channel + 20, channel] = 200
    for shape, pixels in (("wide", stripes), ("tall", stripes.transpose(1, 0, 2))):
        Image.fromarray(pixels).save(root / "train" / "Ant" / f"{shape}.png")
    train = datasets.read(_config(root, image_size=10), "train")
    for image in train.images[6:8]:  # after 0.png to 5.png: tall, wide
        assert image[1, 1:-1, 1:-1].eq(200).all()
        assert image[[0, 2], 1:-1, 1:-1].eq(0).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
@pytest.mark.parametrize("left", [0, 30, 0.6])
def test_a_truncated_picture_is_named(root, suffix, left):
    path = root / "train" / "cat" / f"broken.{suffix}"
    _picture(path, 3)
    content = path.read_bytes()
    path.write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    with pytest.raises(DataError, match=rf"{path}: not a picture that can be read: \w+"):
        datasets.load(_config(root))


def test_missing_and_empty_folders_are_named(root, tmp_path):
    with pytest.raises(DataError, match=f"no folder {tmp_path / 'none' / 'train'}"):
        sizes.describe(_config(tmp_path / "none"))
    (root / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=rf"{root / 'train' / 'dog'} holds no pictures \(.*\.png"):
        sizes.describe(_config(root))


def test_a_class_of_the_test_set_alone_is_refused(root):
    _picture(root / "test" / "dog" / "0.png", 0)
    with pytest.raises(DataError, match=r"test/dog: no such class"):
        held_out.load_test(_config(root))


def test_without_test_pictures_a_search_can_run_and_its_confirmation_says_why_not(root):
    (root / "test").rename(root / "elsewhere")
    assert len(datasets.load(_config(root)).labels) == 16
    with pytest.raises(DataError, match="has no test set"):
        held_out.load_test(_config(root))


def test_decoded_pictures_are_cached_until_a_file_changes(root, tmp_path, monkeypatch):
    config, cached = _config(root), tmp_path / "cache"
    first = datasets.read(config, "train", cached)
    decode = pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda *a: pytest.fail("decoded again"))
    again = datasets.read(config, "train", cached)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert again.classes == 3
    # Same name, size and content, another time.
    changed = root / "train" / "cat" / "0.png"
    os.utime(changed, ns=(1, 1))
    monkeypatch.setattr(pictures, "decode", decode)
    datasets.read(config, "train", cached)
    datasets.read(_config(root, image_size=8), "train", cached)
    held_out.load_test(config, cached)
    names = [path.name.rsplit("-", 1)[0] for path in cached.iterdir()]
    assert sorted(names) == ["images-imagefolder-test"] + 3 * ["images-imagefolder-train"]


def test_a_new_training_class_renames_the_cached_test_labels(root, tmp_path):
    assert held_out.load_test(_config(root), tmp_path)[1].tolist() == [0, 0, 1, 1, 2, 2]
    _picture(root / "train" / "aardvark" / "0.png", 0)
    assert held_out.load_test(_config(root), tmp_path)[1].tolist() == [0, 0, 2, 2, 3, 3]


def test_progress_is_told_about_a_hundred_times_and_to_the_end(tmp_path):
    _picture(tmp_path / "one.png", 0)
    named = [("one", (tmp_path / "one.png").read_bytes())] * 2500
    calls = []
    out = pictures.decode(named, 2500, (3, *SHAPE), None, lambda *call: calls.append(call))
    assert (out == out[0]).all()
    assert calls[-1] == (2500, 2500)
    assert len(calls) <= 100
    assert calls == sorted(set(calls))

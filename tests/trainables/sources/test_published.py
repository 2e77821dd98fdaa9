"""Fashion-MNIST, CIFAR and SVHN, small, in the exact formats of their files."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets

from trainables import datasets, held_out, sizes
from trainables.config import ImageDataset
from trainables.parts import PATH_VARIABLE
from trainables.sources import cifar, fashion_mnist, svhn
from trainables.sources.common import DataError


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _write_fashion(folder: Path, suffix: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = {}
    for prefix, count in (("train", 40), ("t10k", 20)):
        images[prefix] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        _write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images[prefix])
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)
    return images


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [("", ".gz"), ("", ""), ("FashionMNIST/raw", ""), ("FashionMNIST/raw", ".gz")],
)
def test_fashion_mnist_is_read_from_where_debian_and_torchvision_put_it(tmp_path, folder, suffix):
    images = _write_fashion(tmp_path / folder, suffix)
    config = ImageDataset(name="fashion_mnist", root=str(tmp_path))
    train = datasets.read(config, "train")
    assert train.images.shape == (40, 1, 28, 28)
    assert np.array_equal(train.images[:, 0].numpy(), images["train"])
    assert train.labels.tolist() == [i % 10 for i in range(40)]
    assert train.labels.dtype == torch.int64
    test_images, _ = held_out.load_test(config)
    assert np.array_equal(test_images[:, 0].numpy(), images["t10k"])
    assert datasets.load(config).augmentation == "crop-flip"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-20], "cannot be read"),
        (lambda content: content[:30] + b"\xff" * 8 + content[38:], "cannot be read"),
        (lambda content: b"", "is not an IDX file"),
        (lambda content: gzip.compress(b"hello, world"), "is not an IDX file"),
        (
            lambda content: gzip.compress(gzip.decompress(content)[:-1]),
            "is damaged: 31359 bytes instead",
        ),
    ],
    ids=["truncated", "flipped", "empty", "something else", "short"],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, message):
    _write_fashion(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} ({message})"):
        datasets.load(ImageDataset(name="fashion_mnist", root=str(tmp_path)))


def _pin_md5s(monkeypatch, kind, folder):
    """Let torchvision expect the files that are there."""

    def pinned(name):
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, [pinned(name) for name in names])
    meta = {**kind.meta, "md5": pinned(kind.meta["filename"])[1]}
    monkeypatch.setattr(kind, "meta", meta)


def _write_cifar(monkeypatch, root: Path, classes: int) -> np.ndarray:
    """Five images a batch; returns those of the training set, `[n, 3, 32, 32]`."""
    kind = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}[classes]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    written = []
    for name, _ in [*kind.train_list, *kind.test_list]:
        data = rng.integers(0, 256, (5, 3072), np.uint8)
        key = "labels" if classes == 10 else "fine_labels"
        # The authors' files have byte strings for keys; latin1 makes them text.
        entry = {"data": data, key: [0, 1, 2, 3, classes - 1]}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
        if [name] in [listed[:1] for listed in kind.train_list]:
            written.append(data)
    meta = {kind.meta["key"]: [str(label) for label in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta, protocol=2))
    _pin_md5s(monkeypatch, kind, folder)
    return np.concatenate(written).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_from_its_pickled_batches(tmp_path, monkeypatch, classes):
    written = _write_cifar(monkeypatch, tmp_path, classes)
    config = ImageDataset(name=f"cifar{classes}", root=str(tmp_path))
    train = datasets.read(config, "train")
    assert train.classes == classes
    assert np.array_equal(train.images.numpy(), written)
    assert train.labels.tolist()[:5] == [0, 1, 2, 3, classes - 1]
    assert held_out.load_test(config)[0].shape == (5, 3, 32, 32)
    assert datasets.load(config).augmentation == "crop-flip"


def test_a_damaged_cifar_batch_is_named_and_never_unpickled(tmp_path, monkeypatch):
    _write_cifar(monkeypatch, tmp_path, 10)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(DataError, match=f"{path} is damaged: its MD5"):
        datasets.load(ImageDataset(name="cifar10", root=str(tmp_path)))


def _write_svhn(monkeypatch, root: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    kind = torchvision.datasets.SVHN
    listed = dict(kind.split_list)
    images = {}
    for split in ("train", "test"):
        images[split] = rng.integers(0, 256, (32, 32, 3, 20), np.uint8)
        labels = (np.arange(20) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for the digit 0
        path = root / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images[split], "y": labels}, do_compression=True)
        url, name, _ = listed[split]
        listed[split] = [url, name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(kind, "split_list", listed)
    return images["train"]


def test_svhn_is_read_from_its_matlab_files_and_cached(tmp_path, monkeypatch):
    written = _write_svhn(monkeypatch, tmp_path)
    config = ImageDataset(name="svhn", root=str(tmp_path))
    train = datasets.read(config, "train", tmp_path / "cache")
    assert np.array_equal(train.images.numpy(), written.transpose(3, 2, 0, 1))
    assert train.labels.tolist() == [i % 10 for i in range(1, 11)] * 2
    (cached,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(scipy.io, "loadmat", lambda *a, **k: pytest.fail("read again"))
    again = datasets.read(config, "train", tmp_path / "cache")
    assert torch.equal(again.images, train.images)
    assert cached.name.startswith("images-svhn-train-")
    assert datasets.load(config, tmp_path / "cache").augmentation == "crop"


def test_a_damaged_matlab_file_is_named(tmp_path, monkeypatch):
    _write_svhn(monkeypatch, tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{path} is damaged: its MD5"):
        datasets.load(ImageDataset(name="svhn", root=str(tmp_path)))


def test_a_relative_folder_starts_where_the_search_did(tmp_path, monkeypatch):
    _write_fashion(tmp_path / "data", ".gz")
    config = ImageDataset(name="fashion_mnist", root="data")
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path / "worker")
    with pytest.raises(DataError, match=f"no Fashion-MNIST in {tmp_path}/worker/data"):
        datasets.read(config, "train")
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path))
    assert len(datasets.read(config, "train").labels) == 40


PUBLISHED = {
    "fashion_mnist": (fashion_mnist.SIZE, "FashionMNIST"),
    "cifar10": (cifar.measure(10, ImageDataset(name="cifar10", download=True)), "CIFAR10"),
    "cifar100": (cifar.measure(100, ImageDataset(name="cifar100", download=True)), "CIFAR100"),
    "svhn": (svhn.SIZE, "SVHN"),
}


@pytest.mark.parametrize("ask", [sizes.describe, datasets.load, held_out.load_test])
@pytest.mark.parametrize("name", PUBLISHED)
def test_without_files_the_folder_is_named_and_the_way_to_get_them(tmp_path, name, ask):
    with pytest.raises(DataError, match=f"{tmp_path}.*`download: true`") as error:
        ask(ImageDataset(name=name, root=str(tmp_path)))
    assert error.value.key == "root"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_download_is_left_to_torchvision_and_its_failure_explained(tmp_path, monkeypatch, name):
    size, kind = PUBLISHED[name]

    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(getattr(torchvision.datasets, kind), "download", offline)
    config = ImageDataset(name=name, root=str(tmp_path / "new"), download=True)
    info = sizes.describe(config)
    assert info.train_samples == size.samples - round(0.1 * size.samples)
    with pytest.raises(DataError, match=f"cannot fetch .*{tmp_path / 'new'}: no network"):
        datasets.load(config)

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainables import datasets, held_out, sizes
from trainables.config import ImageDataset
from trainables.sources.common import DataError


def _encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _write(path, labels, image="img", label="label", names=None, seed=0, contents=None):
    """A file as Hugging Face's `datasets` writes it; returns the pixels `[n, 6, 5, 3]`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 6, 5, 3), np.uint8)
    contents = contents or [_encode(each) for each in pixels]
    rows = [{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(contents)]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(rows, struct), label: pa.array(labels, pa.int64())})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return pixels


def _config(root, **options):
    return ImageDataset(name="parquet", root=str(root), **options)


LABELS = [0, 1, 2, 1, 0, 2, 2, 1, 0, 0]


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_images_and_labels_are_read_from_hugging_faces_columns(tmp_path, image, label):
    pixels = _write(tmp_path / "train.parquet", LABELS, image, label)
    tested = _write(tmp_path / "test.parquet", [2, 1], image, label, seed=1)
    train = datasets.read(_config(tmp_path), "train")
    assert np.array_equal(train.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert train.labels.tolist() == LABELS
    assert train.classes == 3
    images, labels = held_out.load_test(_config(tmp_path))
    assert np.array_equal(images.numpy(), tested.transpose(0, 3, 1, 2))
    assert labels.tolist() == [2, 1]


def test_shards_are_found_by_the_patterns_in_their_paths_and_joined_in_order(tmp_path):
    first = _write(tmp_path / "data" / "train-00000-of-00002-ab.parquet", LABELS[:5], seed=1)
    second = _write(tmp_path / "data" / "train-00001-of-00002-cd.parquet", LABELS[5:], seed=2)
    _write(tmp_path / "data" / "valid-00000.parquet", [1], seed=3)
    train = datasets.read(_config(tmp_path, test="valid"), "train")
    both = np.concatenate([first, second]).transpose(0, 3, 1, 2)
    assert np.array_equal(train.images.numpy(), both)
    assert train.labels.tolist() == LABELS
    assert held_out.load_test(_config(tmp_path, test="valid"))[1].tolist() == [1]


def test_described_sizes_are_the_loaded_sizes(tmp_path):
    _write(tmp_path / "train-0.parquet", LABELS)
    _write(tmp_path / "train-1.parquet", LABELS)
    for options in ({}, {"image_size": 4}, {"subset": 0.7, "validation": 0.25}):
        config = _config(tmp_path, **options)
        info, splits = sizes.describe(config), datasets.load(config)
        assert info == sizes.DatasetInfo(len(splits.labels), splits.classes, splits.shape)


def test_classes_come_from_the_schema_where_it_knows_them(tmp_path):
    _write(tmp_path / "train.parquet", LABELS, names=["a", "b", "c", "d"])
    assert sizes.describe(_config(tmp_path)).classes == 4
    assert datasets.load(_config(tmp_path)).classes == 4


def test_jpegs_and_grey_scale_are_read(tmp_path):
    grey = [_encode(np.full((6, 5), 9 * i, np.uint8), "JPEG") for i in range(10)]
    _write(tmp_path / "train.parquet", LABELS, contents=grey)
    images = datasets.read(_config(tmp_path), "train").images
    assert images[:, 0, 0, 0].tolist() == [9 * i for i in range(10)]
    assert images.shape == (10, 1, 6, 5)


def test_a_broken_picture_is_named_by_file_and_row(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    contents = [_encode(noise)] * 10
    contents[7] = contents[7][:90]
    _write(tmp_path / "train.parquet", LABELS, contents=contents)
    with pytest.raises(DataError, match=r"train\.parquet, row 7: not a picture"):
        datasets.load(_config(tmp_path))
    contents[7] = None
    _write(tmp_path / "train.parquet", LABELS, contents=contents)
    with pytest.raises(DataError, match=r"train\.parquet, row 7: no bytes"):
        datasets.load(_config(tmp_path))


@pytest.mark.parametrize("left", [0, 100, -3])
def test_a_truncated_file_is_named(tmp_path, left):
    path = tmp_path / "train.parquet"
    _write(path, LABELS)
    path.write_bytes(path.read_bytes()[:left])
    for ask in (sizes.describe, datasets.load):
        with pytest.raises(DataError, match=f"{path} cannot be read"):
            ask(_config(tmp_path))


def test_labels_outside_the_classes_are_refused(tmp_path):
    _write(tmp_path / "train.parquet", [0, 1, 4, 1], names=["a", "b", "c"])
    with pytest.raises(DataError, match=r"parquet, train set: sample 2 has label 4; .* 0 to 2"):
        datasets.load(_config(tmp_path))
    _write(tmp_path / "train.parquet", LABELS)
    _write(tmp_path / "test.parquet", [0, -1])
    with pytest.raises(DataError, match=r"parquet, test set: sample 1 has label -1"):
        held_out.load_test(_config(tmp_path))
    _write(tmp_path / "train.parquet", [0, None, 1])
    with pytest.raises(DataError, match="1 rows have no label"):
        datasets.load(_config(tmp_path))


def test_other_columns_are_refused_with_those_that_are_needed(tmp_path):
    _write(tmp_path / "train.parquet", LABELS, image="picture")
    with pytest.raises(DataError, match="has columns picture, label; it needs img or image, and"):
        sizes.describe(_config(tmp_path))
    pq.write_table(pa.table({"img": ["a.png"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="column img must be a struct with a field `bytes`"):
        sizes.describe(_config(tmp_path))


def test_files_that_are_missing_or_match_twice_are_refused(tmp_path):
    with pytest.raises(DataError, match=rf"no file \*train\*\.parquet in {tmp_path}"):
        sizes.describe(_config(tmp_path))
    _write(tmp_path / "other.parquet", LABELS)
    with pytest.raises(DataError, match=r"others there: other\.parquet"):
        sizes.describe(_config(tmp_path))
    _write(tmp_path / "train-and-test.parquet", LABELS)
    with pytest.raises(DataError, match=r"train-and-test\.parquet matches both patterns") as error:
        sizes.describe(_config(tmp_path))
    assert error.value.key == "train"


def test_without_test_files_a_search_can_run_and_its_confirmation_says_why_not(tmp_path):
    _write(tmp_path / "train.parquet", LABELS)
    assert len(datasets.load(_config(tmp_path)).labels) == 9
    with pytest.raises(DataError, match="has no test set"):
        held_out.load_test(_config(tmp_path))


def test_decoded_images_are_cached_until_a_file_changes(tmp_path):
    cached = tmp_path / "cache"
    _write(tmp_path / "pq" / "train.parquet", LABELS, seed=1)
    calls = []

    def read():
        return datasets.read(
            _config(tmp_path / "pq"), "train", cached, lambda *call: calls.append(call)
        )

    first = read()
    assert calls == [(10, 10)]
    assert torch.equal(read().images, first.images)
    assert calls == [(10, 10)]
    _write(tmp_path / "pq" / "train.parquet", LABELS, seed=2)
    assert not torch.equal(read().images, first.images)
    assert len(list(cached.iterdir())) == 2

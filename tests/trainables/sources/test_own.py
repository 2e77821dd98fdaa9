import os
import textwrap

import pytest

from trainables import datasets, held_out, sizes
from trainables.config import ImageDataset
from trainables.parts import PATH_VARIABLE
from trainables.sources.common import DataError

GOOD = """
    import torch
    from trainables.config import ImageDataset
    from trainables.datasets import Source

    def make(config: ImageDataset, **changes) -> Source:
        parts = {
            "images": torch.arange(20 * 12).to(torch.uint8).reshape(20, 3, 2, 2),
            "labels": torch.arange(20) % 4,
            "classes": 4,
            "test": lambda: (torch.zeros(6, 3, 2, 2, dtype=torch.uint8), torch.arange(6) % 4),
        }
        return Source(**parts | changes)
"""


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """Writes a user's module with a function `mine` and returns its name."""
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    count = iter(range(100))

    def write(body):
        module = f"own_{os.getpid()}_{abs(hash(request.node.name))}_{next(count)}"
        content = f"{textwrap.dedent(GOOD)}\ndef mine(config):\n    {body}\n"
        (tmp_path / f"{module}.py").write_text(content)
        return ImageDataset(name=f"{module}:mine")

    return write


def test_a_users_function_is_split_like_any_source(own, tmp_path):
    config = own("return make(config)")
    splits = datasets.load(config, tmp_path / "cache")
    assert sizes.describe(config) == sizes.DatasetInfo(18, 4, (3, 2, 2))
    assert len(splits.labels) == 18
    assert splits.shape == (3, 2, 2)
    assert splits.augmentation == "crop-flip"
    assert held_out.load_test(config)[1].tolist() == [0, 1, 2, 3, 0, 1]
    assert not (tmp_path / "cache").exists()


def test_a_users_function_reads_the_configuration(own):
    config = own("return make(config, classes=config.image_size)")
    assert sizes.describe(config.model_copy(update={"image_size": 7})).classes == 7


def test_no_test_set_is_allowed_until_it_is_asked_for(own):
    config = own("return make(config, test=None)")
    assert len(datasets.load(config).labels) == 18
    with pytest.raises(DataError, match=f"{config.name} has no test set"):
        held_out.load_test(config)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "must return a trainables.datasets.Source, it returned a NoneType"),
        ("return 1 / 0", r"failed: ZeroDivisionError\('division by zero'\)"),
        (
            "return make(config, images=torch.zeros(20, 3, 2, 2))",
            "images must be a tensor of uint8, found torch.float32",
        ),
        ("return make(config, labels=[0, 1])", "labels must be a tensor of int64, found list"),
        ("return make(config, labels=torch.zeros(20).int())", "of int64, found torch.int32"),
        ("return make(config, labels=torch.arange(19) % 4)", r"int64 \[20\].* found int64 \[19\]"),
        ("return make(config, labels=torch.arange(20) % 5)", "sample 4 has label 4; .*0 to 3"),
        ("return make(config, labels=torch.arange(20) % 4 - 1)", "sample 0 has label -1"),
        ("return make(config, classes=1)", "1 classes; at least 2"),
        (
            "return make(config, images=torch.zeros(20, 2, 2, dtype=torch.uint8))",
            r"uint8 \[n, C, H, W\], found uint8 \[20, 2, 2\]",
        ),
        ("return make(config, test=3)", "test must be a function or None, found a int"),
        (
            "return make(config, images=torch.empty(0, 3, 2, 2, dtype=torch.uint8), "
            "labels=torch.empty(0, dtype=torch.int64))",
            "returned no training images",
        ),
    ],
)
def test_what_is_not_in_the_documented_form_is_refused_by_the_functions_name(own, body, message):
    config = own(body)
    for ask in (sizes.describe, datasets.load):
        with pytest.raises(DataError, match=f"{config.name}.*{message}") as error:
            ask(config)
        assert error.value.key == "name"


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6) % 4)",
            r"test images are \[1, 2, 2\], training images \[3, 2, 2\]",
        ),
        (
            "(torch.zeros(6, 3, 2, 2, dtype=torch.uint8), torch.full((6,), 9))",
            "test set: sample 0 has label 9",
        ),
        ("1 / 0", r"test set failed: ZeroDivisionError\('division by zero'\)"),
        ("3", "test set failed: TypeError"),
    ],
)
def test_a_bad_test_set_troubles_nobody_until_it_is_asked_for(own, test, message):
    config = own(f"return make(config, test=lambda: {test})")
    assert sizes.describe(config).train_samples == 18
    assert len(datasets.load(config).labels) == 18
    with pytest.raises(DataError, match=f"{config.name}.*{message}") as error:
        held_out.load_test(config)
    assert error.value.key == "name"


def test_a_function_that_does_not_exist_is_named():
    with pytest.raises(DataError, match=r"^no_such_module:f: no module 'no_such_module'") as error:
        sizes.describe(ImageDataset(name="no_such_module:f"))
    assert error.value.key == "name"

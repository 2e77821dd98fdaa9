"""Whole searches on real images, where they are installed."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, kdcurve

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"
"""Hugging Face's Parquet files, beside a checkout that has them."""
SUBSET = 0.03


def smoke(folder: Path, config: str, root: str, data: Path, name: str) -> list[dict]:
    """Run the smoke form of a bundled search on data that lie elsewhere; its answers."""
    text = (ROOT / "configs" / config).read_text(encoding="utf-8").replace("subset: 0.2, ", "")
    assert root in text
    (folder / "search.yaml").write_text(
        text.replace(root, f"root: {data}, subset: {SUBSET}"), encoding="utf-8"
    )
    finished = kdcurve(folder, "search", "search.yaml", "--smoke")
    assert finished.code == 0, finished.output + finished.errors
    asked = kdcurve(folder, "best", name, "--format", "json")
    assert asked.code == 0, asked.errors
    return json.loads(asked.output)


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_a_search_runs_on_fashion_mnist(tmp_path):
    rows = smoke(
        tmp_path,
        "fashion_mnist.yaml",
        "root: data, download: true",
        FASHION_MNIST,
        "fashion-mnist-smoke",
    )
    assert {row["method"] for row in rows} == {"random", "el2n"}
    assert {row["dataset"] for row in rows} == {"fashion_mnist"}


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.is_dir(), reason="CIFAR-10 as Parquet is not beside the checkout")
def test_a_search_runs_on_cifar10_as_parquet(tmp_path):
    rows = smoke(
        tmp_path, "small/cifar10.yaml", "root: data/cifar10", CIFAR10, "small-cifar10-smoke"
    )
    assert {row["method"] for row in rows} == {"random", "forgetting"}
    assert all(row["n_complete"] >= 5 for row in rows)

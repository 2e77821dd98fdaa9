import pytest
import torch

from trainables import datasets
from trainables.config import ImageDataset, Recipe


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def noisy_digits() -> datasets.Splits:
    return datasets.load(ImageDataset(name="digits", label_noise=0.2))


@pytest.fixture
def few_digits() -> datasets.Splits:
    """The first 200 training samples: enough where only the mechanics matter."""
    whole = datasets.load(ImageDataset(name="digits", label_noise=0.2))
    return datasets.Splits(
        images=whole.images[:200],
        labels=whole.labels[:200],
        clean_labels=whole.clean_labels[:200],
        val_images=whole.val_images,
        val_labels=whole.val_labels,
        classes=whole.classes,
        mean=whole.mean,
        std=whole.std,
    )


@pytest.fixture
def short_recipe() -> Recipe:
    return Recipe(epochs=4, batch_size=32, lr=0.05)

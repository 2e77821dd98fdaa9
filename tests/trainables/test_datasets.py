import pytest
import torch

from trainables import datasets, sizes
from trainables.config import CLASSIFICATION_DATASETS, ImageDataset, RidgeDataset


def _rows(images):
    return {image.numpy().tobytes() for image in images}


def test_every_named_data_set_has_a_source_and_a_size():
    assert set(CLASSIFICATION_DATASETS) == set(datasets.SOURCES) == set(sizes.IMAGE_SOURCES)


@pytest.mark.parametrize("validation", [0.1, 0.25, 0.333])
def test_described_sizes_are_the_loaded_sizes(validation):
    config = ImageDataset(name="digits", validation=validation)
    info, splits = sizes.describe(config), datasets.load(config)
    assert info.train_samples == len(splits.images) == len(splits.labels)
    assert info.shape == splits.shape
    assert info.classes == splits.classes == len(splits.labels.unique())
    assert len(splits.val_images) + info.train_samples == 1437


def test_ridge_is_described_by_its_configuration():
    assert sizes.describe(RidgeDataset(name="ridge", samples=50, dimension=3)) == sizes.DatasetInfo(
        50, 1, (3,)
    )


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 259), (0.37, 478)])
def test_label_noise_changes_exactly_its_share_to_other_classes(share, count):
    splits = datasets.load(ImageDataset(name="digits", label_noise=share))
    assert int((splits.labels != splits.clean_labels).sum()) == count
    assert 0 <= int(splits.labels.min()) <= int(splits.labels.max()) < 10


def test_label_noise_draws_the_other_classes_uniformly():
    clean = torch.full((30_000,), 3)
    noisy = datasets.add_label_noise(clean, 4, 0.9, seed=1)
    counts = torch.bincount(noisy, minlength=4)
    assert counts[3] == 3000
    assert (counts[:3] - 9000).abs().max() < 400


def test_label_noise_leaves_validation_and_split_as_they_are():
    clean = datasets.load(ImageDataset(name="digits"))
    noisy = datasets.load(ImageDataset(name="digits", label_noise=0.4))
    assert torch.equal(clean.val_labels, noisy.val_labels)
    assert torch.equal(clean.val_images, noisy.val_images)
    assert torch.equal(clean.images, noisy.images)
    assert torch.equal(clean.labels, noisy.clean_labels)


def test_training_validation_and_test_are_disjoint():
    config = ImageDataset(name="digits")
    splits = datasets.load(config)
    test_images, test_labels = datasets.load_test(config)
    parts = [_rows(splits.images), _rows(splits.val_images), _rows(test_images)]
    assert len(test_labels) == 360
    # Digits holds no two equal images, so disjoint rows mean disjoint samples.
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


def test_test_split_does_not_depend_on_the_configuration():
    one, _ = datasets.load_test(ImageDataset(name="digits", seed=1, validation=0.3))
    two, _ = datasets.load_test(ImageDataset(name="digits", seed=2))
    assert torch.equal(one, two)


def test_validation_is_stratified_and_drawn_by_the_seed():
    splits = datasets.load(ImageDataset(name="digits", seed=1))
    other = datasets.load(ImageDataset(name="digits", seed=2))
    counts = torch.bincount(splits.val_labels)
    share = torch.bincount(splits.clean_labels) + counts
    assert ((counts - share * len(splits.val_labels) / 1437).abs() < 1).all()
    assert not torch.equal(splits.val_images, other.val_images)


def test_the_same_configuration_loads_the_same_splits():
    config = ImageDataset(name="digits", label_noise=0.2, seed=3)
    one = datasets.load(config)
    datasets.load.cache_clear()
    two = datasets.load(config)
    assert one is not two
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("count", [1, 7, 50, 100])
def test_stratified_draws_exact_counts(count):
    labels = torch.tensor([0] * 50 + [1] * 30 + [3] * 20)
    drawn = datasets.stratified(labels, count, datasets.generator("test"))
    assert len(drawn) == len(drawn.unique()) == count
    assert torch.equal(drawn, drawn.sort().values)
    quota = torch.bincount(labels) * count / 100
    assert ((torch.bincount(labels[drawn], minlength=4) - quota).abs() < 1).all()


def test_normalised_training_images_have_zero_mean_and_unit_variance():
    splits = datasets.load(ImageDataset(name="digits"))
    images = datasets.training_samples(splits).images
    assert images.dtype == torch.float32
    assert abs(images.mean().item()) < 1e-5
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_training_samples_keep_images_labels_and_teacher_together():
    splits = datasets.load(ImageDataset(name="digits", label_noise=0.2))
    kept = torch.tensor([5, 2, 900])
    logits = torch.arange(len(splits.labels) * 10.0).reshape(-1, 10)
    samples = datasets.training_samples(splits, kept, logits)
    assert torch.equal(samples.labels, splits.labels[kept])
    assert samples.teacher_logits is not None
    assert samples.teacher_logits[:, 0].tolist() == [50, 20, 9000]
    assert torch.equal(samples.images, datasets.training_samples(splits).images[kept])

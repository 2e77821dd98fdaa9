import pytest
import torch

from trainables import datasets, held_out, sizes
from trainables.augment import AUGMENTATIONS
from trainables.config import CLASSIFICATION_DATASETS, ImageDataset, RidgeDataset
from trainables.sources.common import DataError
from trainables.sources.known import SOURCES


def _rows(images):
    return {image.numpy().tobytes() for image in images}


def test_every_named_data_set_has_a_source():
    assert set(CLASSIFICATION_DATASETS) == set(SOURCES)


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(DataError, match=r"'cifar_10': unknown.*mean 'cifar10'.*fashion_mnist") as e:
        datasets.load(ImageDataset(name="cifar_10"))
    assert e.value.key == "name"


@pytest.mark.parametrize(
    "option", [{"image_size": 32}, {"train": "a"}, {"test": "b"}, {"download": True}]
)
def test_an_option_without_effect_is_refused(option):
    with pytest.raises(DataError, match="has no effect on digits; leave it out") as error:
        sizes.describe(ImageDataset(name="digits", **option))
    assert error.value.key == next(iter(option))


@pytest.mark.parametrize("subset", [1.0, 0.37, 0.05])
@pytest.mark.parametrize("validation", [0.1, 0.25, 0.333])
def test_described_sizes_are_the_loaded_sizes(validation, subset):
    config = ImageDataset(name="digits", validation=validation, subset=subset)
    info, splits = sizes.describe(config), datasets.load(config)
    assert info.train_samples == len(splits.images) == len(splits.labels)
    assert info.shape == splits.shape
    assert info.classes == splits.classes == len(splits.labels.unique())
    used = sizes.count_kept(1437, subset)
    assert len(splits.val_images) + info.train_samples == used


def test_ridge_is_described_by_its_configuration():
    assert sizes.describe(RidgeDataset(name="ridge", samples=50, dimension=3)) == sizes.DatasetInfo(
        50, 1, (3,)
    )


@pytest.mark.parametrize("noise", ["symmetric", "class_dependent"])
@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 259), (0.37, 478)])
def test_label_noise_changes_exactly_its_share_to_other_classes(share, count, noise):
    splits = datasets.load(ImageDataset(name="digits", label_noise=share, noise=noise))
    assert int((splits.labels != splits.clean_labels).sum()) == count
    assert 0 <= int(splits.labels.min()) <= int(splits.labels.max()) < 10


def test_symmetric_noise_draws_the_other_classes_uniformly():
    clean = torch.full((30_000,), 3)
    noisy = datasets.add_label_noise(clean, 4, 0.9, seed=1)
    counts = torch.bincount(noisy, minlength=4)
    assert counts[3] == 3000
    assert (counts[:3] - 9000).abs().max() < 400


def test_class_dependent_noise_always_draws_the_next_class():
    splits = datasets.load(ImageDataset(name="digits", label_noise=0.3, noise="class_dependent"))
    changed = splits.labels != splits.clean_labels
    assert torch.equal(splits.labels[changed], (splits.clean_labels[changed] + 1) % 10)
    assert int(splits.clean_labels[changed].max()) == 9  # some went from the last to the first


def test_label_noise_is_drawn_by_the_seed():
    clean = torch.arange(1000) % 10
    one, again, two = (datasets.add_label_noise(clean, 10, 0.2, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("noise", ["symmetric", "class_dependent"])
def test_label_noise_leaves_validation_and_split_as_they_are(noise):
    clean = datasets.load(ImageDataset(name="digits"))
    noisy = datasets.load(ImageDataset(name="digits", label_noise=0.4, noise=noise))
    assert torch.equal(clean.val_labels, noisy.val_labels)
    assert torch.equal(clean.val_images, noisy.val_images)
    assert torch.equal(clean.images, noisy.images)
    assert torch.equal(clean.labels, noisy.clean_labels)


@pytest.mark.parametrize("subset", [1.0, 0.4])
def test_training_validation_and_test_are_disjoint(subset):
    config = ImageDataset(name="digits", subset=subset)
    splits = datasets.load(config)
    test_images, test_labels = held_out.load_test(config)
    parts = [_rows(splits.images), _rows(splits.val_images), _rows(test_images)]
    assert len(test_labels) == 360
    # Digits holds no two equal images, so disjoint rows mean disjoint samples.
    together = sizes.count_kept(1437, subset) + 360
    assert sum(map(len, parts)) == len(set.union(*parts)) == together


def test_test_split_does_not_depend_on_the_configuration():
    one, _ = held_out.load_test(ImageDataset(name="digits", seed=1, validation=0.3))
    two, _ = held_out.load_test(ImageDataset(name="digits", seed=2, subset=0.1))
    assert torch.equal(one, two)


def test_validation_is_stratified_and_drawn_by_the_seed():
    splits = datasets.load(ImageDataset(name="digits", seed=1))
    other = datasets.load(ImageDataset(name="digits", seed=2))
    counts = torch.bincount(splits.val_labels)
    share = torch.bincount(splits.clean_labels) + counts
    assert ((counts - share * len(splits.val_labels) / 1437).abs() < 1).all()
    assert not torch.equal(splits.val_images, other.val_images)


def test_a_subset_is_stratified_and_drawn_by_the_seed():
    whole = datasets.read(ImageDataset(name="digits"), "train").labels
    splits, other = (
        datasets.load(ImageDataset(name="digits", subset=0.3, seed=seed)) for seed in (1, 2)
    )
    counts = torch.bincount(torch.cat([splits.clean_labels, splits.val_labels]))
    assert counts.sum() == 431
    assert ((counts - torch.bincount(whole) * 431 / 1437).abs() < 1).all()
    assert not _rows(splits.images) <= _rows(torch.cat([other.images, other.val_images]))


def test_the_same_configuration_loads_the_same_splits():
    config = ImageDataset(name="digits", label_noise=0.2, seed=3, subset=0.9)
    one = datasets.load(config)
    assert datasets.load(config) is one
    for seed in range(10, 14):  # as many as a process keeps
        datasets.load(ImageDataset(name="digits", seed=seed))
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


def test_channel_statistics_are_those_of_scaled_pixels():
    rng = datasets.generator("pixels")
    images = torch.randint(0, 256, (5000, 3, 4, 4), generator=rng, dtype=torch.uint8)
    images[:, 1] //= 3
    mean, std = datasets.channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(mean.double(), scaled.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.double(), scaled.std((0, 2, 3)), rtol=1e-6, atol=0)


def test_rendered_training_images_have_zero_mean_and_unit_variance():
    samples = datasets.training_samples(datasets.load(ImageDataset(name="digits")))
    images = samples.on(torch.device("cpu"))
    rendered = images.render(torch.arange(len(images)))
    assert abs(rendered.mean().item()) < 1e-5
    assert rendered.std().item() == pytest.approx(1, abs=1e-4)


def test_training_samples_keep_images_labels_and_noise_together():
    splits = datasets.load(ImageDataset(name="digits", label_noise=0.2))
    kept = torch.tensor([5, 2, 900])
    samples = datasets.training_samples(splits, kept)
    assert torch.equal(samples.images, splits.images[kept])
    assert torch.equal(samples.labels, splits.labels[kept])
    assert samples.noisy is not None
    assert torch.equal(samples.noisy, (splits.labels != splits.clean_labels)[kept])


def test_views_are_counted_as_they_are_rendered():
    assert {name: each.views for name, each in AUGMENTATIONS.items()} == sizes.VIEWS


def test_validation_is_never_augmented():
    splits = datasets.load(ImageDataset(name="digits", augmentation="crop-flip"))
    assert datasets.training_samples(splits).augmentation == "crop-flip"
    assert AUGMENTATIONS[datasets.validation_samples(splits).augmentation].views == 1

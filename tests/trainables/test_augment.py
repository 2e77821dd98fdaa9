import pytest
import torch
import torchvision.transforms.functional as tv

from trainables.augment import AUGMENTATIONS, Augmentation, Images

CPU = torch.device("cpu")
SHAPES = [(3, 32, 32), (1, 8, 8), (3, 5, 9)]


def _stored(shape, count=6):
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def _moments(channels):
    return torch.linspace(0.3, 0.6, channels), torch.linspace(0.2, 0.35, channels)


def _torchvision(images, augmentation, view):
    """View `(top * side + left) * 2 + mirrored`; without mirroring `top * side + left`."""
    place, mirrored = divmod(view, 2) if augmentation.flip else (view, 0)
    top, left = divmod(place, 2 * augmentation.pad + 1)
    height, width = images.shape[-2:]
    cropped = tv.crop(tv.pad(images, [augmentation.pad] * 4), top, left, height, width)
    if mirrored:
        cropped = tv.hflip(cropped)
    mean, std = _moments(images.shape[1])
    return tv.normalize(tv.convert_image_dtype(cropped), mean, std)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_view_is_what_torchvision_makes_bit_for_bit(name, shape):
    augmentation = AUGMENTATIONS[name]
    stored = _stored(shape)
    images = Images(stored, *_moments(shape[0]), augmentation, CPU)
    index = torch.tensor([4, 0, 4])
    for view in range(augmentation.views):
        rendered = images.render(index, torch.full((3,), view))
        assert torch.equal(rendered, _torchvision(stored[index], augmentation, view))


def test_a_batch_mixes_views():
    augmentation = AUGMENTATIONS["crop-flip"]
    stored = _stored((3, 32, 32))
    images = Images(stored, *_moments(3), augmentation, CPU)
    index, views = torch.tensor([5, 1, 1, 0]), torch.tensor([0, 161, 17, 81])
    expected = [
        _torchvision(stored[i : i + 1], augmentation, v)
        for i, v in zip(index.tolist(), views.tolist(), strict=True)
    ]
    assert torch.equal(images.render(index, views), torch.cat(expected))


def test_views_are_as_many_as_crops_times_flips():
    assert [AUGMENTATIONS[name].views for name in ("none", "crop", "crop-flip")] == [1, 81, 162]


@pytest.mark.parametrize(
    "augmentation", [*AUGMENTATIONS.values(), Augmentation(2, flip=True), Augmentation(0, True)]
)
def test_the_clean_view_is_the_image(augmentation):
    stored = _stored((3, 8, 8))
    images = Images(stored, torch.zeros(3), torch.ones(3), augmentation, CPU)
    index = torch.arange(6)
    clean = images.render(index, torch.full((6,), augmentation.clean_view))
    assert torch.equal(clean, stored.float() / 255)
    assert torch.equal(images.render(index), clean)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_come_in_channels_last_order(name, shape):
    images = Images(_stored(shape), *_moments(shape[0]), AUGMENTATIONS[name], CPU)
    for views in (None, torch.zeros(2, dtype=torch.long)):
        batch = images.render(torch.tensor([1, 2]), views)
        assert batch.dtype == torch.float32
        assert batch.shape == (2, *shape)
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_a_rendered_batch_is_a_copy():
    stored = _stored((3, 8, 8))
    images = Images(stored, *_moments(3), AUGMENTATIONS["none"], CPU)
    before = images.render(torch.arange(6)).clone()
    images.render(torch.arange(6)).zero_()
    assert torch.equal(images.render(torch.arange(6)), before)
    assert torch.equal(stored, _stored((3, 8, 8)))

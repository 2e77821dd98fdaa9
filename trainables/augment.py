"""Views of images: cropped, flipped and normalised in batches, on the images' own device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random crops of a padded image, maybe mirrored: finitely many views of each image.

    A view is the integer `top * (2 * pad + 1) + left`, of the crop's corner; with flips twice
    that, plus 1 if mirrored.
    """

    pad: int
    """Black pixels added on each side before an image of the old size is cut out."""
    flip: bool
    """Whether half of the views are mirrored left to right."""

    @property
    def views(self) -> int:
        """How many views an image has (162 for a pad of 4 with flips)."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    @property
    def clean_view(self) -> int:
        """The view that is the image itself."""
        return (2 * self.pad + 2) * self.pad * (2 if self.flip else 1)


AUGMENTATIONS = {
    "none": Augmentation(pad=0, flip=False),
    "crop": Augmentation(pad=4, flip=False),
    "crop-flip": Augmentation(pad=4, flip=True),
}
"""Every augmentation by name; `crop-flip` is the standard one of CIFAR."""


class Images:
    """Images that are rendered a batch at a time.

    Args:
        images: uint8 `[n, C, H, W]`, kept as they are, padded, on `device`.
        mean: float32 `[C]`, of pixels scaled to [0, 1].
        std: float32 `[C]`.
        augmentation: which views there are.
        device: where batches are rendered.
    """

    def __init__(
        self,
        images: Tensor,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation = AUGMENTATIONS["none"],
        device: torch.device | None = None,
    ) -> None:
        self.augmentation = augmentation
        channels, height, width = images.shape[1:]
        self.shape = (channels, height, width)
        # Channels last, as networks want them: a batch is then gathered and scaled in runs.
        padded = F.pad(images, [augmentation.pad] * 4).permute(0, 2, 3, 1).contiguous().to(device)
        # Every crop is a strided view of the padded image: nothing is copied before a batch is.
        crops = padded.unfold(1, height, 1).unfold(2, width, 1)
        self._crops = crops.permute(0, 1, 2, 4, 5, 3)
        self._mean = mean.repeat(width).to(device)
        self._std = std.repeat(width).to(device)

    def __len__(self) -> int:
        return len(self._crops)

    def render(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """Normalised views, float32 `[batch, C, H, W]` in channels-last order.

        Args:
            index: int64 `[batch]`, which images.
            views: int64 `[batch]`, which view of each, in [0, `augmentation.views`); the
                images themselves if None.
        """
        pad, flip = self.augmentation.pad, self.augmentation.flip
        channels, height, width = self.shape
        if views is None:
            batch = self._crops[index, pad, pad]
        else:
            position = views // 2 if flip else views
            side = 2 * pad + 1
            batch = self._crops[index, position // side, position % side]
            if flip:
                mirrored = (views % 2).bool()[:, None, None, None]
                batch = torch.where(mirrored, batch.flip(2), batch)
        rows = batch.reshape(len(index), height, width * channels).float()
        rows.div_(255).sub_(self._mean).div_(self._std)
        return rows.view(len(index), height, width, channels).permute(0, 3, 1, 2)

"""What a teacher says of a batch: looked up in a table, or asked anew."""

from typing import Protocol

import torch
from torch import Tensor, nn


class SoftLabels(Protocol):
    """Teacher logits for a batch of views."""

    def __call__(self, index: Tensor, views: Tensor, images: Tensor) -> Tensor:
        """Logits, float32 `[batch, classes]`.

        Args:
            index: int64 `[batch]`, positions among the kept samples.
            views: int64 `[batch]`, which view of each.
            images: float32 `[batch, C, H, W]`, those views.
        """
        ...


class Table:
    """Logits of every view, computed beforehand: exact, and shared by the trials of a node.

    Args:
        logits: `[views, n, classes]`, or `[1, n, classes]` to use one view for all (`fixed`):
            another recipe, in which teacher and student look at different crops (Beyer et al.
            2022 call it fixed teacher and find it worse).
        kept: int64 `[k]`, the samples that a student is trained on.
        device: of the batches; a table elsewhere than on the CPU is copied, the kept part alone.
    """

    def __init__(self, logits: Tensor, kept: Tensor, device: torch.device) -> None:
        self._single = len(logits) == 1
        if device.type == "cpu":
            self._logits, self._kept = logits, kept
        else:
            self._logits = logits[:, kept].to(device)
            self._kept = torch.arange(len(kept), device=device)

    def __call__(self, index: Tensor, views: Tensor, images: Tensor) -> Tensor:
        """Look the logits up."""
        view = torch.zeros_like(views) if self._single else views
        return self._logits[view, self._kept[index]].float()


class Online:
    """A teacher that is asked about every batch.

    Args:
        model: on the batches' device; put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model.eval()

    def __call__(self, index: Tensor, views: Tensor, images: Tensor) -> Tensor:
        """Ask the teacher."""
        with torch.no_grad():
            logits: Tensor = self._model(images)
        return logits.float()

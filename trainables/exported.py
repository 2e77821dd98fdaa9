"""A student that `kdcurve export` wrote, ready to be asked.

from trainables.exported import load_student

student = load_student("best")  # a torch.nn.Module in evaluation mode
logits = student(images)  # uint8 [n, C, H, W], as in the data set
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from trainables import models

FORMAT = 1
SETTING, WEIGHTS, KEPT = "setting.json", "weights.safetensors", "kept.npy"
"""Files of an export."""


class Exported(nn.Module):
    """A network behind the scaling that its training images had.

    Args:
        network: from scaled images to logits.
        mean: of each channel, of pixels scaled to [0, 1].
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[n, classes]` of images uint8 `[n, C, H, W]`."""
        logits: Tensor = self.network((images.float() / 255 - self.mean) / self.std)
        return logits


def load_setting(folder: str | Path) -> dict[str, Any]:
    """All that is known of an exported student.

    Raises:
        ValueError: the folder holds no export that this version reads.
    """
    path = Path(folder, SETTING)
    try:
        setting: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not an exported setting: {error}") from error
    if setting.get("format") != FORMAT:
        raise ValueError(f"{path} has format {setting.get('format')}; this version reads {FORMAT}")
    return setting


def load_student(folder: str | Path) -> Exported:
    """The network with its weights, on the CPU and in evaluation mode.

    Args:
        folder: that `kdcurve export` wrote.

    Raises:
        ValueError: it holds no export that this version reads.
    """
    setting = load_setting(folder)
    images = setting["images"]
    shape = tuple(images["shape"])
    network = models.build(setting["trial"]["student"], shape, images["classes"], seed=0)
    network.load_state_dict(safetensors.torch.load_file(Path(folder, WEIGHTS)))
    return Exported(network, images["mean"], images["std"]).eval()

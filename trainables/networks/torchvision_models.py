"""Torchvision's classification models, untrained, for images of any kind."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from trainables.networks.cnn import Shape

SMALL_STEM = "stem=small"
_RESNETS = "torchvision.models.resnet"


def names() -> list[str]:
    """Every classification model by torchvision's own name."""
    zoo = _zoo()
    listed: list[str] = zoo.list_models(module=zoo)
    return listed


def parse(name: str) -> tuple[str, bool]:
    """Split `resnet18?stem=small` into torchvision's name and whether the small stem is wanted.

    Raises:
        KeyError: torchvision has no such model.
        ValueError: an unknown option, or a model without such a stem.
    """
    architecture, _, option = name.partition("?")
    if architecture not in names():
        raise KeyError(architecture)
    if option not in ("", SMALL_STEM):
        raise ValueError(f"unknown option {option!r} of model {name!r}; known: {SMALL_STEM}")
    if option and _module(architecture) != _RESNETS:
        raise ValueError(
            f"model {architecture!r} has no small stem; those that have: "
            + ", ".join(each for each in names() if _module(each) == _RESNETS)
        )
    return architecture, bool(option)


def torchvision_model(architecture: str, small_stem: bool, shape: Shape, classes: int) -> nn.Module:
    """An untrained model of torchvision, initialised its own way.

    Its first convolution is exchanged (and drawn as He et al. 2015 do) if images do not have three
    channels, or for the small stem: 3x3, stride 1 and no pooling after it, instead of
    reducing a 32x32 image to 8x8 at once.

    Args:
        architecture: torchvision's name.
        small_stem: of its ResNets, wide and ResNeXt ones included.
        shape: of one image.
        classes: number of logits.
    """
    model: nn.Module = _zoo().get_model(
        architecture, weights=None, num_classes=classes, **_options(architecture, shape)
    )
    path, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if small_stem:
        model.maxpool = nn.Identity()
        geometry: dict[str, Any] = {"kernel_size": 3, "stride": 1, "padding": 1}
    elif shape[0] != first.in_channels:
        geometry = {
            "kernel_size": first.kernel_size,
            "stride": first.stride,
            "padding": first.padding,
        }
    else:
        return model
    bias = first.bias is not None
    stem = nn.Conv2d(shape[0], first.out_channels, bias=bias, **geometry)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(path, stem)
    return model


def _zoo() -> ModuleType:
    """Torchvision's models: with them comes torch's compiler, as long to load as all the rest."""
    from torchvision import models  # noqa: PLC0415

    found: ModuleType = models
    return found


def _module(architecture: str) -> str:
    builder: Callable[..., nn.Module] = _zoo().get_model_builder(architecture)
    return builder.__module__


def _options(architecture: str, shape: Shape) -> dict[str, Any]:
    """What a model has to know of the images, or what keeps it to one output."""
    match _module(architecture).rpartition(".")[2]:
        case "vision_transformer":
            return {"image_size": shape[1]}
        case "maxvit":
            return {"input_size": shape[1:]}
        case "googlenet" | "inception":
            return {"aux_logits": False, "init_weights": True}
    return {}

"""Networks by name: ours, torchvision's, and the user's own."""

import copy
import difflib
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from trainables import parts
from trainables.config import TORCHVISION, is_own
from trainables.networks import torchvision_models
from trainables.networks.cnn import Shape, small_cnn
from trainables.networks.resnet import THIN, WIDE, resnet
from trainables.networks.wide_resnet import wide_resnet

Build = Callable[[Shape, int], nn.Module]
"""From the shape of an image and the number of classes to a network."""

MODELS: dict[str, Build] = {
    **{f"cnn{width}": partial(small_cnn, width) for width in (4, 8, 16, 32, 64)},
    **{f"resnet{depth}": partial(resnet, depth, THIN) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(resnet, depth, WIDE) for depth in (8, 32)},
    **{
        f"wrn-{depth}-{k}": partial(wide_resnet, depth, k)
        for depth, k in ((16, 2), (40, 2), (40, 4))
    },
}
"""Our architectures by name; besides, there are torchvision's and the user's own."""


def check_name(name: str) -> None:
    """Make sure that a name stands for a model, without building it.

    Raises:
        ValueError: unknown; the message lists the known names and the nearest. Or a user's own
            function that cannot be imported.
    """
    _find(name)


def build(name: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """Build a network whose initial weights depend on `seed` alone.

    The global random state stays as it was.

    Args:
        name: of `MODELS`, `torchvision:NAME`, `torchvision:NAME?stem=small` (ResNets only), or
            `package.module:function`, called as `function(shape, classes)`.
        shape: of one image.
        classes: number of logits.
        seed: draws the initial weights.

    Raises:
        ValueError: unknown name, or a network that does not map such images to logits.
    """
    make = _find(name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the GPUs as well.
        torch.default_generator.manual_seed(seed)
        if name in MODELS:
            return MODELS[name](shape, classes)
        try:
            model = make(shape, classes)
        except Exception as error:
            raise ValueError(
                f"model {name} cannot be made for images of shape {shape} and {classes} classes: "
                f"{error!r}"
            ) from error
        _try_out(name, model, shape, classes)
    return model


def count_parameters(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())


def _find(name: str) -> Build:
    if name in MODELS:
        return MODELS[name]
    if is_own(name):
        return parts.find(name, "a model")
    known = list(MODELS)
    if name.startswith(TORCHVISION):
        try:
            parsed = torchvision_models.parse(name.removeprefix(TORCHVISION))
        except KeyError:
            known = [TORCHVISION + each for each in torchvision_models.names()]
        else:
            return partial(torchvision_models.torchvision_model, *parsed)
    nearest = difflib.get_close_matches(name, known, n=1)
    raise ValueError(
        f"unknown model {name!r}"
        + (f" (nearest: {nearest[0]})" if nearest else "")
        + f"; known: {', '.join(known)}"
        + f"; besides {TORCHVISION}NAME and your own package.module:function"
    )


def _try_out(name: str, model: object, shape: Shape, classes: int) -> None:
    """Let two images through a copy of a network that is not ours."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name}: a torch.nn.Module is needed, got {type(model).__name__}")  # noqa: TRY004
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model {name} has no parameters to train")
    tried = copy.deepcopy(model)
    for training in (True, False):
        images = torch.rand(2, *shape)
        before = images.clone()
        try:
            with torch.no_grad():
                logits = tried.train(training)(images)
        except Exception as error:
            cause = (str(error) or repr(error)).splitlines()[0]
            raise ValueError(
                f"model {name} fails on two images of shape {shape}: {cause}"
            ) from error
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if found != [2, classes]:
            raise ValueError(
                f"model {name} maps two images of shape {shape} to {found} instead of "
                f"logits of shape {[2, classes]}"
            )
        # Students of a cohort share a batch.
        if not torch.equal(images, before):
            raise ValueError(f"model {name} changes the images that it is given")

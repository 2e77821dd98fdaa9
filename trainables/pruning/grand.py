"""GraNd: how far a sample alone would move a network early in training."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from trainables.augment import Images
from trainables.config import Pruning, Recipe
from trainables.datasets import Splits
from trainables.models import count_parameters
from trainables.pruning.el2n import errors
from trainables.pruning.proxies import Progress, early_proxy

GRADIENTS_BYTES = 256 * 2**20
"""Memory that the gradients of a chunk of samples may take at a time."""
LARGEST_CHUNK = 32
"""Samples in a chunk at most: their activations are held too, some 8 MiB each in a ResNet-20."""


def score(
    splits: Splits,
    architecture: str,
    recipe: Recipe,
    index: int,
    options: Pruning,
    progress: Progress | None = None,
) -> Tensor:
    """`‖∇ CE(sample)‖₂` over the parameters at an early epoch, one seed's.

    Each sample's own gradient, in evaluation mode (batch norm with its running statistics, so that
    no sample's score depends on its neighbours), of images without augmentation, with noisy labels
    as given. Nothing is divided by a batch size.

    Args:
        splits: of the data set.
        architecture: trained for the scores, usually the student's.
        recipe: as for a student on all the data.
        index: which of the seeds.
        options: `gradient` is `all` for the parameters of the whole network or `last` for those
            of its last linear layer, an approximation at the price of EL2N.
        progress: called with the epochs done and their total.

    Returns:
        float32 `[n]`, at least 0, higher = harder.

    Raises:
        ValueError: `last`, but the network does not end in a linear layer.

    Source:
        Paul, Ganguli & Dziugaite 2021, definition 2.1: the mean over 10 seeds, at initialisation
        and early epochs. DeepCore takes the last layer at initialisation, and divides by
        the size of the batch, so that a last partial batch scores too high.
    """
    norms = {"all": gradient_norms, "last": last_layer_norms}[options.gradient]
    training = early_proxy(splits, architecture, recipe, index, progress)
    cohort = training.cohort
    return norms(training.model, cohort.train_images, cohort.train_labels).cpu()


def gradient_norms(
    model: nn.Module, images: Images, labels: Tensor, chunk: int | None = None
) -> Tensor:
    """Norm of each sample's gradient in all parameters, float32 `[n]` on the model's device.

    Args:
        model: put into evaluation mode.
        images: on the model's device.
        labels: int64 `[n]`, there too.
        chunk: samples at a time; as many as `GRADIENTS_BYTES` and `LARGEST_CHUNK` allow if None.
    """
    model.eval()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, (parameters, buffers), (image[None],))
        return F.cross_entropy(logits.float(), label[None])

    gradients: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, 0, 0))
    size = chunk or chunk_size(count_parameters(model))
    parts = []
    for index in torch.split(torch.arange(len(labels), device=labels.device), size):
        each = gradients(parameters, images.render(index), labels[index])
        squares = [gradient.flatten(1).square().sum(1) for gradient in each.values()]
        parts.append(torch.stack(squares).sum(0).sqrt())
    return torch.cat(parts)


def chunk_size(parameters: int) -> int:
    """Samples whose float32 gradients of so many parameters are held at a time, at least 1."""
    return max(1, min(LARGEST_CHUNK, GRADIENTS_BYTES // (4 * parameters)))


def last_layer_norms(model: nn.Module, images: Images, labels: Tensor, chunk: int = 1024) -> Tensor:
    """Norm of each sample's gradient in the last layer, float32 `[n]` on the model's device.

    With features h and error e = softmax(logits) - onehot(label) the weights' gradient is
    `e hᵀ` and the bias's e, so the norm is `‖e‖ √(‖h‖² + 1)`, or `‖e‖ ‖h‖` without a bias.

    Args:
        model: put into evaluation mode.
        images: on the model's device.
        labels: int64 `[n]`, there too.
        chunk: samples at a time.

    Raises:
        ValueError: the logits do not come from a linear layer.
    """
    model.eval()
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], outputs: Tensor) -> None:
        assert isinstance(layer, nn.Linear)  # noqa: S101  (hooked to no other)
        seen.append((layer, inputs[0], outputs))

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    parts = []
    try:
        with torch.inference_mode():
            for index in torch.split(torch.arange(len(labels), device=labels.device), chunk):
                seen.clear()
                logits = model(images.render(index))
                if not seen or seen[-1][2] is not logits:
                    raise ValueError(
                        "gradient: last is for networks that end in a linear layer, and this "
                        f"{type(model).__name__} does not; gradient: all is for any"
                    )
                layer, features, _ = seen[-1]
                lengths = features.float().square().sum(1) + (layer.bias is not None)
                parts.append(errors(logits, labels[index]).square().sum(1).sqrt() * lengths.sqrt())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(parts)

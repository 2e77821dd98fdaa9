"""How weights are moved: batches, learning rates and optimisers of a recipe."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainables.config import Recipe

_LEAST_BORROWING_BATCH = 3


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Learning rate of the step with this index, counted from 0.

    After the warm-up (a straight line that ends at `recipe.lr`) cosine is
    `lr * (1 + cos(π t)) / 2` and multistep `lr * gamma ** (milestones passed)`, with t the part
    of the whole budget that is spent.

    Source:
        Loshchilov & Hutter 2017, equation 5, without restarts, per step.
    """
    spent = step / total_steps
    if spent < recipe.warmup:
        return recipe.lr * (step + 1) / math.ceil(recipe.warmup * total_steps)
    match recipe.lr_schedule:
        case "cosine":
            return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * spent))
        case "multistep":
            return recipe.lr * recipe.gamma ** sum(spent >= m for m in recipe.milestones)
        case "constant":
            return recipe.lr


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """Sizes of an epoch's batches.

    Batch norm cannot train on a lone sample, so a last batch of 1 borrows one from the
    batch before; the number of batches stays `ceil(samples / batch_size)`.
    """
    full, rest = divmod(samples, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if rest == 1 and full and batch_size >= _LEAST_BORROWING_BATCH:
        sizes[-2:] = [batch_size - 1, 2]
    return sizes


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; its learning rate is set before every step."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give restored buffers the memory layout of their parameters.

    The fused step walks through both as they lie in memory, unchecked; a file or another device
    may have changed the layout.
    """
    for parameter, buffers in optimizer.state.items():
        for name, value in buffers.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                buffers[name] = torch.empty_like(parameter).copy_(value)

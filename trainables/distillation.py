"""The loss: labels and teacher, mixed by the KD weight."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """The training loss and its two parts, each a scalar tensor; a part of weight 0 is None."""

    total: Tensor
    ce: Tensor | None
    kd: Tensor | None

    def detach(self) -> "Loss":
        """The same values without their history."""
        return Loss(*(None if part is None else part.detach() for part in self))  # type: ignore[arg-type]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to hard labels at temperature 1, mean over the batch, in nats.

    Args:
        logits: `[batch, classes]`.
        labels: int64 `[batch]`.
    """
    return F.cross_entropy(logits, labels)


def soft_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`τ² KL(teacher ‖ student)` of both softmaxes at temperature τ.

    Summed over classes, mean over the batch. The factor τ² keeps the gradient's size
    when τ grows.

    Args:
        logits: `[batch, classes]`, of the student.
        teacher_logits: `[batch, classes]`.
        temperature: τ > 0.

    Source:
        Hinton, Vinyals & Dean 2015, section 2. PyTorch's `kl_div` divides by the number of
        elements unless told `batchmean`.
    """
    log_probs = F.log_softmax(logits / temperature, dim=1)
    teacher_log_probs = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(log_probs, teacher_log_probs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    kd_weight: float,
    temperature: float,
) -> Loss:
    """`(1 - α) CE(student, labels) + α τ² KL(teacher ‖ student)`.

    A part of weight 0 is not computed at all: multiplied by 0, a NaN would stay NaN.

    Args:
        logits: `[batch, classes]`, of the student.
        labels: int64 `[batch]`.
        teacher_logits: `[batch, classes]`; may be None if `kd_weight` is 0.
        kd_weight: α in [0, 1].
        temperature: τ > 0.

    Raises:
        ValueError: `kd_weight` is positive and there is no teacher.
    """
    if kd_weight == 0.0:
        ce = cross_entropy(logits, labels)
        return Loss(ce, ce, None)
    if teacher_logits is None:
        raise ValueError(f"a KD weight of {kd_weight} needs a teacher's logits")
    kd = soft_divergence(logits, teacher_logits, temperature)
    if kd_weight == 1.0:
        return Loss(kd, None, kd)
    ce = cross_entropy(logits, labels)
    return Loss((1.0 - kd_weight) * ce + kd_weight * kd, ce, kd)

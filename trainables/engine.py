"""The training loop, for students, teachers and scores alike: plain loops over tensors."""

import copy
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import record
from trainables.config import Recipe
from trainables.datasets import Samples, generator
from trainables.distillation import distillation_loss

Metrics = dict[str, float]
"""One epoch's metrics, named as in `trainables.record`."""

OnBatch = Callable[[Tensor, Tensor], None]
"""Sees a batch's sample indices `[batch]` and its training logits `[batch, classes]`."""

_EVALUATION_BATCH = 2048
_LEAST_BORROWING_BATCH = 3


class Trainable(Protocol):
    """Anything trained epoch by epoch that can be stopped and continued."""

    objective: str
    """The metric to maximise."""
    epoch: int
    """Epochs done so far."""
    epochs: int
    """Epochs of the full budget."""

    def step(self) -> Metrics:
        """Train one epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        ...


class Diverged(ArithmeticError):  # noqa: N818  (an outcome with a name, like StopIteration)
    """The loss became NaN or infinite."""

    def __init__(self, epoch: int, step: int, last_good: Metrics) -> None:
        self.epoch = epoch
        self.step = step
        self.last_good = last_good
        """Metrics of the last finite epoch; empty if there was none."""
        good = ", ".join(f"{name}={value:.4g}" for name, value in last_good.items()) or "none"
        super().__init__(
            f"the loss is not finite in epoch {epoch}, step {step}; last good metrics: {good}"
        )

    def __reduce__(self) -> tuple[type["Diverged"], tuple[int, int, Metrics]]:
        """Pickle by arguments, not by message: Ray carries exceptions between processes."""
        return type(self), (self.epoch, self.step, self.last_good)


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Learning rate of the step with this index, counted from 0.

    Cosine: `lr * (1 + cos(π step / total_steps)) / 2`.

    Source:
        Loshchilov & Hutter 2017, equation 5, without restarts, per step.
    """
    if recipe.lr_schedule == "constant":
        return recipe.lr
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


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


def predict_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits in evaluation mode, float32 `[n, classes]` on the images' device.

    Args:
        model: left in evaluation mode.
        images: float32 `[n, C, H, W]`, on the model's device.
    """
    model.eval()
    with torch.inference_mode():
        parts = [_forward(model, batch) for batch in torch.split(images, _EVALUATION_BATCH)]
    return torch.cat(parts)


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    if images.device.type != "cuda":
        logits: Tensor = model(images)
        return logits
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(images)
    return logits.float()


def evaluate(model: nn.Module, samples: Samples) -> Metrics:
    """Accuracy and mean cross-entropy (nats) on a split."""
    logits = predict_logits(model, samples.images)
    correct = (logits.argmax(1) == samples.labels).float().mean()
    return {
        record.VAL_ACCURACY: correct.item(),
        record.VAL_LOSS: F.cross_entropy(logits, samples.labels).item(),
    }


class Training:
    """One network on its way through a recipe.

    Batch order comes from the seed alone, so that trainings with a common seed see the same
    batches whatever their KD weight. On a CPU, a training restored from `state_dict`
    continues bit for bit.

    Args:
        model: its present weights are where training starts.
        train: the kept samples, with teacher logits if `kd_weight` is positive.
        val: evaluated after every epoch.
        recipe: optimiser, schedule and budget.
        seed: draws the batch order.
        kd_weight: α in [0, 1].
        temperature: τ > 0.
        on_batch: called after every training step.
        device: a GPU if available; there, bf16 autocast and channels_last.
    """

    objective = record.VAL_ACCURACY

    def __init__(  # noqa: PLR0913  (a training has that many parts; four have defaults)
        self,
        model: nn.Module,
        train: Samples,
        val: Samples,
        recipe: Recipe,
        seed: int,
        *,
        kd_weight: float = 0.0,
        temperature: float = 1.0,
        on_batch: OnBatch | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or default_device()
        layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.train_samples = _place(train, self.device, layout)
        self.val_samples = _place(val, self.device, layout)
        self.recipe = recipe
        self.kd_weight = kd_weight
        self.temperature = temperature
        self.on_batch = on_batch
        self.generator = generator("batches", seed)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        samples = len(train.labels)
        self._sizes = batch_sizes(samples, recipe.batch_size)
        self.total_steps = recipe.total_steps(samples)
        self.epochs = recipe.total_epochs(samples)
        self.epoch = 0
        self.steps = 0
        self.seconds = 0.0
        self.last_metrics: Metrics = {}

    def step(self) -> Metrics:
        """Train one epoch and evaluate.

        Returns:
            Metrics by name; `train_kd` is missing at KD weight 0 and `train_ce` at 1, where
            they are not computed.

        Raises:
            Diverged: a batch's loss or the validation loss was not finite.
            RuntimeError: the budget is used up.
        """
        if self.steps >= self.total_steps:
            raise RuntimeError(f"all {self.epochs} epochs are done")
        start = time.perf_counter()
        sizes = self._sizes[: self.total_steps - self.steps]
        losses = self._train_batches(sizes)
        # Looked at once per epoch: asking after every batch would stall the device.
        totals = losses[record.TRAIN_LOSS]
        finite = torch.isfinite(totals)
        if not finite.all():
            first_bad = int((~finite).int().argmax())
            at_step = self.steps - len(sizes) + first_bad + 1
            raise Diverged(self.epoch + 1, at_step, self.last_metrics)
        trained_s = time.perf_counter() - start
        weights = torch.tensor(sizes, device=self.device) / sum(sizes)
        metrics = {name: float((values * weights).sum()) for name, values in losses.items()}
        metrics |= evaluate(self.model, self.val_samples)
        # The last step's own damage shows in no training loss, but NaN logits have an
        # arg max, so it would count as an accuracy.
        if not math.isfinite(metrics[record.VAL_LOSS]):
            raise Diverged(self.epoch + 1, self.steps, self.last_metrics)
        self.epoch += 1
        self.seconds += time.perf_counter() - start
        metrics[record.SAMPLES_PER_S] = sum(sizes) / trained_s
        metrics[record.SECONDS] = self.seconds
        metrics[record.EPOCH] = self.epoch
        self.last_metrics = metrics
        return metrics

    def _train_batches(self, sizes: list[int]) -> dict[str, Tensor]:
        """Take one optimiser step per size; returns the losses of each, `[steps]`."""
        images, labels = self.train_samples.images, self.train_samples.labels
        teacher_logits = self.train_samples.teacher_logits
        order = torch.randperm(len(labels), generator=self.generator).to(self.device)
        losses = []
        self.model.train()
        for batch in torch.split(order[: sum(sizes)], sizes):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe, self.steps, self.total_steps)
            logits = _forward(self.model, images[batch])
            loss = distillation_loss(
                logits,
                labels[batch],
                None if teacher_logits is None else teacher_logits[batch],
                self.kd_weight,
                self.temperature,
            )
            self.optimizer.zero_grad(set_to_none=True)
            loss.total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.steps += 1
            losses.append([None if part is None else part.detach() for part in loss])
            if self.on_batch is not None:
                self.on_batch(batch, logits.detach())
        names = (record.TRAIN_LOSS, record.TRAIN_CE, record.TRAIN_KD)
        columns = zip(names, zip(*losses, strict=True), strict=True)
        return {
            name: torch.stack([part for part in parts if part is not None])
            for name, parts in columns
            if parts[0] is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that training changes: tensors, numbers and containers only."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "epoch": self.epoch,
                "steps": self.steps,
                "seconds": self.seconds,
                "last_metrics": self.last_metrics,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of a training with the same arguments."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        # The fused step walks through a parameter and its buffers as they lie in memory, unchecked;
        # a file or another device may have changed the layout.
        for parameter, buffers in self.optimizer.state.items():
            for name, value in buffers.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    buffers[name] = torch.empty_like(parameter).copy_(value)
        self.generator.set_state(state["generator"].cpu())
        self.epoch = state["epoch"]
        self.steps = state["steps"]
        self.seconds = state["seconds"]
        self.last_metrics = dict(state["last_metrics"])


def _place(samples: Samples, device: torch.device, layout: torch.memory_format) -> Samples:
    logits = samples.teacher_logits
    return Samples(
        samples.images.to(device, memory_format=layout),
        samples.labels.to(device),
        None if logits is None else logits.to(device),
    )


def train(training: Trainable, report: Callable[[Metrics], None] | None = None) -> Metrics:
    """Run a training to the end of its budget.

    Args:
        training: fresh or restored, with at least one epoch to go.
        report: receives every epoch's metrics.

    Returns:
        Metrics of the last epoch.
    """
    metrics: Metrics = {}
    while training.epoch < training.epochs:
        metrics = training.step()
        if report is not None:
            report(metrics)
    return metrics

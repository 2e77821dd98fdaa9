"""The training loop, for students, teachers and scores alike: plain loops over tensors."""

import contextlib
import copy
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import calibration, record
from trainables.augment import Images
from trainables.config import Recipe
from trainables.datasets import Samples, generator
from trainables.distillation import Loss, distillation_loss
from trainables.optimisation import (
    batch_sizes,
    lay_out_like_parameters,
    learning_rate,
    make_optimizer,
)
from trainables.seeds import derive
from trainables.soft_labels import SoftLabels

Metrics = dict[str, float]
"""One epoch's metrics, named as in `trainables.record`."""

OnBatch = Callable[[Tensor, Tensor], None]
"""Sees a batch's sample indices `[batch]` and its training logits `[batch, classes]`."""

_EVALUATION_BATCH = 1024


class Trainable(Protocol):
    """Anything trained epoch by epoch that can be stopped and continued."""

    objective: str
    """The metric to maximise."""

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs of the full budget."""
        ...

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


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The precision of a recipe's forward pass on a device."""
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def predict_logits(model: nn.Module, images: Images, views: Tensor | None = None) -> Tensor:
    """Logits in evaluation mode, float32 `[n, classes]` on the model's device.

    Args:
        model: left in evaluation mode.
        images: on the model's device.
        views: int64 `[n]`, a view of each; the images themselves if None.
    """
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [
            model(images.render(index, None if views is None else views[index])).float()
            for index in torch.split(torch.arange(len(images), device=device), _EVALUATION_BATCH)
        ]
    return torch.cat(parts)


def judge(logits: Tensor, labels: Tensor) -> Metrics:
    """Validation metrics of logits `[n, classes]` against labels int64 `[n]`."""
    scaled = calibration.scale(logits, labels)
    return {
        record.VAL_ACCURACY: (logits.argmax(1) == labels).float().mean().item(),
        record.VAL_LOSS: F.cross_entropy(logits, labels).item(),
        record.VAL_NLL_SCALED: scaled.nll,
        record.VAL_TEMPERATURE: scaled.temperature,
        record.VAL_ECE: calibration.expected_calibration_error(logits, labels),
    }


class Student:
    """One network of a cohort.

    Args:
        model: its present weights are where training starts.
        kd_weight: α in [0, 1].
        temperature: τ > 0.
    """

    def __init__(self, model: nn.Module, kd_weight: float = 0.0, temperature: float = 1.0) -> None:
        self.model = model
        self.kd_weight = kd_weight
        self.temperature = temperature
        self.failure: Diverged | None = None
        """Why it is no longer trained, if so."""
        self.last_metrics: Metrics = {}
        self.val_logits = torch.empty(0)
        """Float32 `[v, classes]`, of the last evaluation; empty before the first."""

    def _place(self, recipe: Recipe, device: torch.device) -> None:
        # Convolutions are fastest with channels last, on GPUs and CPUs alike (measured from
        # cnn8 on 8x8 digits to a ResNet-20).
        self.model = self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward = torch.compile(self.model) if recipe.compile else self.model
        self.optimizer = make_optimizer(self.model.parameters(), recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    def _learn(self, loss: Loss, lr: float, clip_norm: float | None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss.total).backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Cohort:
    """Students that share a context and a seed on their way through a recipe.

    They see the same batches in the same views, rendered and looked up once, and are stepped in
    turn. Each ends exactly as it would alone: what is drawn depends on the seed alone, never on
    a KD weight or on company. One may fail or be dropped without the others.

    Args:
        students: at least one.
        train: the kept samples.
        val: evaluated after every epoch.
        recipe: optimiser, schedule and budget.
        seed: draws the batch order and the views.
        soft_labels: the teacher; needed if a KD weight is positive.
        on_batch: called after every step of a student.
        device: a GPU if available.
    """

    def __init__(
        self,
        students: Sequence[Student],
        train: Samples,
        val: Samples,
        recipe: Recipe,
        seed: int,
        *,
        soft_labels: SoftLabels | None = None,
        on_batch: OnBatch | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or default_device()
        self.students = list(students)
        for student in self.students:
            if student.kd_weight > 0 and soft_labels is None:
                raise ValueError(f"a KD weight of {student.kd_weight} needs a teacher's logits")
            student._place(recipe, self.device)
        self.recipe = recipe
        self.seed = seed
        self.soft_labels = soft_labels
        self.on_batch = on_batch
        self.train_images = train.on(self.device)
        self.train_labels = train.labels.to(self.device)
        self.val_images = val.on(self.device)
        self.val_labels = val.labels.to(self.device)
        self.kept_noisy = None if train.noisy is None else train.noisy.float().mean().item()
        self.lost_classes = train.lost_classes
        self.generator = generator("batches", seed)
        self._draws = _default_generators(self.device)
        samples = len(train.labels)
        self._sizes = batch_sizes(samples, recipe.batch_size)
        self.total_steps = recipe.total_steps(samples)
        self.epochs = recipe.total_epochs(samples)
        self.epoch = 0
        self.steps = 0
        self.seconds = 0.0

    @property
    def alive(self) -> list[Student]:
        """Students that are still trained."""
        return [student for student in self.students if student.failure is None]

    def drop(self, student: Student) -> None:
        """Train a student no further."""
        self.students.remove(student)

    def evaluate(self, student: Student) -> Tensor:
        """Logits of the validation samples, float32 `[v, classes]`, in the recipe's precision."""
        with autocast(self.recipe, self.device):
            return predict_logits(student.model, self.val_images)

    def step(self) -> list[Metrics | None]:
        """Train one epoch and evaluate.

        Returns:
            Metrics of each student by name, None for one that has failed (its `failure` says
            why); `train_kd` is missing at KD weight 0 and `train_ce` at 1, where they are not
            computed.

        Raises:
            RuntimeError: the budget is used up.
        """
        if self.steps >= self.total_steps:
            raise RuntimeError(f"all {self.epochs} epochs are done")
        start = time.perf_counter()
        sizes = self._sizes[: self.total_steps - self.steps]
        trained = self.alive
        losses = self._train_batches(trained, sizes)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or only the launching would be timed
        trained_s = time.perf_counter() - start
        self.epoch += 1
        weights = torch.tensor(sizes, device=self.device) / sum(sizes)
        measured = {
            student: self._measure(student, of_student, sizes, weights)
            for student, of_student in zip(trained, losses, strict=True)
        }
        self.seconds += time.perf_counter() - start
        for student in self.alive:
            metrics = measured[student]
            assert metrics is not None  # noqa: S101  (it would have failed)
            metrics[record.SAMPLES_PER_S] = sum(sizes) * len(trained) / trained_s
            metrics[record.SECONDS] = self.seconds
            metrics[record.PEAK_MEMORY_BYTES] = _peak_memory_bytes(self.device)
            if self.kept_noisy is not None:
                metrics[record.KEPT_NOISY] = self.kept_noisy
            if self.lost_classes:
                metrics[record.LOST_CLASSES] = self.lost_classes
            metrics[record.EPOCH] = self.epoch
            student.last_metrics = metrics
        return [measured.get(student) for student in self.students]

    def _train_batches(self, trained: list[Student], sizes: list[int]) -> list[list[Loss]]:
        """Take one optimiser step per size; returns the losses of each student, step by step."""
        samples = len(self.train_labels)
        order = torch.randperm(samples, generator=self.generator)
        count = self.train_images.augmentation.views
        # No draw where there is no choice: such streams are those of a loop without views.
        drawn = torch.randint(count, (samples,), generator=self.generator) if count > 1 else None
        order = order.to(self.device)
        views = torch.zeros_like(order) if drawn is None else drawn.to(self.device)
        taught = any(student.kd_weight > 0 for student in trained)
        losses: list[list[Loss]] = [[] for _ in trained]
        for student in trained:
            student.model.train()
        taken = sum(sizes)
        for batch, of_batch in zip(
            torch.split(order[:taken], sizes), torch.split(views[:taken], sizes), strict=True
        ):
            images = self.train_images.render(batch, of_batch if count > 1 else None)
            labels = self.train_labels[batch]
            teacher = (
                self.soft_labels(batch, of_batch, images)
                if taught and self.soft_labels is not None
                else None
            )
            lr = learning_rate(self.recipe, self.steps, self.total_steps)
            draws = derive("network", self.seed, self.steps)
            for student, of_student in zip(trained, losses, strict=True):
                with self._own_draws(draws), autocast(self.recipe, self.device):
                    logits = student.forward(images)
                logits = logits.float()
                loss = distillation_loss(
                    logits, labels, teacher, student.kd_weight, student.temperature
                )
                student._learn(loss, lr, self.recipe.clip_norm)
                of_student.append(loss.detach())
                if self.on_batch is not None:
                    self.on_batch(batch, logits.detach())
            self.steps += 1
        return losses

    @contextlib.contextmanager
    def _own_draws(self, seed: int) -> Iterator[None]:
        """Let dropout and its like draw from `seed`, and leave the global state as it was."""
        before = [each.get_state() for each in self._draws]
        for each in self._draws:
            each.manual_seed(seed)
        try:
            yield
        finally:
            for each, state in zip(self._draws, before, strict=True):
                each.set_state(state)

    def _measure(
        self, student: Student, losses: list[Loss], sizes: list[int], weights: Tensor
    ) -> Metrics | None:
        """A student's epoch in numbers; one whose loss is not finite fails."""
        # Looked at once per epoch: asking after every batch would stall the device.
        totals = torch.stack([loss.total for loss in losses])
        finite = torch.isfinite(totals)
        if not finite.all():
            first_bad = int((~finite).int().argmax())
            at_step = self.steps - len(sizes) + first_bad + 1
            student.failure = Diverged(self.epoch, at_step, student.last_metrics)
            return None
        names = (record.TRAIN_LOSS, record.TRAIN_CE, record.TRAIN_KD)
        metrics = {
            name: float((torch.stack(parts) * weights).sum())
            for name, parts in zip(names, zip(*losses, strict=True), strict=True)
            if parts[0] is not None
        }
        student.val_logits = self.evaluate(student)
        # The last step's own damage shows in no training loss, but NaN logits have an
        # arg max, so it would count as an accuracy.
        if not torch.isfinite(student.val_logits).all():
            student.failure = Diverged(self.epoch, self.steps, student.last_metrics)
            return None
        return metrics | judge(student.val_logits, self.val_labels)


class Training:
    """One network on its way through a recipe: a cohort of one.

    On a CPU, a training restored from `state_dict` continues bit for bit.

    Args:
        model: its present weights are where training starts.
        train: as for `Cohort`, like all that follow.
    """

    objective = record.VAL_ACCURACY

    def __init__(  # noqa: PLR0913  (a training has that many parts; five have defaults)
        self,
        model: nn.Module,
        train: Samples,
        val: Samples,
        recipe: Recipe,
        seed: int,
        *,
        kd_weight: float = 0.0,
        temperature: float = 1.0,
        soft_labels: SoftLabels | None = None,
        on_batch: OnBatch | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.student = Student(model, kd_weight, temperature)
        self.cohort = Cohort(
            [self.student],
            train,
            val,
            recipe,
            seed,
            soft_labels=soft_labels,
            on_batch=on_batch,
            device=device,
        )

    @property
    def model(self) -> nn.Module:
        """The network, on its device."""
        return self.student.model

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.cohort.device

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return self.cohort.epoch

    @property
    def epochs(self) -> int:
        """Epochs of the full budget."""
        return self.cohort.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps done so far."""
        return self.cohort.steps

    @property
    def val_logits(self) -> Tensor:
        """Logits of the validation samples as training stands, float32 `[v, classes]`."""
        if not len(self.student.val_logits):
            self.student.val_logits = self.cohort.evaluate(self.student)
        return self.student.val_logits

    @property
    def val_labels(self) -> Tensor:
        """Of the same samples, int64 `[v]`."""
        return self.cohort.val_labels

    def step(self) -> Metrics:
        """Train one epoch and evaluate.

        Returns:
            See `Cohort.step`.

        Raises:
            Diverged: a batch's loss or a validation logit was not finite.
            RuntimeError: the budget is used up.
        """
        (metrics,) = self.cohort.step()
        if metrics is None:
            assert self.student.failure is not None  # noqa: S101  (no metrics: it failed)
            raise self.student.failure
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that training changes: tensors, numbers and containers only."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.student.optimizer.state_dict(),
                "scaler": self.student.scaler.state_dict(),
                "generator": self.cohort.generator.get_state(),
                "epoch": self.epoch,
                "steps": self.steps,
                "seconds": self.cohort.seconds,
                "last_metrics": self.student.last_metrics,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of a training with the same arguments."""
        self.model.load_state_dict(state["model"])
        self.student.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        lay_out_like_parameters(self.student.optimizer)
        self.student.val_logits = torch.empty(0)
        self.student.scaler.load_state_dict(state["scaler"])
        self.student.last_metrics = dict(state["last_metrics"])
        self.cohort.generator.set_state(state["generator"].cpu())
        self.cohort.epoch = state["epoch"]
        self.cohort.steps = state["steps"]
        self.cohort.seconds = state["seconds"]


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


def _default_generators(device: torch.device) -> list[torch.Generator]:
    """What layers like dropout draw from on a device; they cannot be handed a generator."""
    if device.type != "cuda":
        return [torch.default_generator]
    torch.cuda.init()  # type: ignore[no-untyped-call]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


def _peak_memory_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kibibytes on Linux

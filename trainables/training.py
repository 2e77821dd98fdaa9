"""One network's training, that can be stopped and continued: what a trial steps through."""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables import record
from trainables.config import Recipe
from trainables.datasets import Samples
from trainables.engine import Cohort, Metrics, OnBatch, Student
from trainables.optimisation import lay_out_like_parameters
from trainables.soft_labels import SoftLabels


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

"""A response table: small students on scikit-learn's digits, thousands of them trained at once.

    python benchmarks/digits_table.py OUT.parquet [--seeds 16] [--logits FOLDER]

Students are MLPs 64-16-10, the teacher is an MLP 64-64-10; 1,000 digits to train on, 797 to
validate. SGD with learning rate 0.1 falling by a cosine, momentum 0.9, batches of 25, 27 epochs
whatever the fraction; temperature 2. Contexts are label noise {0, 0.2} × method {random, el2n (the
hardest)} × seven fractions, in each KD weights 0, 0.05, ..., 1 × seeds. A seed draws a run's random
subset, initial weights and order of batches, for all KD weights of a context alike; the split, the
noise, the teacher and the scores are shared by all.

The table has a row per run and epoch (of 1, 2, 3, 5, 9, 13, 18, 22, 27): `score` is the validation
accuracy, `val_nll_scaled` the negative log-likelihood after one fitted temperature. With
``--logits``, the validation logits after the last epoch are kept as well, a file per context:
float16 `[seeds, KD weights, 797, 10]` with the labels. `benchmarks/data/digits.parquet` is the
table of 16 seeds, for tests and benchmarks.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import Tensor

from analysis.likelihood import scaled_nll
from analysis.table import ResponseTable, write_table
from trainables.datasets import add_label_noise, generator, stratified
from trainables.record import VAL_ACCURACY

NOISES = (0.0, 0.2)
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
KD_WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))
EPOCHS, REPORTED = 27, (1, 2, 3, 5, 9, 13, 18, 22, 27)
TRAIN, BATCH, LR, MOMENTUM, TEMPERATURE = 1000, 25, 0.1, 0.9, 2.0
HIDDEN, TEACHER_HIDDEN, CLASSES = 16, 64, 10
SCORE_SEEDS, SCORE_EPOCHS = 10, 5


@dataclass(frozen=True)
class Data:
    """Digits, standardised by the mean and the standard deviation of all training pixels."""

    images: Tensor
    """Float32 `[1000, 64]`."""
    labels: Tensor
    """Int64 `[1000]`, with noise."""
    val_images: Tensor
    """Float32 `[797, 64]`."""
    val_labels: Tensor
    """Int64 `[797]`, clean."""


class Students:
    """MLPs with one hidden layer, `seeds` × `kd_weights` of them, trained in step.

    Those of a seed start from the same weights and see the same batches.

    Args:
        data: to train on and to validate with.
        kept: int64 `[seeds, k]`, the samples of each seed.
        seeds: one a row of `kept`.
        kd_weights: α of each student of a seed.
        teacher: logits `[1000, classes]`; None if every KD weight is 0.
        hidden: units.
        stream: names the purpose, so that teachers and students differ.
    """

    def __init__(
        self,
        data: Data,
        kept: Tensor,
        seeds: range,
        kd_weights: tuple[float, ...],
        teacher: Tensor | None,
        hidden: int,
        stream: str,
    ) -> None:
        self.data, self.kept = data, kept
        self.alpha = torch.tensor(kd_weights)[None, :, None, None]
        self.count, self.hidden = len(kd_weights), hidden
        self.order = [generator(stream, "batches", seed) for seed in seeds]
        self.soft = None if teacher is None else F.softmax(teacher / TEMPERATURE, dim=1)
        self.hard = F.one_hot(data.labels, CLASSES).float()
        weights = [generator(stream, "weights", seed) for seed in seeds]
        w1, b1 = (self._start(weights, shape, 64) for shape in ((64, hidden), (1, hidden)))
        w2, b2 = (
            self._start(weights, shape, hidden) for shape in ((hidden, CLASSES), (1, CLASSES))
        )
        # One wide first layer a seed: its students share their inputs.
        self.parameters = [
            w1.repeat(1, 1, self.count),
            b1.repeat(1, 1, self.count),
            w2[:, None].repeat(1, self.count, 1, 1),
            b2[:, None].repeat(1, self.count, 1, 1),
        ]
        self.velocity = [torch.zeros_like(each) for each in self.parameters]

    @staticmethod
    def _start(rngs: list[torch.Generator], shape: tuple[int, int], inputs: int) -> Tensor:
        drawn = torch.stack([torch.rand(shape, generator=rng) for rng in rngs])
        return (2 * drawn - 1) / math.sqrt(inputs)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units and logits, `[seeds, KD weights, n, hidden or classes]`.

        Args:
            images: `[seeds or 1, n, 64]`.
        """
        w1, b1, w2, b2 = self.parameters
        wide = F.relu(images @ w1 + b1)
        units = wide.view(*wide.shape[:2], self.count, self.hidden).transpose(1, 2)
        return units, units @ w2 + b2

    def epoch(self, number: int) -> None:
        """Train epoch `number`, counted from 0."""
        samples = self.kept.shape[1]
        steps = samples // BATCH
        order = torch.stack(
            [kept[torch.randperm(samples, generator=rng)]
             for kept, rng in zip(self.kept, self.order, strict=True)]
        )  # fmt: skip
        for step, batch in enumerate(order.split(BATCH, dim=1)):
            done = (number * steps + step) / (EPOCHS * steps)
            self._step(batch, LR * 0.5 * (1 + math.cos(math.pi * done)))

    def _step(self, batch: Tensor, lr: float) -> None:
        images = self.data.images[batch]
        units, logits = self.logits(images)
        # The gradients of CE and of τ² KL with respect to the logits.
        error = (1 - self.alpha) * (F.softmax(logits, -1) - self.hard[batch][:, None])
        if self.soft is not None:
            soft = F.softmax(logits / TEMPERATURE, -1) - self.soft[batch][:, None]
            error += self.alpha * TEMPERATURE * soft
        error /= batch.shape[1]
        back = (error @ self.parameters[2].transpose(2, 3)) * (units > 0)
        wide = back.transpose(1, 2).flatten(2)
        gradients = [
            images.transpose(1, 2) @ wide,
            wide.sum(1, keepdim=True),
            units.transpose(2, 3) @ error,
            error.sum(2, keepdim=True),
        ]
        for parameter, velocity, gradient in zip(
            self.parameters, self.velocity, gradients, strict=True
        ):
            velocity.mul_(MOMENTUM).add_(gradient)
            parameter.sub_(velocity, alpha=lr)


def load(noise: float) -> Data:
    """The split is the same for every label noise."""
    bunch = load_digits()
    images, labels = torch.tensor(bunch.data).float(), torch.tensor(bunch.target)
    train = stratified(labels, TRAIN, generator("digits table"))
    images = (images - images[train].mean()) / images[train].std()
    held_out = torch.ones(len(labels), dtype=torch.bool)
    held_out[train] = False
    noisy = add_label_noise(labels[train], CLASSES, noise, 0)
    return Data(images[train], noisy, images[held_out], labels[held_out])


def teach(data: Data) -> Tensor:
    """A teacher's logits of the training samples, `[1000, classes]`."""
    everything = torch.arange(TRAIN)[None]
    teacher = Students(data, everything, range(1), (0.0,), None, TEACHER_HIDDEN, "teacher")
    for epoch in range(EPOCHS):
        teacher.epoch(epoch)
    return teacher.logits(data.images[None])[1][0, 0]


def el2n(data: Data) -> Tensor:
    """Length of the error vector early in training, mean over ten networks, `[1000]`."""
    everything = torch.arange(TRAIN).repeat(SCORE_SEEDS, 1)
    networks = Students(data, everything, range(SCORE_SEEDS), (0.0,), None, HIDDEN, "scores")
    for epoch in range(SCORE_EPOCHS):
        networks.epoch(epoch)
    probs = F.softmax(networks.logits(data.images[None])[1][:, 0], -1)
    return (probs - F.one_hot(data.labels, CLASSES)).norm(dim=-1).mean(0)


def keep(method: str, fraction: float, seeds: range, scores: Tensor) -> Tensor:
    """Int64 `[seeds, k]`: the hardest samples, or random ones of each seed's own."""
    count = round(fraction * TRAIN)
    if method == "el2n":
        return scores.argsort(descending=True)[:count].repeat(len(seeds), 1)
    return torch.stack(
        [torch.randperm(TRAIN, generator=generator("subset", seed))[:count] for seed in seeds]
    )


def rows(
    students: Students, context: dict[str, object], seeds: range
) -> tuple[pd.DataFrame, Tensor]:
    """Train one context; returns its part of the table and the last logits."""
    labels = students.data.val_labels
    scores, likelihoods = [], []
    for epoch in range(EPOCHS):
        students.epoch(epoch)
        if epoch + 1 in REPORTED:
            logits = students.logits(students.data.val_images[None])[1]
            scores.append((logits.argmax(-1) == labels).float().mean(-1).numpy())
            likelihoods.append(scaled_nll(logits.numpy(), labels.numpy()))
    epochs, of_seed, weights = np.meshgrid(REPORTED, seeds, KD_WEIGHTS, indexing="ij")
    table = pd.DataFrame(
        {
            **context,
            "kd_weight": weights.ravel(),
            "seed": of_seed.ravel(),
            "epoch": epochs.ravel(),
            "score": np.stack(scores).ravel(),
            "val_nll_scaled": np.stack(likelihoods).ravel(),
        }
    )
    return table, logits


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--logits", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seeds)
    began = time.perf_counter()
    tables = []
    for noise in NOISES:
        data = load(noise)
        teacher, scores = teach(data), el2n(data)
        for method in ("random", "el2n"):
            for fraction in FRACTIONS:
                context = {
                    "dataset": "digits",
                    "student": f"mlp{HIDDEN}",
                    "method": method,
                    "fraction": fraction,
                    "teacher": f"mlp{TEACHER_HIDDEN}",
                    "teacher_fraction": 1.0,
                    "temperature": TEMPERATURE,
                    "label_noise": noise,
                }
                kept = keep(method, fraction, seeds, scores)
                students = Students(data, kept, seeds, KD_WEIGHTS, teacher, HIDDEN, "students")
                table, logits = rows(students, context, seeds)
                tables.append(table)
                if options.logits:
                    options.logits.mkdir(parents=True, exist_ok=True)
                    save_file(
                        {"logits": logits.half().numpy(), "labels": data.val_labels.numpy()},
                        options.logits / f"noise{noise}-{method}-{fraction}.safetensors",
                    )
                print(f"{time.perf_counter() - began:6.0f} s  {noise} {method} {fraction}")
    table = pd.concat(tables, ignore_index=True)
    write_table(ResponseTable(table, VAL_ACCURACY, TRAIN, CLASSES), options.out)
    print(f"{len(table)} rows, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

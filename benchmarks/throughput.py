"""How many samples does a second of one core train? kdcurve beside the loop everyone writes.

    python benchmarks/throughput.py [--quick] [--cifar10 FOLDER]
    python benchmarks/throughput.py --memory [--cifar10 FOLDER]

The plain loop: PIL pictures through torchvision's crop, flip, `ToTensor` and `Normalize` in a
`DataLoader`, the teacher asked about every batch, SGD with Nesterov momentum, a cosine per step.
Same student, initial weights, kept samples, teacher, loss, batch size and steps on both sides, each
side in a process and on a thread of its own, one after the other and again; the seed is the number
of the round. A core-second is CPU time, that of a worker included; building networks and measuring
accuracy (on validation samples, with the same code for all) are outside.

The table of soft labels holds only what this seed's epochs will look at, filled in by the online
run before: the whole one would take longer than the benchmark. Its price is that of a forward pass
for each of 162 views, measured on a few of them, for the whole training split.

Fashion-MNIST is read where Debian's `dataset-fashion-mnist` puts it, or from
``--fashion-mnist FOLDER``; CIFAR-10 as Parquet files (``train*``, ``test*``) in a folder.

With ``--memory``: what one trial with a table of all views occupies, in a process of its own.

Prints a table for each data set and student, and as its last line one JSON object.
"""

import argparse
import copy
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainables import cache, datasets, memory, models, problem, soft_labels, teachers
from trainables.augment import AUGMENTATIONS
from trainables.config import (
    ImageDataset,
    Recipe,
    SoftLabelsSpec,
    TrialConfig,
    teacher_spec,
)
from trainables.datasets import Samples, Splits
from trainables.engine import Cohort, Student, autocast, predict_logits
from trainables.seeds import derive
from trainables.soft_labels import Online, SoftLabels
from trainables.threads import pin_threads
from trainables.training import Training, train

CPU = torch.device("cpu")
TEACHER = "resnet20"
KD_WEIGHT, TEMPERATURE = 0.5, 4.0
BATCH = 128
SIZES = {"cnn32": ((4096, 2), (1536, 2)), "resnet20": ((2048, 1), (768, 1))}
"""Samples kept and epochs of each student; the same with ``--quick``."""
TEACHER_SAMPLES = (4096, 2048)
VAL_SAMPLES = (2000, 1000)
WATCHED = 16
"""Samples that our engine validates on after each epoch, inside the clock."""
PLAIN, VIEWS = "plain loop", "views"


@dataclass(frozen=True)
class Setting:
    """What all rows of a table share."""

    student: str
    teacher: nn.Module
    train: Samples
    val: Samples
    classes: int
    recipe: Recipe
    logits: Tensor
    """Float16 `[views, n, classes]`: NaN until an online run has come along."""

    def build(self, seed: int) -> nn.Module:
        """The student before its training."""
        return models.build(self.student, tuple(self.train.images.shape[1:]), self.classes, seed)

    def accuracy(self, model: nn.Module, recipe: Recipe) -> float:
        """On the validation samples, in the recipe's precision."""
        with autocast(recipe, CPU):
            logits = predict_logits(model, self.val.on(CPU))
        return (logits.argmax(1) == self.val.labels).float().mean().item()


@dataclass(frozen=True)
class Run:
    """One training of one row."""

    samples_per_core_s: float
    val_accuracy: float


class Pictures(Dataset[tuple[Tensor, int]]):
    """Arrays that become pictures one by one, as in torchvision's data sets."""

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor]) -> None:
        self._data = samples.images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self._targets = samples.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._data[index])), self._targets[index]


def plain_loop(setting: Setting, seed: int, workers: int = 0) -> Run:
    """The loop of the tutorials."""
    recipe, size = setting.recipe, setting.train.images.shape[-1]
    epochs = recipe.total_epochs(len(setting.train.labels))
    model = setting.build(seed)
    teacher = copy.deepcopy(setting.teacher).to(memory_format=torch.contiguous_format).eval()
    torch.manual_seed(seed)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(setting.train.mean.tolist(), setting.train.std.tolist()),
        ]
    )
    loader = DataLoader(
        Pictures(setting.train, transform),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        # A forked worker is this process's child, whose time can be asked for.
        multiprocessing_context="fork" if workers else None,
    )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    began = core_s()
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            with torch.no_grad():
                teacher_logits = teacher(images)
            logits = model(images)
            kd = F.kl_div(
                F.log_softmax(logits / TEMPERATURE, dim=1),
                F.log_softmax(teacher_logits / TEMPERATURE, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            ce = F.cross_entropy(logits, labels)
            loss = (1 - KD_WEIGHT) * ce + KD_WEIGHT * TEMPERATURE**2 * kd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    spent_s = core_s() - began
    return Run(epochs * len(setting.train.labels) / spent_s, setting.accuracy(model, recipe))


def cohort(
    setting: Setting,
    seed: int,
    labels: SoftLabels,
    precision: str = "fp32",
    kd_weights: Sequence[float] = (KD_WEIGHT,),
) -> Run:
    """Our engine: one student (as `Training` trains it) or several at once.

    The samples of all of them count; the accuracy is that of the student in the middle.
    """
    recipe = setting.recipe.model_copy(update={"precision": precision})
    students = [Student(setting.build(seed), weight, TEMPERATURE) for weight in kd_weights]
    watched = replace(
        setting.val, images=setting.val.images[:WATCHED], labels=setting.val.labels[:WATCHED]
    )
    ours = Cohort(students, setting.train, watched, recipe, seed, soft_labels=labels, device=CPU)
    began = core_s()
    for _ in range(ours.epochs):
        ours.step()
    spent_s = core_s() - began
    for student in students:
        if student.failure:
            raise student.failure
    samples = len(students) * ours.epochs * len(setting.train.labels)
    middle = students[len(students) // 2].model
    return Run(samples / spent_s, setting.accuracy(middle, recipe))


def online(setting: Setting, seed: int) -> Run:
    """Ours, the teacher asked about every batch; its answers are kept for `views`."""
    ask = Online(teachers.for_inference(setting.teacher))

    def remember(index: Tensor, views: Tensor, images: Tensor) -> Tensor:
        logits = ask(index, views, images)
        setting.logits[views, index] = logits.half()
        return logits

    return cohort(setting, seed, remember)


def views(setting: Setting, seed: int, **options: Any) -> Run:
    """Ours, soft labels looked up; the seed's online run must have come before."""
    every = torch.arange(len(setting.train.labels))
    return cohort(setting, seed, soft_labels.Table(setting.logits, every, CPU), **options)


ROWS: dict[str, Callable[[Setting, int], Run]] = {
    PLAIN: plain_loop,
    f"{PLAIN}, 1 worker": partial(plain_loop, workers=1),
    "online": online,
    VIEWS: views,
    f"{VIEWS}, bf16": partial(views, precision="bf16"),
    f"{VIEWS}, 3 students": partial(views, kd_weights=(0.25, KD_WEIGHT, 0.75)),
}
"""Online before views."""


def run_row(name: str, setting: Setting, seed: int) -> Run:
    """Train once, in this process."""
    return ROWS[name](setting, seed)


def core_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def draw(splits: Splits, count: int, purpose: str) -> Samples:
    """So many training samples, every class in proportion."""
    kept = datasets.stratified(splits.labels, count, datasets.generator(purpose, 0))
    return datasets.training_samples(splits, kept)


def some(samples: Samples, count: int) -> Samples:
    """The first few."""
    return replace(
        samples, images=samples.images[:count], labels=samples.labels[:count], noisy=None
    )


def train_teacher(splits: Splits, val: Samples, count: int) -> nn.Module:
    """One epoch: enough to have an opinion."""
    model = models.build(TEACHER, splits.shape, splits.classes, derive("teacher"))
    recipe = Recipe(epochs=1, batch_size=BATCH, lr=0.05, precision="fp32")
    training = Training(model, draw(splits, count, "taught"), val, recipe, 0, device=CPU)
    train(training)
    return training.model.eval()


def price_of_view(teacher: nn.Module, samples: Samples) -> float:
    """Core-seconds that a table takes for one view of one sample, median over a few."""
    teacher = teachers.for_inference(teacher)
    images = some(samples, 1024).on(CPU)
    seconds = []
    for view in range(0, images.augmentation.views, images.augmentation.views // 4):
        began = core_s()
        predict_logits(teacher, images, torch.full((len(images),), view)).half()
        seconds.append((core_s() - began) / len(images))
    return statistics.median(seconds)


def compare(setting: Setting, rounds: int, console: Console) -> dict[str, list[Run]]:
    """Alternate the rows."""
    small = replace(
        setting,
        train=some(setting.train, 2 * BATCH),
        recipe=setting.recipe.model_copy(update={"epochs": 1}),
    )
    runs: dict[str, list[Run]] = {name: [] for name in ROWS}
    # In one process, what our side sets for itself would help the other as well.
    with alone(torch.set_num_threads, 1) as plain, alone(prepare_worker) as ours:
        sides = {name: plain if name.startswith(PLAIN) else ours for name in ROWS}
        for name, side in sides.items():
            side.submit(run_row, name, small, 0).result()  # warms up
        for seed in range(rounds):
            for name, side in sides.items():
                runs[name].append(side.submit(run_row, name, setting, seed).result())
            rates = "  ".join(f"{each[-1].samples_per_core_s:.0f}" for each in runs.values())
            console.print(f"round {seed + 1}: {rates}")
    return runs


def prepare_worker() -> None:
    """What every worker of a search does first."""
    pin_threads(1)
    memory.keep_freed()


def alone(initializer: Callable[..., Any] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """A process of its own."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer, arguments)


def show(title: str, runs: dict[str, list[Run]], console: Console) -> dict[str, Any]:
    """Print a table; returns its figures."""
    table = Table(
        "", "samples a core-second", "× plain loop", "validation accuracy (%)",
        title=title, title_justify="left", box=None,
    )  # fmt: skip
    figures = {}
    for name, values in runs.items():
        rates = [run.samples_per_core_s for run in values]
        times = [
            rate / plain.samples_per_core_s for rate, plain in zip(rates, runs[PLAIN], strict=True)
        ]
        figures[name] = {
            "samples_per_core_s": spread(rates),
            "times_plain": spread(times),
            "val_accuracy": spread([run.val_accuracy for run in values]),
        }
        table.add_row(
            name,
            "{median:.0f} [{min:.0f}, {max:.0f}]".format(**figures[name]["samples_per_core_s"]),
            "{median:.2f} [{min:.2f}, {max:.2f}]".format(**figures[name]["times_plain"]),
            "{median:.1%} [{min:.1%}, {max:.1%}]".format(**figures[name]["val_accuracy"]).replace(
                "%", ""
            ),
        )
    console.print(table)
    return figures


def price_of_table(view_s: float, count: int, samples: int, rows: dict[str, Any]) -> dict[str, Any]:
    """What the table costs, and the epochs (of the whole split) after which it has paid."""
    seconds = {
        name: 1 / rows[name]["samples_per_core_s"]["median"] for name in (PLAIN, "online", VIEWS)
    }
    price_s = view_s * count

    def paid_back(instead: str) -> float | None:
        saved_s = seconds[instead] - seconds[VIEWS]
        return price_s / saved_s if saved_s > 0 else None

    return {
        "views": count,
        "core_s_per_sample": price_s,
        "core_s": price_s * samples,
        "samples": samples,
        "epochs_to_pay_back": {name: paid_back(name) for name in (PLAIN, "online")},
    }


def throughput(
    sets: list[ImageDataset], quick: bool, rounds: int, console: Console
) -> list[dict[str, Any]]:
    """Every student on every data set."""
    compared = []
    for config in sets:
        splits = datasets.load(config)
        val = some(datasets.validation_samples(splits), VAL_SAMPLES[quick])
        count = AUGMENTATIONS[splits.augmentation].views
        teacher = train_teacher(splits, val, TEACHER_SAMPLES[quick])
        for student, sizes in SIZES.items():
            kept, epochs = sizes[quick]
            samples = draw(splits, kept, "kept")
            setting = Setting(
                student,
                teacher,
                samples,
                val,
                splits.classes,
                Recipe(epochs=epochs, batch_size=BATCH, lr=0.05, precision="fp32"),
                torch.full((count, kept, splits.classes), math.nan, dtype=torch.float16),
            )
            steps = setting.recipe.total_steps(kept)
            title = f"{name_of(config)}, {student}, {kept} samples, {steps} steps"
            rows = show(title, compare(setting, rounds, console), console)
            price = price_of_table(price_of_view(teacher, samples), count, len(splits.labels), rows)
            paid = price["epochs_to_pay_back"]
            console.print(
                f"A table of {count} views of all {price['samples']} training samples takes "
                f"{price['core_s'] / 3600:.1f} core-hours, paid back after "
                f"{said(paid['online'])} epochs on as many samples instead of online, "
                f"{said(paid[PLAIN])} instead of the plain loop.\n"
            )
            compared.append(
                {
                    "dataset": name_of(config),
                    "student": student,
                    "teacher": TEACHER,
                    "samples": kept,
                    "steps": steps,
                    "rows": rows,
                    "table": price,
                }
            )
    return compared


def said(epochs: float | None) -> str:
    """A number of epochs for people."""
    return "no number of" if epochs is None else f"{epochs:.0f}"


def name_of(config: ImageDataset) -> str:
    """A data set's name for people."""
    return "cifar10" if config.name == "parquet" else config.name


def trial_with_views(dataset: ImageDataset, student: str) -> TrialConfig:
    """A trial on all samples, a few steps long."""
    return TrialConfig(
        dataset=dataset,
        student=student,
        teacher=TEACHER,
        method="random",
        fraction=1.0,
        kd_weight=KD_WEIGHT,
        seed=0,
        recipe=Recipe(iterations=20, batch_size=BATCH, precision="fp32"),
    )


def prepare_memory(config: TrialConfig, folder: Path) -> None:
    """Decode the images and put a table of random logits where the trial will look for one."""
    assert isinstance(config.dataset, ImageDataset)
    splits = datasets.load(config.dataset, folder)
    count = AUGMENTATIONS[splits.augmentation].views
    logits = torch.randn(count, len(splits.labels), splits.classes, dtype=torch.float16)
    key = SoftLabelsSpec(teacher=teacher_spec(config), all_views=True).key
    cache.store(folder, key, {teachers.LOGITS: logits}, {"views": str(count)})


def measure_memory(config: TrialConfig, folder: Path) -> dict[str, int]:
    """Run a trial in this process; bytes at its peak, and of files at its end."""
    prepare_worker()
    assert isinstance(config.dataset, ImageDataset)
    datasets.load(config.dataset, folder)
    # A training begins its peak anew; what loading the data took is asked before.
    loading = memory.peak_bytes(CPU)
    training = problem.open_training(config, folder)  # held, or nothing would be mapped at the end
    train(training)
    peak = max(loading, memory.peak_bytes(CPU))
    status = Path("/proc/self/status").read_text()
    in_cache, of_cache = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            of_cache = line.endswith(".safetensors")
        elif line.startswith("Rss:") and of_cache:
            in_cache += int(line.split()[1])
    (mapped,) = map(int, re.findall(r"RssFile:\s+(\d+) kB", status))
    return {
        "peak_bytes": int(peak),
        "mapped_cache_bytes": 1024 * in_cache,
        "mapped_libraries_bytes": 1024 * (mapped - in_cache),
    }


def trial_memory(sets: list[ImageDataset], console: Console) -> list[dict[str, Any]]:
    """One trial of each student on each data set, alone in its process."""
    table = Table("", "peak (MB)", "of it, mapped cache (MB)", "mapped libraries (MB)", box=None)
    figures = []
    for dataset in sets:
        for student in SIZES:
            config = trial_with_views(dataset, student)
            with tempfile.TemporaryDirectory() as name:
                fresh(prepare_memory, config, Path(name))
                measured = fresh(measure_memory, config, Path(name))
            figures.append({"dataset": name_of(dataset), "student": student, **measured})
            megabytes = [f"{value / 1e6:.0f}" for value in measured.values()]
            table.add_row(f"{name_of(dataset)}, {student}", *megabytes)
    console.print(table)
    return figures


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    with alone() as process:
        return process.submit(function, *arguments).result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How many samples does a core-second train?")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default 3)")
    parser.add_argument("--memory", action="store_true", help="of one trial, instead of speed")
    parser.add_argument(
        "--fashion-mnist", default="/usr/share/datasets/fashion-mnist", metavar="FOLDER",
        help="IDX files, maybe gzipped (default: where Debian's dataset-fashion-mnist puts them)",
    )  # fmt: skip
    parser.add_argument("--cifar10", metavar="FOLDER", help="Parquet files; left out without")
    options = parser.parse_args()
    sets = [ImageDataset(name="fashion_mnist", root=options.fashion_mnist)]
    if options.cifar10:
        sets.append(ImageDataset(name="parquet", root=options.cifar10))
    console = Console(width=100)
    figures: dict[str, Any]
    if options.memory:
        figures = {"n": 1, "memory": trial_memory(sets, console)}
    else:
        pin_threads(1)
        compared = throughput(sets, options.quick, options.rounds, console)
        figures = {"n": options.rounds, "batch_size": BATCH, "compared": compared}
    hardware = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    versions = {name: version(name) for name in ("kdcurve", "torch", "torchvision", "pillow")}
    print(json.dumps({**figures, "hardware": hardware, "versions": versions}))


if __name__ == "__main__":
    main()

"""Which signal finds the best KD weight in few runs: accuracy, likelihood, interpolated logits?

    python benchmarks/signals.py [--quick] [--fashion-mnist FOLDER] [--keep FOLDER]
    python benchmarks/signals.py --logits FOLDER   # kept before, or of digits_table.py: no training

Trains, with the engine of searches, a student for each of 11 KD weights and each of some seeds in
a few contexts: cnn8 taught by cnn32 on digits and on a tenth of Fashion-MNIST, with label noise.
Then every strategy gets some seeds and answers with a KD weight. Its regret is what that answer
loses against the best KD weight, in accuracy points, by the mean accuracy of the seeds that it did
not see, smoothed over the KD weight by a polynomial of degree 4: on the validation samples, which
the signals come from, and on `fresh` ones, the test set, which no strategy looked at. Averaged over
contexts, replicated over random choices of seeds. Since the truth is an estimate, nothing reaches
0: the last row, the smoothed accuracy of half of the seeds, says what is near.

Prints tables for people, and as its last line one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from analysis.interpolation import Reading, gap, interpolated_nll, read
from analysis.likelihood import scaled_nll
from trainables import datasets, models, soft_labels, teachers
from trainables.config import ImageDataset, Recipe, SoftLabelsSpec, TrialConfig, teacher_spec
from trainables.engine import Cohort, Student, predict_logits
from trainables.held_out import load_test
from trainables.pruning import select
from trainables.seeds import derive

Floats = NDArray[np.float64]

CPU = torch.device("cpu")
KD_WEIGHTS = np.linspace(0, 1, 11).round(2)
REPLICATIONS = 24
FINE = np.linspace(0, 1, 101)
BETWEEN = np.linspace(0, 1, 11)
FRESH = 4000
"""Test samples looked at, at most."""
SMOOTH = 4
"""Degree of the polynomial that the truth is smoothed by."""


@dataclass(frozen=True)
class Problem:
    """What is trained, in which contexts."""

    dataset: ImageDataset
    recipe: Recipe
    contexts: tuple[tuple[str, float], ...]
    seeds: int
    student: str = "cnn8"
    teacher: str = "cnn32"


def problems(fashion: Path, quick: bool) -> dict[str, Problem]:
    """The two problems, smaller with `quick`."""
    return {
        "digits": Problem(
            ImageDataset(name="digits", validation=0.3, label_noise=0.2),
            Recipe(iterations=200, batch_size=32, lr=0.05),
            (("random", 0.1), ("el2n", 0.25)),
            4 if quick else 10,
        ),
        "fashion_mnist": Problem(
            ImageDataset(
                name="fashion_mnist",
                root=str(fashion),
                subset=0.1,
                validation=0.2,
                label_noise=0.1,
                augmentation="none",
            ),
            Recipe(iterations=75 if quick else 150, batch_size=32, lr=0.05),
            (("random", 0.1), ("random", 0.5)),
            4 if quick else 8,
        ),
    }


@dataclass(frozen=True, eq=False)
class Context:
    """All runs of one context."""

    name: str
    kd_weight: Floats
    """`[k]`."""
    logits: NDArray[np.floating]
    """Of the validation samples, `[seeds, k, v, classes]`."""
    labels: NDArray[np.integer]
    fresh: Floats | None
    """Accuracy on test samples, `[seeds, k]`."""
    memo: dict[tuple[int, tuple[float, ...]], Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "accuracy", (self.logits.argmax(-1) == self.labels).mean(-1))
        object.__setattr__(self, "nll", scaled_nll(self.logits, self.labels))

    accuracy: Floats = field(init=False)
    nll: Floats = field(init=False)

    def reading(self, seed: int, anchors: tuple[float, ...]) -> Reading:
        """What analysis reads from the runs at the anchors."""
        rows = [self.at(a) for a in anchors]
        return read(self.logits[seed, rows], self.labels, self.kd_weight[rows])

    def store(self, folder: Path) -> None:
        """For `stored` to read."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"logits": self.logits, "labels": self.labels, "fresh": self.fresh}
        save_file(tensors, folder / f"{self.name}.safetensors")

    def at(self, kd_weight: float) -> int:
        """Index of the nearest KD weight that was run."""
        return int(np.abs(self.kd_weight - kd_weight).argmin())

    def between(self, seed: int, anchors: tuple[float, ...]) -> Floats:
        """Interpolated likelihood over `BETWEEN`, computed once."""
        key = (seed, tuple(sorted(anchors)))
        if key not in self.memo:
            rows = [self.at(a) for a in key[1]]
            logits = self.logits[seed, rows]
            self.memo[key] = interpolated_nll(logits, self.labels, self.kd_weight[rows], BETWEEN)
        return self.memo[key]


def train(name: str, problem: Problem, cache: Path, keep: Path | None) -> list[Context]:
    """Train all runs of a problem, with those of a seed in one cohort."""
    splits = datasets.load(problem.dataset, cache)
    images, labels = (part[:FRESH] for part in load_test(problem.dataset, cache))
    val = datasets.validation_samples(splits)
    test = datasets.Samples(images, labels, splits.mean, splits.std)
    contexts = []
    for method, fraction in problem.contexts:
        logits, fresh = [], []
        for seed in range(problem.seeds):
            config = TrialConfig(
                dataset=problem.dataset,
                student=problem.student,
                recipe=problem.recipe,
                method=method,
                fraction=fraction,
                teacher=problem.teacher,
                kd_weight=0.5,
                seed=seed,
                score_seeds=3,
            )
            kept = select.kept_samples(config, splits, cache)
            table = SoftLabelsSpec(teacher=teacher_spec(config), all_views=True)
            students = [
                Student(
                    models.build(
                        problem.student, splits.shape, splits.classes, derive("weights", seed)
                    ),
                    float(weight),
                    config.temperature,
                )
                for weight in KD_WEIGHTS
            ]
            cohort = Cohort(
                students,
                datasets.training_samples(splits, kept),
                # After every epoch a few will do; all are looked at after the last.
                datasets.Samples(val.images[:16], val.labels[:16], val.mean, val.std),
                problem.recipe,
                seed,
                soft_labels=soft_labels.Table(teachers.load_soft_labels(table, cache), kept, CPU),
                device=CPU,
            )
            while cohort.epoch < cohort.epochs:
                cohort.step()
            logits.append(
                np.stack([predict_logits(s.model, val.on(CPU)).half().numpy() for s in students])
            )
            fresh.append(
                [
                    (predict_logits(s.model, test.on(CPU)).argmax(1) == labels)
                    .float()
                    .mean()
                    .item()
                    for s in students
                ]
            )
        contexts.append(
            Context(
                f"{name} {method} {fraction:g}",
                KD_WEIGHTS,
                np.stack(logits),
                val.labels.numpy(),
                np.array(fresh),
            )
        )
        if keep:
            contexts[-1].store(keep)
        print(f"  trained {contexts[-1].name}", flush=True)
    return contexts


# A strategy: a context and its seeds → the KD weight chosen and the runs used.
Strategy = Callable[[Context, list[int]], tuple[float, int]]


def best_of_grid(signal: str, sign: float) -> Strategy:
    """The best mean of all KD weights that were run."""

    def choose(context: Context, seeds: list[int]) -> tuple[float, int]:
        mean = sign * getattr(context, signal)[seeds].mean(0)
        return float(context.kd_weight[mean.argmax()]), mean.size * len(seeds)

    return choose


def parabola(signal: str, sign: float, weights: tuple[float, ...]) -> Strategy:
    """The top of a parabola through the means at some KD weights."""

    def choose(context: Context, seeds: list[int]) -> tuple[float, int]:
        columns = [context.at(weight) for weight in weights]
        mean = sign * getattr(context, signal)[np.ix_(seeds, columns)].mean(0)
        fitted = np.polyval(np.polyfit(context.kd_weight[columns], mean, 2), FINE)
        return float(FINE[fitted.argmax()]), len(columns) * len(seeds)

    return choose


def smoothed(context: Context, seeds: list[int]) -> tuple[float, int]:
    """The top of the smoothed mean accuracy of all KD weights."""
    mean = context.accuracy[seeds].mean(0)
    fitted = np.polyval(np.polyfit(context.kd_weight, mean, SMOOTH), FINE)
    return float(FINE[fitted.argmax()]), mean.size * len(seeds)


def interpolated(
    *anchors: float, third: bool = False, reach: float = 0.0, mended: bool = False
) -> Strategy:
    """The least interpolated likelihood, mean over seeds; maybe with a third run there.

    Args:
        anchors: KD weights that are run.
        third: run the optimum too, and interpolate again.
        reach: how far beyond the anchors to extrapolate.
        mended: take off the bias measured by predicting the middle anchor of these seeds.
    """

    def choose(context: Context, seeds: list[int]) -> tuple[float, int]:
        middle, half = (max(anchors) + min(anchors)) / 2, (max(anchors) - min(anchors)) / 2
        inside = np.abs(BETWEEN - middle) <= half + reach + 1e-9
        known, best = anchors, 0.0
        for _ in range(2 if third else 1):
            mean = np.mean([context.between(seed, known) for seed in seeds], axis=0)
            if mended:
                readings = [context.reading(seed, known) for seed in seeds]
                gaps, errors = (
                    np.concatenate([getattr(each, name) for each in readings])
                    for name in ("left_out_gap", "left_out_error")
                )
                level = float(np.mean([each.level for each in readings]))
                mean -= level * (gaps @ errors) / (gaps @ gaps) * gap(known, BETWEEN)
            best = float(BETWEEN[inside][mean[inside].argmin()])
            nearest = float(context.kd_weight[context.at(best)])
            if not third or nearest in anchors:
                break
            known = (*anchors, nearest)
        return best, (len(anchors) + third) * len(seeds)

    return choose


STRATEGIES: dict[str, tuple[Strategy, tuple[int, ...]]] = {
    "accuracy, grid of all": (best_of_grid("accuracy", 1), (1, 2, 3)),
    "accuracy, parabola {0, .5, 1}": (parabola("accuracy", 1, (0, 0.5, 1)), (1, 2, 3)),
    "accuracy, parabola of 5": (parabola("accuracy", 1, (0, 0.3, 0.5, 0.7, 1)), (1, 2, 3)),
    "NLL, grid of all": (best_of_grid("nll", -1), (1, 2, 3)),
    "NLL, parabola {0, .5, 1}": (parabola("nll", -1, (0, 0.5, 1)), (1, 2, 3)),
    "NLL, parabola {.1, .5, .9}": (parabola("nll", -1, (0.1, 0.5, 0.9)), (1, 2, 3)),
    "NLL, parabola of 5": (parabola("nll", -1, (0, 0.3, 0.5, 0.7, 1)), (1, 2, 3)),
    "logits {.1, .9}, between": (interpolated(0.1, 0.9), (1, 2, 3)),
    "logits {.1, .9}, to the ends": (interpolated(0.1, 0.9, reach=0.1), (1, 2, 3)),
    "the same + third": (interpolated(0.1, 0.9, third=True, reach=0.1), (1, 2, 3)),
    "logits {.1, .5, .9}, to the ends": (interpolated(0.1, 0.5, 0.9, reach=0.1), (1, 2, 3)),
    "the same, bias taken off": (
        interpolated(0.1, 0.5, 0.9, reach=0.1, mended=True),
        (1, 2, 3),
    ),
    "logits {0, .5, 1}": (interpolated(0.0, 0.5, 1.0), (1, 2, 3)),
    "logits {.1, 1}, to the ends": (interpolated(0.1, 1.0, reach=0.1), (1, 2, 3)),
    "logits {.1, .5, 1}, to the ends": (interpolated(0.1, 0.5, 1.0, reach=0.1), (1, 2, 3)),
}
FLOOR = "accuracy, smoothed, half of the seeds"


def regret(accuracy: Floats, kd_weight: Floats, chosen: float) -> float:
    """Points lost by the mean accuracy `[seeds, k]`, smoothed."""
    fit = np.polyfit(kd_weight, 100 * accuracy.mean(0), SMOOTH)
    return float(np.polyval(fit, FINE).max() - np.polyval(fit, chosen))


def evaluate(contexts: list[Context]) -> list[dict[str, object]]:
    """Regret of every strategy at every number of seeds, a row each."""
    total = len(contexts[0].logits)
    plans = [(name, choose, n) for name, (choose, sizes) in STRATEGIES.items() for n in sizes]
    plans = [plan for plan in plans if plan[2] <= total // 2]
    plans.append((FLOOR, smoothed, total // 2))
    found = []
    for name, choose, n in plans:
        rng = np.random.default_rng(0)  # the same seeds for all strategies
        losses: dict[str, list[float]] = {"validation": [], "fresh": []}
        runs = 0
        for _ in range(REPLICATIONS):
            drawn = [rng.permutation(total) for _ in contexts]
            lost: dict[str, list[float]] = {"validation": [], "fresh": []}
            for context, order in zip(contexts, drawn, strict=True):
                chosen, runs = choose(context, order[:n].tolist())
                for kind, truth in (("validation", context.accuracy), ("fresh", context.fresh)):
                    if truth is not None:
                        lost[kind].append(regret(truth[order[n:]], context.kd_weight, chosen))
            for kind, values in lost.items():
                losses[kind].append(float(np.mean(values)) if values else np.nan)
        row: dict[str, object] = {"strategy": name, "seeds": n, "runs": runs}
        for kind, values in losses.items():
            if not np.isnan(values).any():
                row[kind] = round(float(np.mean(values)), 3)
                row[f"{kind}_p10"], row[f"{kind}_p90"] = np.quantile(values, [0.1, 0.9]).round(3)
        found.append(row)
    return found


def biases(contexts: list[Context]) -> dict[str, float]:
    """Error of the likelihood predicted at 0.5 from 0.1 and 0.9, in units of the runs' mean."""
    errors = [
        context.reading(seed, (0.1, 0.5, 0.9)).left_out_error[0]
        for context in contexts
        for seed in range(len(context.logits))
    ]
    return {"bias": round(float(np.mean(errors)), 4), "spread": round(float(np.std(errors)), 4)}


def show(name: str, rows: list[dict[str, object]]) -> None:
    """Print a table for people."""
    table = Table(name, "seeds", "runs", "validation", "10–90%", "fresh", "10–90%", box=None)
    for row in rows:
        cells = []
        for kind in ("validation", "fresh"):
            known = kind in row
            cells.append(f"{row[kind]:.2f}" if known else "")
            cells.append(f"{row[f'{kind}_p10']:.2f}–{row[f'{kind}_p90']:.2f}" if known else "")
        table.add_row(str(row["strategy"]), str(row["seeds"]), str(row["runs"]), *cells)
    Console(width=110).print(table)


def stored(folder: Path) -> dict[str, list[Context]]:
    """Contexts that were trained before, by `digits_table.py` or here with ``--keep``."""
    found: dict[str, list[Context]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        weights = np.linspace(0, 1, tensors["logits"].shape[1]).round(2)
        context = Context(
            path.stem, weights, tensors["logits"], tensors["labels"], tensors.get("fresh")
        )
        found.setdefault(path.stem.split(" ")[0].split("-")[0], []).append(context)
    return found


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist")
    )
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--logits", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    if options.logits:
        groups = stored(options.logits)
    else:
        with tempfile.TemporaryDirectory() as cache:
            groups = {
                name: train(name, problem, Path(cache), options.keep)
                for name, problem in problems(options.fashion_mnist, options.quick).items()
                if name != "fashion_mnist" or options.fashion_mnist.is_dir()
            }
    figures = {}
    for name, contexts in groups.items():
        rows = evaluate(contexts)
        show(f"{name}, {len(contexts)} contexts", rows)
        figures[name] = {
            "contexts": [context.name for context in contexts],
            "seeds": len(contexts[0].logits),
            "interpolation": biases(contexts),
            "rows": rows,
        }
    versions = {name: version(name) for name in ("kdcurve", "numpy", "torch")}
    seconds = round(time.perf_counter() - began)
    print(
        json.dumps(
            {"problems": figures, "n": REPLICATIONS, "seconds": seconds, "versions": versions}
        )
    )


if __name__ == "__main__":
    main()

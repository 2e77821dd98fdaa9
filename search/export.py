"""A confirmed setting written out: all that trains it again, and the weights it led to."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.confirmation import confirmed_students
from analysis.errors import known
from search.confirmation import rows_like
from search.errors import KdcurveError, UsageError
from search.frame import students_frame
from search.journal import Event
from search.ledger import Ledger
from search.places import Places
from search.printing import next_command
from search.standing import open_recorded
from search.subset import require_samples
from trainables import cache, datasets
from trainables.config import ImageDataset, TrialConfig
from trainables.confirmation import student_file, train_again
from trainables.exported import FORMAT, KEPT, SETTING, WEIGHTS
from trainables.pruning.select import kept_samples
from trainables.record import TEST_SCORES

PICKS: dict[str, Callable[[int], int]] = {"median": lambda n: (n - 1) // 2, "best": lambda n: n - 1}
"""Which of n students, by ascending validation score; the lower of two in the middle."""


@dataclass(frozen=True)
class Export:
    """What was written."""

    files: tuple[Path, ...]
    text: str
    """Which student it is, in words."""


def export_student(
    name: str,
    places: Places,
    folder: Path,
    wanted: Mapping[str, str | float | None],
    *,
    pick: str = "median",
    say: Callable[[str], None] = lambda _: None,
) -> Export:
    """Write the setting of one context and the weights of one of its confirmed students.

    The student is picked by its validation score, never by its test score.

    Args:
        name: of the search.
        places: where things live.
        folder: to write; new or empty.
        wanted: values that tell the context from all others (method, fraction, teacher).
        pick: a name of `PICKS`.
        say: takes note of a line.

    Raises:
        UsageError: no such context or several, a folder with something in it, an unknown pick.
        KdcurveError: there is no such search, it has no samples, or the context was not confirmed.
    """
    if pick not in PICKS:
        raise UsageError(f"--pick {pick!r} is unknown; known: {known(PICKS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {folder} is not an empty folder")
    ledger = Ledger(open_recorded(name, places), name)
    spec = ledger.spec
    require_samples(spec)
    answer = _answer(ledger, wanted)
    students = confirmed_students(answer, students_frame(ledger), spec.tuned)
    if not students:
        words = [f"--{k} {v}" for k, v in wanted.items() if v is not None]
        raise KdcurveError(
            f"{answer['label']} of {name} has no confirmed student; first: "
            f"{' '.join([next_command('confirm', name, places), *words])}"
        )
    ranked = sorted(students, key=lambda row: (row["val_score"], row["seed"]))
    picked = ranked[PICKS[pick](len(ranked))]
    event = ledger.confirmed[picked["key"]]
    config = TrialConfig.model_validate(event.data["config"])
    how = f"the {pick} of {len(ranked)} by validation ({picked['val_score']:.4f})"
    weights = _weights(event, config, places, name, say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        setting = _setting(ledger, event, config, places, f"{answer['label']}: {how}")
        np.save(folder / KEPT, setting.pop("positions"))
        shutil.copyfile(weights, folder / WEIGHTS)
        text = json.dumps(setting, indent=2)
        (folder / SETTING).write_text(text + "\n", "utf-8")
    except OSError as error:
        raise KdcurveError(f"cannot write {folder}: {error.strerror or error}") from error
    test = event.data["metrics"][TEST_SCORES[spec.objective]]
    return Export(
        tuple(folder / file for file in (SETTING, KEPT, WEIGHTS)),
        f"KD weight {config.kd_weight:.2f} for {answer['label']}; its student of seed "
        f"{config.seed}, {how}, has {test:.4f} on test:",
    )


def _answer(ledger: Ledger, wanted: Mapping[str, str | float | None]) -> dict[str, Any]:
    """The newest answer of the one context that is asked for."""
    if ledger.answer is None:
        raise KdcurveError(
            f"{ledger.search} has no recorded answers; kdcurve sync {ledger.search} makes them"
        )
    rows = rows_like(ledger.answer.data["curve"], ledger.spec, wanted)
    if len(rows) > 1:
        raise UsageError(
            f"{len(rows)} contexts of {ledger.search} are like this; name one: "
            f"{known(row['label'] for row in rows)}"
        )
    return rows[0]


def _weights(
    event: Event, config: TrialConfig, places: Places, name: str, say: Callable[[str], None]
) -> Path:
    """The file of a student's weights; it is trained again if they were not kept."""
    folder, key = places.confirmed / name, student_file(event.data["student"])
    try:
        cache.load(folder, key)
    except (FileNotFoundError, cache.DamagedError) as error:
        missing = isinstance(error, FileNotFoundError)
        say(f"{'its weights are not kept' if missing else error}; training it again")
        metrics = train_again(config, places.cache, folder)
        before = event.data["metrics"]
        apart = {k: v for k, v in metrics.items() if k.startswith("val_") and v != before[k]}
        if apart:
            say(f"not what was recorded, in {known(apart)}: another machine, or other versions")
    return folder / f"{key}.safetensors"


def _setting(
    ledger: Ledger, event: Event, config: TrialConfig, places: Places, picked: str
) -> dict[str, Any]:
    assert isinstance(config.dataset, ImageDataset)  # noqa: S101  (others were refused)
    splits = datasets.load(config.dataset, places.cache)
    kept = kept_samples(config, splits, places.cache)
    assert splits.positions is not None  # noqa: S101  (`load` always says)
    return {
        "format": FORMAT,
        "search": ledger.search,
        "picked": picked,
        "trial": config.model_dump(mode="json"),
        "images": {
            "shape": list(splits.shape),
            "classes": splits.classes,
            "mean": splits.mean.tolist(),
            "std": splits.std.tolist(),
        },
        "metrics": event.data["metrics"],
        "files": {"weights": WEIGHTS, "kept": KEPT},
        "provenance": {
            "student": event.data["student"],
            "versions": ledger.plan.get("versions", {}),
            "git_commit": ledger.plan.get("git_commit"),
        },
        "positions": np.sort(splits.positions[kept].numpy()),
    }

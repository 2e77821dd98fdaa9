"""Teachers: trained once or brought by the user, and what they say of every view."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from trainables import cache, datasets, engine, models, record
from trainables.augment import AUGMENTATIONS
from trainables.config import ImageDataset, SoftLabelsSpec, TeacherFile, TeacherSpec
from trainables.seeds import derive
from trainables.sizes import count_kept

LOGITS = "logits"
"""Name of a table of soft labels in the cache."""

Progress = Callable[[int, int], None]
"""Called with the parts done and their total."""


def make_teacher(
    spec: TeacherSpec, cache_folder: Path, progress: Progress | None = None
) -> cache.Entry:
    """Train a teacher on a stratified fraction of the training split, or read the user's.

    It sees the labels as given, noise included, like any student; the validation split
    only measures it.

    Returns:
        The state dict; metadata `val_accuracy`, `val_loss`, `parameters` and `spec` (JSON).

    Raises:
        ValueError: the user's file is not this architecture's.
    """
    if not isinstance(spec.dataset, ImageDataset):
        raise TypeError(f"the {spec.dataset.name} problem trains its own teachers")
    splits = datasets.load(spec.dataset, cache_folder)
    validation = datasets.validation_samples(splits)
    # A stream of its own: a teacher must not start from the weights of a student that
    # happens to have the same seed and architecture.
    seed = derive("teacher", spec.seed)
    model = models.build(spec.architecture, splits.shape, splits.classes, derive("weights", seed))
    device = engine.default_device()
    if spec.file is not None:
        load_weights(model, spec.file, spec.architecture, splits.classes)
        model = model.to(device)
        logits = engine.predict_logits(model, validation.on(device))
        metrics = engine.judge(logits, validation.labels.to(device))
    else:
        kept = datasets.stratified(
            splits.labels,
            count_kept(len(splits.labels), spec.fraction),
            datasets.generator("teacher subset", spec.seed),
        )
        training = engine.Training(
            model,
            datasets.training_samples(splits, kept),
            validation,
            spec.recipe,
            seed,
        )
        metrics = engine.train(
            training, lambda _: progress and progress(training.epoch, training.epochs)
        )
        model = training.model
    metadata = {
        record.VAL_ACCURACY: repr(metrics[record.VAL_ACCURACY]),
        record.VAL_LOSS: repr(metrics[record.VAL_LOSS]),
        "parameters": str(models.count_parameters(model)),
        "spec": json.dumps(spec.model_dump(mode="json")),
    }
    return dict(model.state_dict()), metadata


def load_weights(model: nn.Module, brought: TeacherFile, architecture: str, classes: int) -> None:
    """Fill a network from a file; nothing in the file is executed.

    Args:
        model: of this architecture and so many classes.
        brought: names safetensors, or a state dictionary (maybe under the key `state_dict` or
            `model`) that `torch.load` reads with `weights_only=True`.
        architecture: for messages.
        classes: for messages.

    Raises:
        ValueError: the file cannot be read or is not the one that was planned with, its names or
            shapes are another network's, or a value is not finite.
    """
    file = Path(brought.file)
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if file.suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
            for key in ("state_dict", "model"):
                if isinstance(state.get(key), dict):
                    state = state[key]
        # As `DataParallel` names them.
        state = {name.removeprefix("module."): torch.as_tensor(v) for name, v in state.items()}
    except Exception as error:
        cause = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(f"the teacher's file {file} cannot be read: {cause}") from error
    if brought.sha256 not in (None, found):
        raise ValueError(
            f"the teacher's file {file} is not the one that the search was planned with: its "
            f"SHA-256 is {found} instead of {brought.sha256}"
        )
    expected = model.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in expected]
    faults += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    faults += [
        f"{name} has values that are not finite"
        for name, value in state.items()
        if name in expected and not torch.isfinite(value).all()
    ]
    if faults:
        raise ValueError(
            f"the teacher's file {file} does not hold a {architecture} for {classes} classes: "
            + "; ".join(faults[:3])
            + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")  # noqa: PLR2004
        )
    model.load_state_dict(state)


def load_teacher(spec: TeacherSpec, cache_folder: Path, device: torch.device) -> nn.Module:
    """A teacher on a device, in evaluation mode; it is made if not cached."""
    assert isinstance(spec.dataset, ImageDataset)  # noqa: S101  (no other has teachers)
    splits = datasets.load(spec.dataset, cache_folder)
    state, _ = cache.get_or_make(cache_folder, spec.key, lambda: make_teacher(spec, cache_folder))
    model = models.build(spec.architecture, splits.shape, splits.classes, 0)
    model.load_state_dict(state)
    return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def make_soft_labels(
    spec: SoftLabelsSpec, cache_folder: Path, progress: Progress | None = None
) -> cache.Entry:
    """A teacher's logits of every view of every training image, or of the clean images.

    Returns:
        `LOGITS`, float16 `[views, n, classes]`; one view if not `spec.all_views`. Metadata
        `views` and `spec` (JSON).
    """
    assert isinstance(spec.teacher.dataset, ImageDataset)  # noqa: S101  (no other has teachers)
    splits = datasets.load(spec.teacher.dataset, cache_folder)
    device = engine.default_device()
    model = load_teacher(spec.teacher, cache_folder, device)
    images = datasets.training_samples(splits).on(device)
    count = AUGMENTATIONS[splits.augmentation].views if spec.all_views else 1
    table = torch.empty(count, len(splits.labels), splits.classes, dtype=torch.float16)
    for view in range(count):
        views = torch.full((len(images),), view, device=device) if count > 1 else None
        table[view] = engine.predict_logits(model, images, views).half().cpu()
        if progress is not None:
            progress(view + 1, count)
    metadata = {"views": str(count), "spec": json.dumps(spec.model_dump(mode="json"))}
    return {LOGITS: table}, metadata


def load_soft_labels(spec: SoftLabelsSpec, cache_folder: Path) -> Tensor:
    """A table of soft labels, float16 `[views, n, classes]`, mapped into memory.

    All processes of a node share its pages. It is made if not cached.
    """
    entry = cache.get_or_make(
        cache_folder, spec.key, lambda: make_soft_labels(spec, cache_folder), mapped=True
    )
    return entry[0][LOGITS]

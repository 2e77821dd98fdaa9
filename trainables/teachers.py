"""Teachers: trained once or brought by the user, and what they say of every view."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from trainables import cache, datasets, engine, models, record
from trainables.config import ImageDataset, SoftLabelsSpec, TeacherFile, TeacherSpec
from trainables.seeds import derive
from trainables.sizes import VIEWS, augmentation_of, count_kept
from trainables.training import Training, train

LOGITS = "logits"
"""Name of a table of soft labels in the cache."""
VIEWS_PER_SHARD = 9
"""Of a table that is made in parts: 81 and 162 views are whole numbers of shards."""

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
        training = Training(
            model,
            datasets.training_samples(splits, kept),
            validation,
            spec.recipe,
            seed,
        )
        metrics = train(training, lambda _: progress and progress(training.epoch, training.epochs))
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


def for_inference(model: nn.Module) -> nn.Module:
    """A copy that only answers: each batch norm is folded into the convolution before it.

    The same logits up to rounding, sooner. A network that `torch.fx` cannot follow is only frozen.

    Args:
        model: in evaluation mode.
    """
    try:
        answering = fuse(model)
    except Exception:  # noqa: BLE001  (a user's network may do whatever it likes)
        answering = copy.deepcopy(model)
    return answering.requires_grad_(False)


def shards(spec: SoftLabelsSpec) -> list[range]:
    """The views of a table in the parts that it is made in, each by itself."""
    assert isinstance(spec.teacher.dataset, ImageDataset)  # noqa: S101  (no other has teachers)
    count = VIEWS[augmentation_of(spec.teacher.dataset)] if spec.all_views else 1
    starts = range(0, count, VIEWS_PER_SHARD)
    return [range(start, min(start + VIEWS_PER_SHARD, count)) for start in starts]


def shard_key(spec: SoftLabelsSpec, index: int) -> str:
    """Name of one part of a table in the cache."""
    return f"{spec.key}-shard{index}"


def make_shard(
    spec: SoftLabelsSpec, index: int, cache_folder: Path, progress: Progress | None = None
) -> Tensor:
    """A teacher's logits of some views of every training image; they are made if not cached.

    Args:
        spec: of the table.
        index: which of its `shards`.
        cache_folder: where they are kept under `shard_key`, until the table is whole.
        progress: called with the shard's views done and their total, unless it is cached.

    Returns:
        float16 `[views of the shard, n, classes]`, mapped into memory.
    """
    assert isinstance(spec.teacher.dataset, ImageDataset)  # noqa: S101  (no other has teachers)
    dataset = spec.teacher.dataset
    views = shards(spec)[index]

    def make() -> cache.Entry:
        splits = datasets.load(dataset, cache_folder)
        device = engine.default_device()
        model = for_inference(load_teacher(spec.teacher, cache_folder, device))
        images = datasets.training_samples(splits).on(device)
        part = torch.empty(len(views), len(images), splits.classes, dtype=torch.float16)
        for row, view in enumerate(views):
            # The one view of a table that has no others is the clean image.
            which = torch.full((len(images),), view, device=device) if spec.all_views else None
            part[row] = engine.predict_logits(model, images, which).half().cpu()
            if progress is not None:
                progress(row + 1, len(views))
        return {LOGITS: part}, {"views": str(len(views))}

    return cache.get_or_make(cache_folder, shard_key(spec, index), make, mapped=True)[0][LOGITS]


def make_soft_labels(
    spec: SoftLabelsSpec, cache_folder: Path, progress: Progress | None = None
) -> cache.Entry:
    """A teacher's logits of every view of every training image, or of the clean images.

    Shards that are cached are not made again, so that what was interrupted goes on.

    Args:
        spec: of the table.
        cache_folder: holds the shards.
        progress: called with the views done and their total.

    Returns:
        `LOGITS`, float16 `[views, n, classes]`; one view if not `spec.all_views`. Metadata
        `views` and `spec` (JSON).
    """
    parts = shards(spec)
    count = parts[-1].stop

    def after(start: int) -> Progress | None:
        return progress and (lambda done, _: progress(start + done, count))

    table = torch.cat(
        [make_shard(spec, i, cache_folder, after(views.start)) for i, views in enumerate(parts)]
    )
    metadata = {"views": str(count), "spec": json.dumps(spec.model_dump(mode="json"))}
    return {LOGITS: table}, metadata


def get_soft_labels(
    spec: SoftLabelsSpec, cache_folder: Path, progress: Progress | None = None
) -> cache.Entry:
    """A whole table, mapped into memory, with its metadata; it is made if not cached.

    All processes of a node share its pages. What it was put together from is removed.
    """
    entry = cache.get_or_make(
        cache_folder,
        spec.key,
        lambda: make_soft_labels(spec, cache_folder, progress),
        mapped=True,
    )
    for index in range(len(shards(spec))):
        cache.discard(cache_folder, shard_key(spec, index))
    return entry


def load_soft_labels(spec: SoftLabelsSpec, cache_folder: Path) -> Tensor:
    """A table of soft labels, float16 `[views, n, classes]`; see `get_soft_labels`."""
    return get_soft_labels(spec, cache_folder)[0][LOGITS]

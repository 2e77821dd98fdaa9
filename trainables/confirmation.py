"""A student trained once more for a confirmation, and judged on the test set when it has ended.

Nothing else reads test data: a search steers by the validation split alone.
"""

import contextlib
import json
import logging
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from trainables import cache, calibration, checkpoint, datasets, record
from trainables.config import RidgeDataset, TrialConfig, student_key
from trainables.engine import Metrics, autocast, predict_logits
from trainables.held_out import load_test
from trainables.problem import open_training
from trainables.training import Trainable, Training

logger = logging.getLogger(__name__)


def student_file(key: str) -> str:
    """Name of the file that a student's weights are kept in, without the ending."""
    return f"student-{key}"


def require_test(config: TrialConfig, cache_folder: Path) -> int:
    """Make sure that there is a test set before a student is trained.

    Returns:
        Its samples; 0 for the closed-form problem, whose students are judged on the population.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if isinstance(config.dataset, RidgeDataset):
        return 0
    return len(load_test(config.dataset, cache_folder)[1])


def train_and_test(
    config: TrialConfig,
    cache_folder: Path,
    *,
    weights: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_every_s: float = 60.0,
) -> Metrics:
    """Train a student to the end of its budget, then judge it on the test set, once.

    Args:
        config: of the student.
        cache_folder: with whatever students share; what is missing there is made.
        weights: folder to keep the trained weights in, under `student_file`.
        checkpoints: folder to go on from if this was begun before; it is removed at the end.
        checkpoint_every_s: seconds between checkpoints.

    Returns:
        The metrics of the last epoch and those on test, by the names of `record`.

    Raises:
        Diverged: a loss or a logit was not finite.
        DataError: there is no test set.
    """
    training, metrics = _train(config, cache_folder, checkpoints, checkpoint_every_s)
    tested = _test(training, config, cache_folder, metrics)
    if weights is not None and isinstance(training, Training):
        _keep(training, config, weights, metrics | tested)
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return metrics | tested


def train_again(config: TrialConfig, cache_folder: Path, weights: Path) -> Metrics:
    """Train a student once more for its weights alone; the test set is left alone.

    Returns:
        The metrics of the last epoch: on a CPU those of the first time, bit for bit.
    """
    training, metrics = _train(config, cache_folder, None, 0.0)
    assert isinstance(training, Training)  # noqa: S101  (the closed-form problem has no weights)
    _keep(training, config, weights, metrics)
    return metrics


def _train(
    config: TrialConfig, cache_folder: Path, checkpoints: Path | None, every_s: float
) -> tuple[Trainable, Metrics]:
    """A training at its end, and the metrics of its last epoch."""
    training = open_training(config, cache_folder)
    for saved in checkpoint.newest_first(checkpoints) if checkpoints is not None else ():
        try:
            training.load_state_dict(saved.state)
            break
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            logger.warning("the checkpoint of epoch %d is of no use: %r", saved.epoch, error)
            training = open_training(config, cache_folder)  # it may be half loaded
    metrics: Metrics = {}
    saved_at = time.perf_counter()
    while training.epoch < training.epochs:
        metrics = training.step()
        due = time.perf_counter() - saved_at >= every_s
        if checkpoints is not None and due and training.epoch < training.epochs:
            # A full disk costs the checkpoint, not the student.
            with contextlib.suppress(OSError):
                checkpoint.save(checkpoints, training.epoch, training.state_dict(), [])
            saved_at = time.perf_counter()
    return training, metrics


def _test(
    training: Trainable, config: TrialConfig, cache_folder: Path, validated: Metrics
) -> Metrics:
    if isinstance(config.dataset, RidgeDataset) or not isinstance(training, Training):
        return {record.TEST_R2: validated[record.VAL_R2]}
    splits = datasets.load(config.dataset, cache_folder)
    images, labels = load_test(config.dataset, cache_folder)
    samples = datasets.Samples(images, labels, splits.mean, splits.std)
    with autocast(config.recipe, training.device):
        logits = predict_logits(training.model, samples.on(training.device))
    labels = labels.to(training.device)
    if not torch.isfinite(logits).all():
        raise ArithmeticError("the logits on the test set are not finite")
    temperature = validated[record.VAL_TEMPERATURE]
    return {
        record.TEST_ACCURACY: (logits.argmax(1) == labels).float().mean().item(),
        record.TEST_NLL: F.cross_entropy(logits, labels).item(),
        # Fitted on the validation split: a temperature fitted here would have seen the labels.
        record.TEST_NLL_SCALED: F.cross_entropy(logits / temperature, labels).item(),
        record.TEST_ECE: calibration.expected_calibration_error(logits, labels),
    }


def _keep(training: Training, config: TrialConfig, folder: Path, metrics: Metrics) -> None:
    """Leave the weights for `kdcurve export`; a full disk costs them alone."""
    # Cloned, because safetensors refuses tensors that share memory.
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in training.model.state_dict().items()
    }
    about = {"trial": json.dumps(config.model_dump(mode="json")), "metrics": json.dumps(metrics)}
    try:
        cache.store(folder, student_file(student_key(config)), state, about)
    except OSError as error:
        logger.warning("the weights of a student are not kept: %s", error)

"""The Ray Tune trainable: prepare, restore, step, checkpoint."""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune
from ray._private.state import state as cluster_state

from trainables import cache, checkpoint, memory
from trainables.config import TrialConfig, content_key
from trainables.engine import Metrics
from trainables.problem import open_training
from trainables.record import EPOCH, VAL_LABELS, VAL_LOGITS, logits_key
from trainables.threads import pin_threads
from trainables.training import Trainable, Training

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5
"""Epochs shorter than this are reported together, to spare Tune's event loop."""
NOTICE_EVERY_S = 5.0
"""How often a trial asks whether its machine is about to be taken away."""


class MachineLeavingError(RuntimeError):
    """A process on a machine that is about to be taken away was given another trial."""


class DistillationTrial(tune.Trainable):
    """One student trained once.

    Tune's configuration holds ``trial`` (a `TrialConfig`), ``number``, ``rungs`` (epochs
    at which to stop and report), ``objective``, ``cache`` (a folder) and ``cpus``; also
    ``checkpoints`` (the search's folder, or None for never) and ``checkpoint_every_s``,
    ``report_every_s``, and ``logits`` (a folder for the validation logits of trials that
    reach their end). An actor is reused for one trial after another, and keeps the data in
    memory.

    Checkpoints are the trial's own business. Tune's would have a trial fail if its newest
    one is damaged, and know nothing of the reports that a killed search did not record.
    """

    # Of the machine, whatever trial is here.
    _asked_at = 0.0
    _leaving = False

    def setup(self, config: dict[str, Any]) -> None:
        """Take note of what to train; the first step opens it.

        A trial counts as running, and is watched, from its first step on.
        """
        pin_threads(config["cpus"])
        memory.keep_freed()
        self._number = config["number"]
        self._objective = config["objective"]
        self._rungs = frozenset(config["rungs"])
        self._trial = TrialConfig.model_validate(config["trial"])
        self._cache = Path(config["cache"])
        checkpoints = config.get("checkpoints")
        self._folder = (
            None
            if checkpoints is None
            else checkpoint.trial_folder(Path(checkpoints), self._number)
        )
        logits = config.get("logits")
        self._logits = None if logits is None else Path(logits)
        self._checkpoint_every_s = config.get("checkpoint_every_s", 60.0)
        self._report_every_s = config.get("report_every_s", REPORT_EVERY_S)
        self._training: Trainable | None = None
        self._reports: list[Metrics] = []
        self._to_replay: list[Metrics] = []
        self._saved_at = time.perf_counter()

    def open(self) -> Trainable:
        """The student, where its checkpoint left it if there is one.

        Data, teacher and scores come from the cache.
        """
        if self._training is None:
            self._training, self._reports = self._open()
            self._to_replay = self._reports
            self._saved_at = time.perf_counter()
        return self._training

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process.

        Raises:
            MachineLeavingError: it would not last here; Ray starts the next process elsewhere.
        """
        self._asked_at = 0.0  # a notice may have come since the last trial asked
        if self._is_leaving():
            raise MachineLeavingError("the machine is about to be taken away")
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Report what a checkpoint brought back, and once that is done, train.

        Returns:
            ``reports`` of one or more epochs; number, epoch and objective after the last of
            them; whether that is ``done``; the epoch of the ``checkpoint`` written, if any; and
            ``memory_used``, the share of the machine's memory that is taken.
        """
        training = self.open()
        saved = None
        reports = self._replay()
        if not reports:
            reports = self._train(training)
            saved = self._checkpoint(training)
            if training.epoch >= training.epochs:
                self._save_logits(training)
        epoch = reports[-1][EPOCH]
        return {
            "number": self._number,
            EPOCH: epoch,
            self._objective: reports[-1][self._objective],
            "reports": reports,
            "done": epoch >= training.epochs,
            "checkpoint": saved,
            "memory_used": psutil.virtual_memory().percent / 100,
        }

    def _open(self) -> tuple[Trainable, list[Metrics]]:
        """The training of the newest usable checkpoint with its reports, or a fresh one."""
        if self._folder is None:
            return open_training(self._trial, self._cache), []
        for saved in checkpoint.newest_first(self._folder):
            # A new one each time: what does not fit may be half loaded when it is noticed.
            training = open_training(self._trial, self._cache)
            try:
                self._take_up(training, saved)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                logger.warning(
                    "the checkpoint of epoch %d in %s is of no use: %r; trying the one before it",
                    saved.epoch,
                    self._folder,
                    error,
                )
                continue
            reports, epoch = saved.reports, saved.epoch
            break
        else:
            training, reports, epoch = open_training(self._trial, self._cache), [], 0
        # At worst, what cannot be removed counts among the two that are kept.
        with contextlib.suppress(OSError):
            checkpoint.discard_after(self._folder, epoch)
        return training, reports

    def _take_up(self, training: Trainable, saved: checkpoint.Checkpoint) -> None:
        # Only the number is in the folder's name: a search deleted and begun anew has the
        # same ones.
        if saved.state["trial"] != content_key(self._trial):
            raise ValueError("another trial wrote it")
        training.load_state_dict(saved.state["training"])

    def _replay(self) -> list[Metrics]:
        """What is left of the restored reports, up to the next rung.

        The record may have lost the newest of them, and the scheduler has to see every rung.
        """
        at_rungs = (
            i for i, report in enumerate(self._to_replay, 1) if report[EPOCH] in self._rungs
        )
        end = next(at_rungs, len(self._to_replay))
        reports, self._to_replay = self._to_replay[:end], self._to_replay[end:]
        return reports

    def _train(self, training: Trainable) -> list[Metrics]:
        """Train until something is worth a report: a rung, the end, or half a second."""
        began = time.perf_counter()
        reports = []
        while True:
            reports.append(training.step())
            if (
                training.epoch >= training.epochs
                or training.epoch in self._rungs
                or time.perf_counter() - began > self._report_every_s
            ):
                self._reports = self._reports + reports
                return reports

    def _save_logits(self, training: Trainable) -> None:
        """Leave the validation logits for whoever compares trials by more than accuracy.

        A file as `record` describes it; a full disk costs it alone.
        """
        if self._logits is None or not isinstance(training, Training):
            return  # the closed-form problem has none
        tensors = {
            VAL_LOGITS: training.val_logits.half().cpu().contiguous(),
            VAL_LABELS: training.val_labels.int().cpu().contiguous(),
        }
        try:
            cache.store(self._logits, logits_key(self._number), tensors, {})
        except OSError as error:
            logger.warning("no validation logits of trial %d: %s", self._number, error)

    def _checkpoint(self, training: Trainable) -> int | None:
        """Write a checkpoint if it is time for one; returns its epoch.

        On a machine that is about to go it always is. A full disk costs the checkpoint, not the
        trial.
        """
        epoch = training.epoch
        if self._folder is None or epoch >= training.epochs:
            return None
        waited_s = time.perf_counter() - self._saved_at
        if waited_s < self._checkpoint_every_s and not self._is_leaving():
            return None
        state = {"trial": content_key(self._trial), "training": training.state_dict()}
        try:
            checkpoint.save(self._folder, epoch, state, self._reports)
        except OSError as error:
            logger.warning("no checkpoint of epoch %d in %s: %s", epoch, self._folder, error)
            return None
        finally:
            self._saved_at = time.perf_counter()
        return epoch

    def _is_leaving(self) -> bool:
        """Whether Ray drains this machine, since a notice came that it will be taken away."""
        now = time.perf_counter()
        if not self._leaving and now - self._asked_at >= NOTICE_EVERY_S and ray.is_initialized():
            self._asked_at = now
            # A cluster that does not answer now says it the next time.
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                here = ray.get_runtime_context().get_node_id()
                self._leaving = here in cluster_state.get_draining_nodes()
        return self._leaving

"""The Ray Tune trainable: prepare, step, checkpoint, restore."""

import time
from pathlib import Path
from typing import Any

import torch
from ray.tune import Trainable
from threadpoolctl import threadpool_limits

from trainables.config import TrialConfig
from trainables.problem import open_training
from trainables.record import EPOCH

REPORT_EVERY_S = 0.5
"""Epochs shorter than this are reported together, to spare Tune's event loop."""


def pin_threads(cpus: float) -> None:
    """Use as many threads as Tune granted CPUs: busy processes with more collapse."""
    threads = max(1, int(cpus))
    torch.set_num_threads(threads)
    threadpool_limits(threads)


class DistillationTrial(Trainable):
    """One student trained once.

    Tune's configuration holds ``trial`` (a `TrialConfig`), ``number``, ``rungs`` (epochs
    at which to stop and report), ``objective``, ``cache`` (a folder) and ``cpus``. An
    actor is reused for one trial after another, and keeps the data in memory.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Build the student; data, teacher and scores come from the cache."""
        pin_threads(config["cpus"])
        self._number = config["number"]
        self._objective = config["objective"]
        self._rungs = frozenset(config["rungs"])
        self._training = open_training(
            TrialConfig.model_validate(config["trial"]), Path(config["cache"])
        )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until something is worth a report: a rung, the end, or half a second."""
        began = time.perf_counter()
        reports = []
        while True:
            reports.append(self._training.step())
            epoch = self._training.epoch
            done = epoch >= self._training.epochs
            if done or epoch in self._rungs or time.perf_counter() - began > REPORT_EVERY_S:
                break
        return {
            "number": self._number,
            EPOCH: epoch,
            self._objective: reports[-1][self._objective],
            "reports": reports,
            "done": done,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write all that is needed to go on bit for bit."""
        torch.save(self._training.state_dict(), Path(checkpoint_dir) / "training.pt")

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Go on from the checkpoint in a folder; nothing in it is executed."""
        path = Path(checkpoint) / "training.pt"
        self._training.load_state_dict(torch.load(path, weights_only=True))

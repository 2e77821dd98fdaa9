"""What is left of disk and memory: a word before the cliff, and a clean stop at its edge."""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
from ray.tune import Stopper

from search.unpickled import Unpickled

LOOK_EVERY_S = 5.0
WARN_BYTES, WARN_SHARE = 5 * 2**30, 0.1
"""Free space below which the user is told: so many bytes, or of a small disk such a share."""
STOP_BYTES, STOP_SHARE = 256 * 2**20, 0.02
"""Free space below which the search stops: the record still needs some to close."""
WARN_MEMORY = 0.9
"""Share of a machine's memory; at 0.95 Ray begins to end processes."""


class Reserves(Unpickled, Stopper):
    """Watches the disks that the search writes to, and the memory of the machines it runs on.

    Args:
        folders: on the disks.
        say: takes note of a line for the user.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # One folder for each disk.
        self._folders = {folder.stat().st_dev: folder for folder in folders}.values()
        self._say = say
        self._clock = clock
        self._looked = -LOOK_EVERY_S
        self._told: set[str] = set()
        self.exhausted: str | None = None
        """Why the search has to stop."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take note of the memory of the machine that a report comes from; ends no trial."""
        self._watch_memory(str(result.get("hostname")), result.get("memory_used", 0.0))
        return False

    def stop_all(self) -> bool:
        """Whether a disk is so full that the search has to stop."""
        now = self._clock()
        if self.exhausted is None and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._watch_memory("this machine", psutil.virtual_memory().percent / 100)
            for folder in self._folders:
                self._watch_disk(folder)
        return self.exhausted is not None

    def _watch_disk(self, folder: Path) -> None:
        space = shutil.disk_usage(folder)
        left = f"{space.free / 2**20:.0f} MiB are left on the disk of {folder}"
        if space.free < min(STOP_BYTES, STOP_SHARE * space.total):
            self.exhausted = left
            self._say(f"stopping: {left}; make space, then resume")
        elif space.free < min(WARN_BYTES, WARN_SHARE * space.total):
            stop_at = min(STOP_BYTES, STOP_SHARE * space.total) / 2**20
            self._tell(str(folder), f"{left}; the search stops at {stop_at:.0f} MiB")

    def _watch_memory(self, machine: str, used: float) -> None:
        if used > WARN_MEMORY:
            self._tell(
                machine,
                f"{used:.0%} of the memory of {machine} are taken; above 95% Ray ends processes, "
                "whose trials are taken up again with more room",
            )

    def _tell(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._say(text)

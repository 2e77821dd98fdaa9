"""What Tune may pickle of ours: nothing."""

from typing import Any


class Unpickled:
    """Base of the parts that Tune would save in its snapshots.

    Everything they hold derives from the record, and no search is restored from Tune's
    files: they pickle as empty shells.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}

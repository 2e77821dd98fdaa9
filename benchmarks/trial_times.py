"""What do a recorded search's trials cost beyond their own training?

    python benchmarks/trial_times.py NAME [RECORD]

Reads the record (by default ``kdcurve-data/record.db``) of a search that ran two trials at a
time without a pause. Prints a line, and as its last line one JSON object.
"""

import json
import statistics
import sys
from importlib.metadata import version

from search.journal import EventKind, Journal
from trainables.record import SECONDS

WORKERS = 2


def main(name: str, record: str = "sqlite:///kdcurve-data/record.db") -> None:
    """Measure and print."""
    started, ended, trained = {}, {}, {}
    for event in Journal(record, create=False).events(name):
        if event.kind is EventKind.STARTED:
            started[event.trial] = event.time
        elif event.kind is EventKind.ENDED:
            ended[event.trial] = event.time
        elif event.kind is EventKind.REPORTED:
            trained[event.trial] = event.data["metrics"][SECONDS]
    wall_s = max(ended.values()) - min(started.values())
    training_s = sum(trained.values())
    figures = {
        "trials": len(ended),
        "wall_s": wall_s,
        "training_s": training_s,
        "overhead_s": (WORKERS * wall_s - training_s) / len(ended),
        "between_start_and_end_s": statistics.median(
            ended[trial] - started[trial] - trained[trial] for trial in ended
        ),
    }
    print("; ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    print(json.dumps({**figures, "versions": {"kdcurve": version("kdcurve")}}))


if __name__ == "__main__":
    main(*sys.argv[1:])

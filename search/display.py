"""What a search shows while it runs: one calm display, or a line now and then."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from analysis.secrets import RedactingFormatter
from search.ledger import Ledger
from search.space import SearchSpec
from search.stopping import Spent, shares
from trainables.record import Outcome

REFRESH_S = 0.5
LINE_EVERY_S = 15.0
"""How often a line is printed where there is no terminal."""


@contextlib.contextmanager
def quiet(log_file: Path, *, verbose: bool = False) -> Iterator[Console]:
    """Send all that libraries and workers print to a log file, and yield our own console.

    The file descriptors themselves are redirected: Ray's core and its workers write past
    Python's `sys.stdout`. With `verbose` nothing is redirected, only logged as well.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        if verbose:
            yield Console()
            return
        sys.stdout.flush()
        sys.stderr.flush()
        terminal, errors = os.dup(1), os.dup(2)
        with log_file.open("ab") as log, os.fdopen(os.dup(1), "w", encoding="utf-8") as own:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                yield Console(file=own)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os.dup2(terminal, 1)
                os.dup2(errors, 2)
                os.close(terminal)
                os.close(errors)
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def duration(seconds: float) -> str:
    """Seconds as a person would say them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004  (seconds of a minute)
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004  (seconds of an hour)
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def progress_line(spec: SearchSpec, ledger: Ledger, elapsed_s: float, ended_before: int = 0) -> str:
    """One line on where a search stands.

    Args:
        spec: the search.
        ledger: what is known.
        elapsed_s: seconds since this process took it up.
        ended_before: trials that had ended by then (they say nothing of its speed).
    """
    counts = ledger.outcomes()
    ended = sum(counts[outcome] for outcome in Outcome)
    shown = {
        "running": counts["running"],
        "complete": counts[Outcome.COMPLETE],
        "stopped": counts[Outcome.STOPPED_EARLY],
        "failed": counts[Outcome.FAILED] + counts[Outcome.TIMEOUT],
    }
    split = ", ".join(f"{count} {name}" for name, count in shown.items() if count)
    done, contexts = ledger.contexts_done(), len(spec.context_list)
    line = (
        f"{contexts if done is None else f'{done}/{contexts}'} contexts · "
        f"{ended}{'' if spec.trials is None else f'/{spec.trials}'} trials"
        f"{f' ({split})' if split else ''} · {duration(elapsed_s)}"
    )
    used = Spent(spec, ledger.by_context, ledger.active_at(time.time()))
    for key, share in shares(spec, used).items():
        if key != "trials_per_context":
            line += f" · {min(share, 1.0):.0%} of {key}"
    left_s = []
    fresh = ended - ended_before
    if spec.trials is not None and fresh > 0 and ended < spec.trials:
        left_s.append(elapsed_s * (spec.trials - ended) / fresh)
    if spec.budget.wall_time_s is not None:
        left_s.append(max(0.0, spec.budget.wall_time_s - used.wall_time_s))
    return f"{line}, {duration(min(left_s))} left" if left_s else line


class Display:
    """Shows the progress of a search until it is left.

    Args:
        console: where to show it; a live line on a terminal, plain lines elsewhere.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def watching(self, spec: SearchSpec, ledger: Ledger) -> Iterator[None]:
        """Follow the trials of a search."""
        began = time.monotonic()
        ended_before = len(ledger.trials) - len(ledger.unfinished())
        with self.following(
            lambda: progress_line(spec, ledger, time.monotonic() - began, ended_before)
        ):
            yield

    @contextlib.contextmanager
    def following(self, line: Callable[[], str]) -> Iterator[None]:
        """Show a line that changes."""
        stop = threading.Event()

        def plain() -> None:
            while not stop.wait(LINE_EVERY_S):
                self.say(line())

        if self.console.is_terminal:
            with Live(
                console=self.console,
                get_renderable=lambda: Text(line()),
                refresh_per_second=1 / REFRESH_S,
                redirect_stdout=False,
                redirect_stderr=False,
            ):
                yield
            return
        thread = threading.Thread(target=plain, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.say(line())

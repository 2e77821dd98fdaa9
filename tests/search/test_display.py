import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from search import display
from search.display import Display, duration, progress_line
from search.journal import EventKind
from trainables.record import Outcome


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (200_000, "55 h 33 min"),
    ],
)
def test_durations_read_like_speech(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def half_way(make_spec, journal, plan):
    """A budget of 24 trials: 5 complete, 3 stopped early, 1 failed, 1 timeout, 2 running."""
    spec = make_spec()
    ledger = plan(journal, spec)
    outcomes = [Outcome.COMPLETE] * 5 + [Outcome.STOPPED_EARLY] * 3 + [Outcome.FAILED]
    for number, outcome in enumerate([*outcomes, Outcome.TIMEOUT, None, None]):
        context = spec.context_list[0].key
        proposal = {"context": context, "values": {}, "seed": 0, "start_design": False}
        ledger.record(EventKind.PROPOSED, number, **proposal)
        ledger.record(EventKind.STARTED, number)
        if outcome is not None:
            ledger.record(EventKind.ENDED, number, outcome=outcome, reason=None)
    return spec, ledger


def test_one_line_says_where_a_search_stands(half_way):
    spec, ledger = half_way
    assert progress_line(spec, ledger, 100) == (
        "0/2 contexts · 10/24 trials (2 running, 5 complete, 3 stopped, 2 failed)"
        " · 1 min 40 s, 2 min 20 s left"
    )


def test_without_a_number_of_trials_the_line_says_what_is_used_of_the_budget(
    make_spec, journal, plan
):
    spec = make_spec(budget={"epoch_samples": 129 * 8})
    ledger = plan(journal, spec)
    context = spec.context_list[0].key
    proposal = {"context": context, "values": {}, "seed": 0, "start_design": False}
    ledger.record(EventKind.PROPOSED, 0, **proposal)
    ledger.record(EventKind.REPORTED, 0, epoch=2, metrics={spec.objective: 0.5})
    assert progress_line(spec, ledger, 5) == "2 contexts · 0 trials · 5 s · 25% of epoch_samples"


def test_what_is_left_of_the_time_is_said(make_spec, journal, plan):
    spec = make_spec(budget={"wall_time_s": 7200})
    ledger = plan(journal, spec)
    line = progress_line(spec, ledger, 5)
    assert line == "2 contexts · 0 trials · 5 s · 0% of wall_time_s, 2 h 00 min left"


def test_trials_of_an_earlier_life_say_nothing_of_the_speed_of_this_one(half_way):
    spec, ledger = half_way
    assert "left" not in progress_line(spec, ledger, 100, ended_before=10)
    assert progress_line(spec, ledger, 100, ended_before=8).endswith("11 min 40 s left")


def test_without_a_terminal_a_line_is_printed_now_and_then_and_at_the_end(half_way, monkeypatch):
    monkeypatch.setattr(display, "LINE_EVERY_S", 0.01)
    text = io.StringIO()
    with Display(Console(file=text, width=200)).watching(*half_way):
        for _ in range(500):
            if "contexts" in text.getvalue():
                break
            display.time.sleep(0.01)
    lines = text.getvalue().splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("0/2 contexts · 10/24 trials") for line in lines)
    assert "\x1b" not in text.getvalue()


def test_on_a_terminal_there_is_one_live_line_that_gives_the_terminal_back(half_way):
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=200)).watching(*half_way):
        pass
    assert "0/2 contexts · 10/24 trials" in text.getvalue()
    assert text.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_lines_are_shown_as_they_are(half_way):
    text = io.StringIO()
    Display(Console(file=text, width=20)).say("teacher [bold] of a name longer than the console")
    assert text.getvalue() == "teacher [bold] of a name longer than the console\n"


NOISY = """
import logging, os, sys, warnings
from pathlib import Path
from search.display import quiet
with quiet(Path(sys.argv[1]), verbose=sys.argv[2] == "verbose") as console:
    print("from Python")
    os.write(1, b"past Python\\n")
    os.write(2, b"worker's complaint\\n")
    os.system("echo from a child")
    warnings.warn("a warning")
    logging.getLogger("ray").warning("from a logger")
    console.print("our own line")
print("afterwards")
os.write(2, b"errors afterwards\\n")
"""


def run_noisy(log, how):
    return subprocess.run(
        [sys.executable, "-c", NOISY, log, how], capture_output=True, text=True, check=True
    )


def test_all_that_libraries_print_goes_to_the_log_and_our_lines_to_the_user(tmp_path):
    log = tmp_path / "deep" / "kdcurve.log"
    done = run_noisy(log, "quiet")
    assert done.stdout == "our own line\nafterwards\n"
    assert done.stderr == "errors afterwards\n"
    logged = log.read_text()
    for text in ("from Python", "past Python", "worker's complaint", "from a child"):
        assert text in logged
    assert "a warning" in logged
    assert "WARNING ray: from a logger" in logged


def test_verbose_hides_nothing_and_logs_as_well(tmp_path):
    done = run_noisy(tmp_path / "kdcurve.log", "verbose")
    for text in ("from Python", "past Python", "from a child", "our own line", "afterwards"):
        assert text in done.stdout
    assert "worker's complaint" in done.stderr
    assert "from a logger" in (tmp_path / "kdcurve.log").read_text()


def test_the_log_grows_from_one_life_of_a_search_to_the_next(tmp_path):
    log = tmp_path / "kdcurve.log"
    for _ in range(2):
        run_noisy(log, "quiet")
    assert log.read_text().count("past Python") == 2


def test_an_error_within_gives_the_output_back(tmp_path, capfd):
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(KeyboardInterrupt), display.quiet(tmp_path / "kdcurve.log"):
        raise KeyboardInterrupt
    print("still here")  # noqa: T201
    assert "still here" in capfd.readouterr().out
    assert logging.getLogger().handlers == handlers

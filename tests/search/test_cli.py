import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from analysis.laws import LAWS
from analysis.schedule import load_schedule
from search import commands_launch, commands_upkeep
from search.cli import app
from search.journal import EventKind, Journal
from search.lease import Lease
from search.places import Places
from search.printing import next_command
from trainables.record import SearchState

PANELS = {
    "Launch": ["search", "resume", "attach", "stop", "status", "list"],
    "Ask": ["best", "compare", "curve", "fit", "predict", "report", "subset"],
    "Test": ["confirm", "export"],
    "Simulate": ["simulate", "table"],
    "Upkeep": ["sync", "rerun", "clean", "delete"],
}
LINE = "clipped-log-linear"
COMMANDS = [command for panel in PANELS.values() for command in panel]
SEARCH_FILE = """
name: mine
dataset: {name: digits}
student: cnn8
recipe: {epochs: 9}
contexts: {method: [random, el2n], fraction: [0.1, 0.9], teacher: cnn4}
"""


@pytest.fixture
def kdcurve(monkeypatch):
    """Run a command in this process; nothing of the user's environment reaches it."""
    for name in ("HOME", "RECORD", "TRACKING_URI", "STORAGE"):
        monkeypatch.delenv(f"KDCURVE_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="kdcurve")

    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SEARCH_FILE)
    return path


@pytest.fixture
def home(recorded, places):
    """A home that holds the complete search `recorded`."""
    return places.home


def failed(result, code):
    """The message of a command that failed as it should: one line, no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("kdcurve: ")
    assert "Traceback" not in result.output
    return result.stderr


def loaded_after(code, *modules):
    """Which of some modules a fresh Python has loaded after running code."""
    code += f"\nimport sys; print(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_where_things_live(kdcurve, command):
    result = kdcurve(command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Example: kdcurve {command}\b", result.stdout)
    for option in ("--home", "--record", "--tracking-uri", "--storage", "--verbose"):
        assert option in result.stdout


def test_help_lists_every_command_in_its_panel(kdcurve):
    _, *panels = re.split(r"─ (Launch|Ask|Test|Simulate|Upkeep) ─", kdcurve("--help").stdout)
    found = {
        name: re.findall(r"│ (\w+) ", text)
        for name, text in zip(panels[::2], panels[1::2], strict=True)
    }
    assert found == {**PANELS, "Launch": [*PANELS["Launch"], "schema", "cluster"]}
    assert list(found) == list(PANELS)
    assert "Example: kdcurve schema" in kdcurve("schema", "-h").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["serch"],
        ["search"],
        ["best", "x", "--fraction", "half"],
        ["best", "x", "--format", "xml"],
        ["status", "x", "--no-such-option"],
        ["predict", "schedule.json"],
        ["rerun", "x"],
        ["rerun", "x", "first"],
        ["delete"],
    ],
)
def test_bad_usage_is_code_2(kdcurve, arguments):
    result = kdcurve(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_bad_search_file_is_code_2_with_all_its_faults(kdcurve, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(SEARCH_FILE.replace("cnn8", "cnn9").replace("0.1,", "0.0,"))
    message = failed(kdcurve("search", path, "--home", tmp_path / "home"), 2)
    assert f"{path}: 2 faults" in message
    assert "student: 'cnn9'" in message
    assert "contexts.fraction[0]: 0.0" in message
    assert not (tmp_path / "home").exists()


def test_a_missing_search_file_is_code_2(kdcurve, tmp_path):
    assert "none.yaml: No such file" in failed(kdcurve("search", tmp_path / "none.yaml"), 2)


def test_a_bad_name_is_code_2(kdcurve, file):
    assert "name: 'No Good'" in failed(kdcurve("search", file, "--name", "No Good"), 2)


def test_a_dry_run_prints_the_plan_and_writes_nothing(kdcurve, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = kdcurve("search", file, "--dry-run", "--name", "other")
    assert result.exit_code == 0
    plan = dict(line.strip().split("  ", 1) for line in result.stdout.strip().splitlines())
    assert plan["search"] == "other"
    assert plan["contexts"] == "4 (2 methods × 2 fractions × 1 teacher)"
    assert plan["trials"].startswith(
        "48 (12 per context on average, where they teach most, 3 seeds)"
    )
    # 2 methods x 12 trials x 9 epochs x (129 + 1164) samples; a teacher (cnn4) of 0.305 times the
    # cost, its table of one view, and 10 scorings of an epoch and a look each.
    assert plan["compute"].startswith("at most 279 k epochs × samples in trials and 20.9 k for")
    assert plan["teaching"] == (
        "views: a table of 1 view a teacher, 25.9 kB (chosen for you: tables cost 132 epochs × "
        "samples, asking up to 28.4 k; cnn4 costs 0.305 times the student)"
    )
    assert "estimate" not in plan
    assert list(tmp_path.iterdir()) == [file]


def test_a_search_on_gpus_is_priced_and_what_that_rests_on_is_said(kdcurve, file):
    file.write_text(file.read_text() + "\nresources: {gpu: 0.5}\n")
    told = kdcurve("search", file, "--dry-run", "--tflops", "1e-3").stdout
    # 300 k epochs × samples of 3 × 47,360 FLOPs at 10⁹ FLOP/s, for 2 methods.
    assert "up to 0.0118 GPU hours, 0.00592 a curve, if a GPU sustains 0.001 TFLOP/s" in told


def test_the_smoke_form_has_its_own_name_and_plan(kdcurve, file):
    plan = kdcurve("search", file, "--dry-run", "--smoke").stdout
    assert "mine-smoke" in plan
    assert "32 (8 per context on average, where they teach most, 2 seeds)" in plan


def test_a_home_that_cannot_be_made_is_code_1(kdcurve, file, tmp_path):
    message = failed(kdcurve("search", file, "--home", file / "home"), 1)
    assert f"cannot create the folder {file / 'home'}" in message
    assert "--home or --storage" in message


def test_a_name_already_used_is_code_2_with_a_free_one(kdcurve, file, tmp_path, make_spec, plan):
    journal = Journal(f"sqlite:///{tmp_path / 'record.db'}")
    for name in ("mine", "mine-2"):
        plan(journal, make_spec(name=name))
    message = failed(kdcurve("search", file, "--home", tmp_path), 2)
    assert "'mine' is recorded already" in message
    assert "--name mine-3" in message


def test_a_tracking_uri_that_cannot_be_used_is_code_1_and_nothing_is_recorded(
    kdcurve, file, tmp_path
):
    arguments = ("--home", tmp_path, "--tracking-uri", "sqlite:////proc/no/such/mlflow.db")
    message = failed(kdcurve("search", file, *arguments), 1)
    assert "mlflow.db cannot be used" in message
    assert Journal(f"sqlite:///{tmp_path / 'record.db'}").searches() == []


@pytest.mark.parametrize("command", ["status", "resume", "sync", "rerun", "delete"])
def test_an_unknown_search_is_code_1_with_the_name_that_comes_near(kdcurve, home, command):
    rest = ["3"] if command == "rerun" else []
    message = failed(kdcurve(command, "recorderd", *rest, "--home", home), 1)
    assert "no search named 'recorderd'" in message
    assert "did you mean recorded?" in message


@pytest.mark.parametrize("command", ["best", "compare", "curve", "fit", "report"])
def test_a_question_about_an_unknown_search_is_code_1(kdcurve, home, command, tmp_path):
    arguments = ["--out", tmp_path / "x"] if command in ("fit", "report") else []
    arguments += ["recorded"] if command == "compare" else []
    message = failed(kdcurve(command, "recorderd", *arguments, "--home", home), 1)
    assert "recorderd" in message
    assert "did you mean recorded" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        *("status x", "resume x", "list", "best x", "curve x", "fit x"),
        *("sync x", "rerun x 1", "clean", "delete x"),
    ],
)
def test_where_nothing_was_recorded_is_code_1_and_nothing_is_created(kdcurve, tmp_path, command):
    message = failed(kdcurve(*command.split(), "--home", tmp_path / "none"), 1)
    assert "none" in message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_status_and_list_say_where_a_search_stands(kdcurve, home):
    status = kdcurve("status", "recorded", "--home", home)
    assert status.exit_code == 0
    assert status.stdout.startswith("recorded: complete\n4/4 contexts · 48/48 trials (")
    listed = kdcurve("list", "--home", home).stdout
    assert re.search(r"recorded +complete +48 of 48", listed)


@pytest.fixture
def begun(tmp_path, make_spec, plan):
    """A search with one failed trial that has not come to a halt; nobody runs it."""
    ledger = plan(Journal(f"sqlite:///{tmp_path / 'record.db'}"), make_spec())
    context = ledger.spec.context_list[0].key
    proposal = {"context": context, "values": {"kd_weight": 0.5}, "seed": 0, "start_design": True}
    ledger.record(EventKind.PROPOSED, 0, **proposal)
    reason = "ValueError: loss [nan] is not finite"
    ledger.record(EventKind.ENDED, 0, outcome="failed", reason=reason)
    return ledger


def test_a_failed_trial_is_told_with_its_reason(kdcurve, tmp_path, begun):
    status = kdcurve("status", "rehearsal", "--home", tmp_path).stdout
    assert "trial 0 failed: ValueError: loss [nan] is not finite" in status


def test_status_and_list_say_who_runs_a_search(kdcurve, tmp_path, begun):
    lease = Lease(begun.journal, "rehearsal")
    status = kdcurve("status", "rehearsal", "--home", tmp_path).stdout
    who = rf"running \(process {os.getpid()} on \S+ since [\d: -]+, last event \d+ s ago\)"
    assert re.match(f"rehearsal: {who}\n", status)
    assert "resume" not in status
    assert re.search(who, kdcurve("list", "--home", tmp_path).stdout)
    lease.release()


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (None, "interrupted (its process is gone)"),
        (SearchState.INTERRUPTED, "interrupted"),
        (SearchState.FAILED, "failed"),
    ],
)
def test_a_search_that_is_not_complete_comes_with_the_command_to_go_on(
    kdcurve, tmp_path, begun, state, shown
):
    if state is not None:
        begun.record(EventKind.CLOSED, state=state)
    status = kdcurve("status", "rehearsal", "--home", tmp_path).stdout
    assert status.startswith(f"rehearsal: {shown}\n")
    assert status.endswith(f"kdcurve resume rehearsal --home {tmp_path}\n")
    assert shown in kdcurve("list", "--home", tmp_path).stdout


def test_a_complete_search_has_no_command_to_go_on_with(kdcurve, home):
    assert "resume" not in kdcurve("status", "recorded", "--home", home).stdout


def test_an_empty_record_is_said(kdcurve, tmp_path):
    Journal(f"sqlite:///{tmp_path / 'record.db'}")
    assert kdcurve("list", "--home", tmp_path).stdout == "No searches are recorded.\n"


def test_a_search_is_extended_by_a_file_that_only_adds(kdcurve, tmp_path, begun, monkeypatch):
    from search import launch

    taken = {}
    monkeypatch.setattr(launch, "resume", lambda name, places, **options: taken.update(options))
    monkeypatch.setattr(commands_launch, "_follow", lambda *arguments: arguments[-1](None))
    file = tmp_path / "more.yaml"
    file.write_text(SEARCH_FILE)
    arguments = ("rehearsal", "--home", tmp_path, "--file", file, "--take-over")
    assert kdcurve("resume", *arguments).exit_code == 0
    assert taken["extended"].name == "rehearsal"  # the search's name, whatever the file says
    assert taken["take_over"]
    monkeypatch.undo()
    message = failed(kdcurve("resume", *arguments), 2)
    assert "rehearsal cannot be extended like this" in message
    assert "recipe: " in message


def test_a_trial_that_is_repeated_is_shown_beside_the_record(kdcurve, exact_search):
    result = kdcurve("rerun", "exact", "5", "--home", exact_search.home)
    assert result.exit_code == 0, result.output
    assert "trial 5 of exact: random f=" in result.stdout
    last = next(line for line in result.stdout.splitlines() if line.startswith("val_r2"))
    _, recorded, repeated, difference = last.split()
    assert (recorded, difference) == (repeated, "none")
    assert re.search(r"equal bit for bit over \d epochs", result.stdout)


def test_a_trial_that_comes_out_otherwise_is_code_1(kdcurve, tmp_path, exact_search):
    original = Journal(f"sqlite:///{exact_search.home / 'record.db'}")
    events = list(original.events("exact"))
    reports = [e for e in events if e.kind is EventKind.REPORTED and e.trial == 5]
    reports[-2].data["metrics"]["val_r2"] += 1e-6
    Journal(f"sqlite:///{tmp_path / 'record.db'}").write("exact", events)
    result = kdcurve("rerun", "exact", "5", "--home", tmp_path)
    assert "trial 5 is not what was recorded: val_r2" in failed(result, 1)
    assert f"1e-06 in epoch {reports[-2].data['epoch']}" in result.stdout
    assert "equal" not in result.stdout


def test_a_failed_trial_that_is_repeated_shows_its_exception(kdcurve, tmp_path, begun, monkeypatch):
    from search import repetition

    def broken(config, cache):
        raise ValueError("loss [nan] is not finite")

    monkeypatch.setattr(repetition, "open_training", broken)
    result = kdcurve("rerun", "rehearsal", "0", "--home", tmp_path)
    assert result.exit_code == 1
    assert "recorded: failed, 0 epochs: ValueError: loss [nan] is not finite" in result.stdout
    assert 'raise ValueError("loss [nan] is not finite")' in result.stdout  # the traceback
    assert result.stderr == "kdcurve: trial 0 raised after 0 epochs\n"


def test_what_would_be_deleted_is_shown_and_asked_for(kdcurve, tmp_path, begun, monkeypatch):
    log = tmp_path / "searches" / "rehearsal" / "kdcurve.log"
    log.parent.mkdir(parents=True)
    log.write_text("x" * 2_500_000)
    arguments = ("delete", "rehearsal", "--home", tmp_path)
    result = kdcurve(*arguments)
    assert "no terminal to ask at; add --yes" in failed(result, 2)
    assert "3 events of 1 trial in the record" in result.stdout
    assert f"{log.parent} (1 file, 2.5 MB)" in result.stdout
    monkeypatch.setattr(commands_upkeep, "_somebody_is_there", lambda: True)
    monkeypatch.setattr(commands_upkeep.typer, "confirm", lambda question: False)
    assert "nothing was removed" in failed(kdcurve(*arguments), 1)
    assert log.exists()
    assert begun.journal.searches() == ["rehearsal"]
    monkeypatch.setattr(commands_upkeep.typer, "confirm", lambda question: True)
    assert kdcurve(*arguments).exit_code == 0
    assert begun.journal.searches() == []
    assert not log.parent.exists()


def test_cleaning_says_what_goes_what_stays_and_asks(kdcurve, tmp_path, begun):
    from search.plan import shared_artifacts

    cache = tmp_path / "cache"
    cache.mkdir()
    needed = next(a.key for a in shared_artifacts(begun.spec) if a.key.startswith("teacher"))
    for key in (needed, "teacher-cnn8-0", "scores-el2n-0"):
        (cache / f"{key}.safetensors").write_bytes(b"x" * 1_200_000)
    result = kdcurve("clean", "--home", tmp_path)
    failed(result, 2)
    assert re.search(r"teachers +1 +1.2 MB\nscores +1 +1.2 MB\n", result.stdout)
    assert "Kept for rehearsal (interrupted): teachers (1 file)." in result.stdout
    assert "are made again when a search needs them" in result.stdout
    assert "With --all" in result.stdout
    assert len(list(cache.iterdir())) == 3
    assert "Removed: 2.4 MB." in kdcurve("clean", "--home", tmp_path, "--yes").stdout
    assert [path.stem for path in cache.iterdir()] == [needed]
    assert "Nothing to remove." in kdcurve("clean", "--home", tmp_path).stdout
    assert kdcurve("clean", "--home", tmp_path, "--all", "--yes").exit_code == 0
    assert list(cache.iterdir()) == []


def test_syncing_says_what_was_done(kdcurve, home, recorded):
    result = kdcurve("sync", "recorded", "--home", home)
    assert result.exit_code == 0, result.output
    assert "MLflow has all 48 trials (0 delivered now)." in result.stdout
    assert str(Places.at(home).optuna("recorded")) in result.stdout


def test_runs_that_mlflow_refuses_make_syncing_fail(kdcurve, home, recorded, monkeypatch):
    from search import syncing

    done = syncing.Synced(0, 2, 0, 1, home, home, False, None, {"trial-1": "too long"})
    monkeypatch.setattr(syncing, "sync", lambda *_, **__: done)
    result = kdcurve("sync", "recorded", "--home", home)
    assert "does not have all of recorded" in failed(result, 1)
    assert "trial-1: too long" in result.stdout


def test_the_environment_says_where_things_live_and_an_option_overrules_it(
    kdcurve, home, tmp_path, monkeypatch
):
    monkeypatch.setenv("KDCURVE_HOME", str(home))
    assert "recorded" in kdcurve("list").stdout
    failed(kdcurve("list", "--home", tmp_path), 1)
    monkeypatch.setenv("KDCURVE_RECORD", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert "elsewhere.db" in failed(kdcurve("list"), 1)


def test_best_is_the_same_as_table_json_and_csv(kdcurve, home):
    answers = {}
    for kind in ("table", "json", "csv"):
        result = kdcurve("best", "recorded", "--home", home, "--format", kind)
        assert result.exit_code == 0
        answers[kind] = result.stdout
    rows = json.loads(answers["json"])
    read = list(csv.DictReader(io.StringIO(answers["csv"])))
    assert [r["fraction"] for r in rows] == [0.1, 0.3, 0.6, 0.9]
    weights = [float(row["kd_weight"]) for row in read]
    assert weights == pytest.approx([row["kd_weight"] for row in rows])
    for row in rows:
        assert row["kd_weight"] == pytest.approx(0.3, abs=0.1)  # as planted
        assert f"{row['kd_weight']:.2f}" in answers["table"]


def test_best_takes_only_what_is_asked_for(kdcurve, home):
    arguments = ("best", "recorded", "--home", home, "--format", "json")
    (row,) = json.loads(kdcurve(*arguments, "--fraction", "0.3").stdout)
    assert row["fraction"] == 0.3
    assert len(json.loads(kdcurve(*arguments, "--method", "random").stdout)) == 4
    assert "random" in failed(kdcurve(*arguments, "--method", "randm"), 1)
    assert "0.1" in failed(kdcurve(*arguments, "--fraction", "0.2"), 1)


def test_answers_are_estimated_as_asked(kdcurve, home):
    for command in ("best", "curve"):
        told = kdcurve(command, "recorded", "--home", home, "--estimator", "quadratic").stdout
        assert "estimated by quadratic" in told
        wrong = failed(kdcurve(command, "recorded", "--home", home, "--estimator", "cubic"), 1)
        assert "'cubic'" in wrong
        assert "surface" in wrong


def test_the_curve_is_written_in_the_form_that_its_name_asks_for(kdcurve, home, tmp_path):
    for name, start in (("a.csv", b"search"), ("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
        path = tmp_path / name
        result = kdcurve("curve", "recorded", "--home", home, "--out", path)
        assert result.exit_code == 0, result.output
        if name != "a.csv":
            assert path.read_bytes().startswith(start)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 4
    message = failed(kdcurve("curve", "recorded", "--home", home, "--out", "a.gif"), 2)
    assert "'.gif'; allowed: .svg, .png, .csv" in message


def test_a_file_that_cannot_be_written_is_code_1(kdcurve, home, tmp_path):
    (tmp_path / "file").write_text("")
    for command, name in (
        ("fit", "s.json"),
        ("report", "r"),
        ("curve", "c.csv"),
        ("curve", "c.png"),
    ):
        path = tmp_path / "file" / name
        message = failed(kdcurve(command, "recorded", "--home", home, "--out", path), 1)
        assert f"cannot write {path}" in message


@pytest.fixture
def schedule(kdcurve, home, tmp_path):
    path = tmp_path / "schedule.json"
    result = kdcurve("fit", "recorded", "--home", home, "--out", path, "--family", LINE)
    assert result.exit_code == 0, result.output
    return path


def test_a_fitted_schedule_answers_for_fractions_nobody_ran(kdcurve, schedule):
    result = kdcurve("predict", schedule, "--fraction", "0.45")
    assert result.exit_code == 0
    assert float(result.stdout) == pytest.approx(0.3, abs=0.1)
    assert result.stderr == ""
    beyond = kdcurve("predict", schedule, "--fraction", "0.01")
    assert beyond.exit_code == 0
    assert beyond.stderr.startswith("kdcurve: ")


def test_several_fractions_come_with_bands_and_marks(kdcurve, schedule):
    asked = ["predict", schedule, "--fraction", "0.05", "--fraction", "0.45"]
    table = kdcurve(*asked)
    assert [line.split()[0] for line in table.stdout.splitlines()[-2:]] == ["5%", "45%"]
    assert [line.endswith("extrapolated") for line in table.stdout.splitlines()[-2:]] == [
        True,
        False,
    ]
    rows = json.loads(kdcurve(*asked, "--format", "json").stdout)
    assert [row["extrapolated"] for row in rows] == [True, False]
    for row in rows:
        assert 0 <= row["low"] <= row["kd_weight"] <= row["high"] <= 1
        assert (row["method"], row["teacher"]) == ("random", "cnn4")
    written = csv.DictReader(io.StringIO(kdcurve(*asked, "--format", "csv").stdout))
    assert [row["fraction"] for row in written] == ["0.05", "0.45"]


def test_fitting_says_what_families_lost_and_registers(kdcurve, home, tmp_path):
    path = tmp_path / "s.json"
    fit = ["fit", "recorded", "--home", home, "--out", path]
    whole = kdcurve(*fit, "--register", "recorded", "--alias", "champion")
    assert whole.exit_code == 0, whole.output
    for family in LAWS:
        assert re.search(rf"^{family} +\d", whole.stdout, re.MULTILINE)
    assert "Each of 4 fractions was held out in turn" in whole.stdout
    assert "version 1 of recorded, models:/recorded@champion" in whole.stdout
    forced = kdcurve(*fit, "--family", "isotonic")
    assert "Family of laws: isotonic: as asked for" in forced.stdout
    assert load_schedule(path).laws[0].family == "isotonic"
    assert "known: auto, clipped-log-linear" in failed(kdcurve(*fit, "--family", "spline"), 1)
    assert "add --register MODEL" in failed(kdcurve(*fit, "--alias", "champion"), 2)
    assert "'a/b': allowed are" in failed(kdcurve(*fit, "--register", "a/b"), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fraction", "0.5", "--method", "el2n"],
        ["--fraction", "0.5", "--teacher", "cnn99"],
        ["--fraction", "1.5"],
        ["--fraction", "0"],
        ["--fraction", "nan"],
    ],
)
def test_a_schedule_refuses_what_it_was_not_fitted_on(kdcurve, schedule, arguments):
    failed(kdcurve("predict", schedule, *arguments), 1)


def test_a_schedule_that_is_none_is_one_line(kdcurve, tmp_path):
    (tmp_path / "text.json").write_text("no schedule")
    for name in ("text.json", "none.json"):
        assert name in failed(kdcurve("predict", tmp_path / name, "--fraction", "0.5"), 1)


def test_a_report_is_written(kdcurve, home, tmp_path):
    path = tmp_path / "report.html"
    result = kdcurve("report", "recorded", "--home", home, "--out", path)
    assert result.exit_code == 0, result.output
    assert "recorded" in path.read_text()


def test_verbose_adds_the_traceback(kdcurve, tmp_path):
    result = kdcurve("list", "--home", tmp_path, "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "kdcurve: there is no record" in result.stderr


def test_the_schema_is_json(kdcurve):
    schema = json.loads(kdcurve("schema").stdout)
    assert schema["properties"]["student"]["type"] == "string"
    assert schema["additionalProperties"] is False


def test_the_command_to_go_on_with_says_where_things_live(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert next_command("resume", "a", Places.at()).endswith("kdcurve resume a")
    home = Places.at("my data")
    assert next_command("best", "a", home).endswith("kdcurve best a --home 'my data'")
    cluster = Places.at(
        record="postgresql://me:hunter2@h/d", tracking_uri="http://h:5000", storage="/s"
    )
    assert next_command("best", "a", cluster).endswith(
        "kdcurve best a --record 'postgresql://me:***@h/d' --tracking-uri http://h:5000"
        " --storage /s"
    )


def run_code(*arguments):
    arguments = [str(a) for a in arguments]
    return f"from search.cli import app\napp({arguments!r}, standalone_mode=False)"


HEAVY = ("torch", "ray", "mlflow", "optuna")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command):
    code = f"from search.cli import app\ntry: app([{command!r}, '--help'])\nexcept SystemExit: pass"
    assert loaded_after(code, *HEAVY, "pandas", "sklearn", "sqlalchemy") == []


def test_a_plan_needs_neither_torch_nor_ray_nor_mlflow(file):
    assert loaded_after(run_code("search", file, "--dry-run"), *HEAVY, "pandas") == []


def test_a_prediction_needs_neither_torch_nor_mlflow(schedule):
    code = run_code("predict", schedule, "--fraction", "0.45")
    assert loaded_after(code, *HEAVY, "sklearn", "sqlalchemy") == []


def test_progress_needs_neither_torch_nor_ray_nor_mlflow(home):
    assert loaded_after(run_code("status", "recorded", "--home", home), *HEAVY) == []


def test_a_repetition_needs_neither_ray_nor_mlflow(exact_search):
    code = run_code("rerun", "exact", "0", "--home", exact_search.home)
    assert loaded_after(code, "ray", "mlflow", "optuna") == []


def test_cleaning_needs_neither_torch_nor_ray_nor_mlflow(home):
    assert loaded_after(run_code("clean", "--home", home), *HEAVY) == []


def test_answers_need_neither_torch_nor_ray(home):
    code = run_code("best", "recorded", "--home", home)
    assert loaded_after(code, "torch", "ray", "optuna") == []


def test_importing_the_package_costs_nothing():
    heavy = (*HEAVY, "pandas", "pydantic", "sqlalchemy")
    assert loaded_after("import search, trainables, analysis", *heavy) == []

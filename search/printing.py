"""What the commands print: the plan, the answers, where things lie and what to do next."""

import shlex
import shutil
import sys
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.secrets import redacted
from search.places import Places
from trainables.record import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from analysis.format import Table as TextTable
    from search.ledger import Ledger
    from search.space import SearchSpec

TFLOPS = 5.0
"""What a data-centre GPU is assumed to sustain on small residual networks, in TFLOP/s."""
out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_places(name: str, places: Places, answers: Any, log_file: Path) -> None:
    """Where the answers, the log and MLflow are, and what to type next."""
    rows = {"log": log_file, "MLflow": redacted(places.tracking_uri)}
    follow = [next_command("best", name, places)]
    if answers is not None:
        rows = {"report": answers.report, "curve": answers.curve_file, **rows}
        if answers.schedule is not None:
            rows = {"schedule": answers.schedule_file, **rows}
            law = answers.schedule.laws[0]
            middle = sum(law.range) / 2
            follow.append(
                f"{program('kdcurve')} predict {short_path(answers.schedule_file)} "
                f"--method {law.method} --teacher {law.teacher} --fraction {middle:.2g}"
            )
        else:
            out.print(answers.no_schedule, markup=False, soft_wrap=True)
    if places.tracking_uri.startswith("sqlite:"):
        follow.append(
            f"{program('mlflow')} ui --backend-store-uri {places.tracking_uri} "
            "--host 127.0.0.1 --port 5000"
        )
    out.print()
    for what, where in rows.items():
        shown = short_path(where) if isinstance(where, Path) else where
        out.print(f"{what:>9}  {shown}", markup=False, soft_wrap=True)
    out.print("\nNext:")
    for line in follow:
        out.print(f"  {line}", markup=False, soft_wrap=True)


def short_path(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size_text(size_bytes: int) -> str:
    """A size on disk in MB, as exact as one needs it: `0.03 MB`, `1.2 MB`, `3460 MB`."""
    megabytes = size_bytes / 1e6
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"  # noqa: PLR2004


def next_command(verb: str, name: str, places: Places) -> str:
    """A command on a search, with every place that is not the default."""
    words = [program("kdcurve"), verb, name]
    for place, where in places.named().items():
        shown = short_path(Path(where)) if place == "home" else redacted(where)
        words += [f"--{place.replace('_', '-')}", shown]
    return shlex.join(words)


def program(name: str) -> str:
    """How to call a program of this environment from here."""
    beside = Path(sys.argv[0]).absolute().parent / name
    on_path = shutil.which(name)
    return name if on_path or not beside.exists() else short_path(beside)


def print_plan(spec: "SearchSpec", tflops: float = TFLOPS) -> None:
    """What a search will do and cost, a GPU hour being that of a GPU that sustains so much."""
    from search.plan import counted, make_plan  # noqa: PLC0415
    from search.samplers.layout import layout  # noqa: PLC0415

    plan, spread = make_plan(spec), layout(spec)
    used, asked = spread.seeds, spec.seeds.trials
    seeds = f"{used} of {asked} seeds" if used < asked else f"{used} seed{'s' * (used > 1)}"
    recipe = spec.recipe
    length = f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.iterations} iterations"
    stopping = spec.early_stopping
    resources = spec.resources
    rows = {
        "search": spec.name,
        "data": f"{spec.dataset.name}, student {spec.student}, {length}",
        "contexts": f"{plan.contexts} ({_dimensions(spec)})",
        "tuned": ", ".join(spec.tuned) + f", by {spec.sampler}",
        "trials": f"{_trials(spec, spread.text, seeds)}, early stopping: {stopping.name}",
        "ends": f"after {_criteria(spec)}",
        "shared": f"{counted(plan.artifacts)}, made once",
        **({"teaching": _soft_labels(spec)} if plan.artifacts else {}),
        "compute": f"{_at_most(plan.trial_samples)} epochs × samples in trials "
        f"and {count_samples(plan.artifact_samples)} for what is shared",
        **_estimate(spec, plan.samples, tflops),
        "resources": f"{resources.cpu:g} CPU and {resources.gpu:g} GPU a trial, "
        f"{resources.concurrent or 'as many as fit'} at a time",
    }
    for what, text in rows.items():
        out.print(f"{what:>9}  {text}", markup=False, soft_wrap=True)
    out.print()


def _estimate(spec: "SearchSpec", samples: float | None, tflops: float) -> dict[str, str]:
    """GPU hours of a search on GPUs, and what that rests on."""
    if not spec.resources.gpu or samples is None or not spec.teacher_names:
        return {}
    from search.plan import gpu_hours  # noqa: PLC0415

    hours = gpu_hours(spec, samples, tflops)
    curves = len(spec.context_list) / len(spec.contexts.fraction)
    price = spec.budget.cost_per_gpu_hour
    cost = f" ({hours * price:.3g} at {price:g} each)" if price else ""
    return {
        "estimate": f"up to {hours:.3g} GPU hours{cost}, {hours / curves:.3g} a curve, if a GPU "
        f"sustains {tflops:g} TFLOP/s on such networks (assumed; --tflops N for yours)"
    }


def _trials(spec: "SearchSpec", spread: str, seeds: str) -> str:
    return f"{spread}, {seeds}" if spec.trials is None else f"{spec.trials} ({spread}, {seeds})"


def _criteria(spec: "SearchSpec") -> str:
    """What ends the search, whichever is reached first."""
    from search.display import duration  # noqa: PLC0415

    budget = spec.budget
    words: dict[str, Callable[[float], str]] = {
        "trials_per_context": lambda limit: f"{limit} trials per context",
        "epoch_samples": lambda limit: f"{count_samples(limit)} epochs × samples",
        "gpu_hours": lambda limit: f"{limit:g} GPU hours",
        "wall_time_s": lambda limit: f"{duration(limit)} of work",
        "money": lambda limit: f"{limit:g} spent at {budget.cost_per_gpu_hour:g} per GPU hour",
    }
    named = [say(limit) for key, say in words.items() if (limit := getattr(budget, key))]
    if (until := budget.until) is not None:
        named.append(
            f"an expected loss below {until.regret:g} points ({until.confidence:.0%} confidence)"
        )
    return " or ".join(named) + (", whichever comes first" if len(named) > 1 else "")


def _at_most(samples: float | None) -> str:
    return "no limit on" if samples is None else f"at most {count_samples(samples)}"


def _soft_labels(spec: "SearchSpec") -> str:
    """Where teachers' logits come from, and what that costs."""
    source = spec.soft_label_source
    views = spec.views(source != "fixed")
    size = 2 * views * spec.info.train_samples * spec.info.classes
    text = (
        f"{source}: the teacher is asked for every batch"
        if source == "online"
        else f"{source}: a table of {views} view{'s' * (views > 1)} a teacher, {_bytes(size)}"
    )
    return f"{text} ({_why(spec)})" if spec.soft_labels == "auto" else text


def _why(spec: "SearchSpec") -> str:
    """What `auto` weighed."""
    from search.space import LARGEST_TABLE_BYTES  # noqa: PLC0415

    teaching = spec.teaching
    if teaching.table_bytes > LARGEST_TABLE_BYTES:
        allowed = _bytes(LARGEST_TABLE_BYTES)
        return f"chosen for you: a table would take {_bytes(teaching.table_bytes)}, above {allowed}"
    table, asking = count_samples(teaching.table), count_samples(teaching.asking)
    costs = (f"{name} costs {spec.relative_cost(name):.3g}" for name in spec.teacher_names)
    return (
        f"chosen for you: tables cost {table} epochs × samples, asking up to {asking}; "
        f"{', '.join(costs)} times the student"
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004  (thousands)
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _dimensions(spec: "SearchSpec") -> str:
    named = spec.contexts.model_dump(exclude_none=True)
    return " × ".join(f"{len(v)} {k}{'s' if len(v) > 1 else ''}" for k, v in named.items())


def count_samples(samples: float) -> str:
    """A number of epochs × samples in three digits: `2.31 M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if samples >= size:
            return f"{samples / size:.3g} {unit}"
    return f"{samples:.3g}"


def outcome_line(ledger: "Ledger") -> str:
    """How many trials ended how."""
    counts = ledger.outcomes()
    total = sum(counts[outcome] for outcome in Outcome)
    parts = [f"{counts[o]} {str(o).replace('_', ' ')}" for o in Outcome if counts[o]]
    return f"{total} trials: {', '.join(parts) or 'none ended'}"


def print_curve(curve: "pd.DataFrame") -> None:
    """The curve as a plot, where people look: a file or a pipe gets the tables alone."""
    if not out.is_terminal:
        return
    from analysis.sketch import sketch  # noqa: PLC0415

    if drawn := sketch(curve, out.width):
        out.print(Text.from_ansi(drawn), soft_wrap=True)
        out.print()


def print_answers(curve: "pd.DataFrame", *, plot: bool = True) -> None:
    """The answers as a plot and a table.

    What does not fit a narrow terminal is left out, and that is said.
    """
    from analysis.format import curve_table  # noqa: PLC0415

    if plot:
        print_curve(curve)
    whole = curve_table(curve)
    narrow = out.is_terminal and _width(whole) > out.width
    print_table(curve_table(curve, compact=True) if narrow else whole, tight=narrow)
    print_level(curve)
    tested = print_confirmation(curve)
    if narrow:
        out.print(
            f"Flat ranges, losses, trials, seeds{', test results' if tested else ''}: in "
            f"{_width(whole)} columns, or --format csv."
        )


def print_level(curve: "pd.DataFrame") -> None:
    """What the brackets of a table are, and what the KD weights were learned from."""
    attrs = curve.attrs
    out.print(
        f"[low, high]: {round(100 * attrs['level'])}% intervals, estimated by "
        f"{attrs['estimator']} from complete trials, on validation data.",
        markup=False,
        soft_wrap=True,
    )
    _print_each(curve, lambda search: search["signal"])


def print_confirmation(curve: "pd.DataFrame") -> bool:
    """How the columns of the test set are to be read; whether answers were confirmed."""
    if "test_score" not in curve:
        return False
    from analysis.confirmation import confirmation_text, is_confirmed  # noqa: PLC0415

    if not is_confirmed(curve):
        return False
    for line in confirmation_text(curve):
        out.print(line, markup=False, soft_wrap=True)
    return True


def print_source(curve: "pd.DataFrame") -> None:
    """Whether answers were recorded, and when."""

    def said(search: Mapping[Hashable, Any]) -> str:
        if search["recorded"] is None:
            return "Computed afresh."
        at = datetime.fromisoformat(search["recorded"]).astimezone()
        return f"Recorded on {at:%Y-%m-%d %H:%M}, and no trial came after; --fresh computes anew."

    _print_each(curve, said)


def _print_each(
    curve: "pd.DataFrame", line: Callable[[Mapping[Hashable, Any]], str | None]
) -> None:
    """A line for each search that the answers are of, with its name where there are several."""
    searches = curve.attrs.get("searches", {"": curve.attrs})
    for name, attrs in searches.items():
        if text := line(attrs):
            out.print(f"{name}: {text}" if name else text, markup=False, soft_wrap=True)


def _widths(content: "TextTable") -> list[int]:
    """Widths of a table's columns: headings fold at words, numbers never."""
    rows = [list(row) for row in content.rows]
    words = [column.title.split() for column in content.columns]
    columns = zip(*rows, strict=True) if rows else [()] * len(words)
    return [max(map(len, [*w, *c])) for w, c in zip(words, columns, strict=True)]


def _width(content: "TextTable") -> int:
    return sum(width + 2 for width in _widths(content))


def print_table(content: "TextTable", *, tight: bool = False) -> None:
    """A table as wide as its numbers, whatever the terminal; `tight` sets it closer."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=tight)
    widths = _widths(content)
    for column, width in zip(content.columns, widths, strict=True):
        table.add_column(column.title, justify=column.justify, width=width)
    console = Console(
        highlight=False, width=max(out.width, _width(content) - tight * len(content.columns))
    )
    console.print(table)
    # Rich would look for markup and places to fold in each cell: seconds for a thousand rows.
    right = [column.justify == "right" for column in content.columns]
    gap = " " if tight else "  "
    for row in content.rows:
        cells = zip(row, widths, right, strict=True)
        line = gap.join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in cells)
        console.print(line, markup=False, emoji=False, soft_wrap=True)

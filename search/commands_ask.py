"""The commands that ask what a search found."""

import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.errors import AnalysisError
from analysis.estimators import DEFAULT, ESTIMATORS
from search.errors import KdcurveError, UsageError
from search.options import Name, Names
from search.places import Places
from search.printing import err, out, print_answers, print_level, print_source, print_table

if TYPE_CHECKING:
    import pandas as pd

Method = Annotated[str | None, typer.Option(help="Only this pruning method.")]
Teacher = Annotated[str | None, typer.Option(help="Only this teacher architecture.")]
Estimator = Annotated[str, typer.Option(help=f"How to estimate: {', '.join(ESTIMATORS)}.")]


Fresh = Annotated[bool, typer.Option("--fresh", help="Compute, whatever is recorded.")]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep ended trials in the user's cache folder.")
]

Compared = Annotated[
    str, typer.Argument(help="Name of a search, or a schedule file.", show_default=False)
]


class Format(StrEnum):
    """How answers are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


OutputFormat = Annotated[Format, typer.Option(help="How to write the answers.")]


def best(  # noqa: PLR0913, PLR0917  (the command's options)
    names: Names,
    places: Places,
    verbose: bool,
    method: Method = None,
    fraction: Annotated[float | None, typer.Option(help="Only this kept fraction.")] = None,
    teacher: Teacher = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="For each of these (e.g. method) and each fraction, the best setting alone."
        ),
    ] = None,
    estimator: Estimator = DEFAULT,
    fresh: Fresh = False,
    cache: Cache = True,
    format: OutputFormat = Format.TABLE,
) -> None:
    """Best setting per context, of one search or several.

    Answers that a complete search recorded are shown as they are; otherwise they are computed
    from its runs.

    Example: `kdcurve best demo --method random --format json`
    """
    from search.answers import ask  # noqa: PLC0415

    wanted = {"method": method, "fraction": fraction, "teacher": teacher}
    groups = [name.strip() for name in by.split(",")] if by is not None else []
    curve = ask(names, places, wanted, groups, estimator=estimator, fresh=fresh, cache=cache)
    if format is Format.TABLE:
        print_answers(curve)
        print_source(curve)
    else:
        _echo(curve, format)


def compare(
    first: Compared,
    second: Compared,
    places: Places,
    verbose: bool,
    estimator: Estimator = DEFAULT,
    fresh: Fresh = False,
    cache: Cache = True,
    format: OutputFormat = Format.TABLE,
) -> None:
    """Two searches or schedules side by side, context by context.

    Schedules are compared over the range of fractions that both were fitted on, a search with
    a schedule at the search's fractions.

    Example: `kdcurve compare demo demo-longer`
    """
    from analysis.comparison import comparison_table  # noqa: PLC0415
    from search.answers import compare_answers  # noqa: PLC0415

    compared = compare_answers(first, second, places, estimator=estimator, fresh=fresh, cache=cache)
    if format is not Format.TABLE:
        _echo(compared, format)
        return
    print_table(comparison_table(compared))
    for remark in compared.attrs["remarks"]:
        out.print(remark, markup=False, soft_wrap=True)


def curve(
    name: Name,
    places: Places,
    verbose: bool,
    estimator: Estimator = DEFAULT,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Also write it as a picture (.svg, .png) or as .csv."),
    ] = None,
) -> None:
    """The KD-weight-per-fraction curve, a row per method and teacher.

    Example: `kdcurve curve demo --out curve.png`
    """
    from analysis.format import pivot_table  # noqa: PLC0415
    from search.answers import ask  # noqa: PLC0415

    fitted = ask([name], places, {}, estimator=estimator)
    print_table(pivot_table(fitted))
    print_level(fitted)
    print_source(fitted)
    if out_file is None:
        return
    match out_file.suffix:
        case ".csv":
            _write(out_file, lambda path: fitted.to_csv(path, index=False))
        case ".svg" | ".png":
            from analysis.plots import plot_kd_weight  # noqa: PLC0415

            _write(out_file, lambda path: plot_kd_weight(fitted).savefig(path, dpi=150))
        case suffix:
            raise UsageError(
                f"--out {out_file}: cannot write {suffix!r}; allowed: .svg, .png, .csv"
            )
    out.print(f"written: {out_file}", markup=False)


def fit(
    name: Name,
    places: Places,
    verbose: bool,
    out_file: Annotated[Path, typer.Option("--out", help="The JSON file to write.")] = Path(
        "schedule.json"
    ),
) -> None:
    """Fit the schedule, a function from fraction to KD weight.

    Example: `kdcurve fit demo --out schedule.json`
    """
    from analysis.curve import fit_curve  # noqa: PLC0415
    from analysis.report import schedule_table  # noqa: PLC0415
    from analysis.runs import load_runs  # noqa: PLC0415
    from analysis.schedule import fit_schedule  # noqa: PLC0415

    schedule = fit_schedule(fit_curve(load_runs(name, places.tracking_uri)))
    _write(out_file, schedule.save)
    print_table(schedule_table(schedule))
    for each in schedule.left_out:
        out.print(f"left out: {each.method}, {each.teacher}: {each.reason}", markup=False)
    out.print(f"written: {out_file}", markup=False)


def predict(
    schedule: Annotated[Path, typer.Argument(help="A schedule file.", show_default=False)],
    fraction: Annotated[float, typer.Option(help="Kept fraction, in (0, 1].", show_default=False)],
    places: Places,
    verbose: bool,
    method: Annotated[
        str | None, typer.Option(help="Pruning method; needed if the schedule knows several.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher; needed if the schedule knows several.")
    ] = None,
) -> None:
    """The KD weight to use at a fraction.

    Example: `kdcurve predict schedule.json --method random --teacher cnn8 --fraction 0.2`
    """
    from analysis.schedule import load_schedule  # noqa: PLC0415

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weight = load_schedule(schedule)(fraction, method=method, teacher=teacher)
    for warning in caught:
        err.print(f"kdcurve: {warning.message}", markup=False)
    typer.echo(f"{weight:.3f}")


def subset(
    name: Name,
    places: Places,
    verbose: bool,
    method: Annotated[str, typer.Option(help="Pruning method of the search.")],
    fraction: Annotated[float, typer.Option(help="Kept fraction, in (0, 1].")],
    seed: Annotated[int, typer.Option(help="Seed of the trials (random, ccs).")] = 0,
    out_file: Annotated[Path, typer.Option("--out", help="The NumPy file to write.")] = Path(
        "kept.npy"
    ),
) -> None:
    """Export which samples were kept, as positions in the published training set.

    Example: `kdcurve subset demo --method el2n --fraction 0.25 --out kept.npy`
    """
    import numpy as np  # noqa: PLC0415

    from search.standing import open_recorded, recorded_spec  # noqa: PLC0415
    from search.subset import export_subset  # noqa: PLC0415

    spec = recorded_spec(open_recorded(name, places), name)
    found = export_subset(spec, places, method, fraction, seed)
    _write(out_file, lambda path: np.save(path, found.positions))
    lost = f", {found.lost_classes} classes lost" if found.lost_classes else ""
    out.print(f"written: {out_file} ({len(found.positions)} samples{lost})", markup=False)


def report(
    name: Name,
    places: Places,
    verbose: bool,
    out_file: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """The pictures, as one self-contained HTML file.

    Example: `kdcurve report demo --out report.html`
    """
    from analysis.confirmation import with_test  # noqa: PLC0415
    from analysis.curve import fit_curve  # noqa: PLC0415
    from analysis.report import write_report  # noqa: PLC0415
    from analysis.runs import load_runs  # noqa: PLC0415
    from analysis.schedule import fit_schedule  # noqa: PLC0415
    from analysis.students import load_students  # noqa: PLC0415

    runs = load_runs(name, places.tracking_uri)
    fitted = with_test(fit_curve(runs), load_students(name, places.tracking_uri))
    try:
        schedule = fit_schedule(fitted)
    except AnalysisError as error:
        schedule = None
        out.print(f"without a schedule: {error}", markup=False)
    _write(out_file, lambda path: write_report(path, runs, fitted, schedule))
    out.print(f"written: {out_file}", markup=False)


def _echo(frame: "pd.DataFrame", format: Format) -> None:
    """A table for programs."""
    if format is Format.JSON:
        typer.echo(frame.to_json(orient="records", indent=2))
    else:
        typer.echo(frame.to_csv(index=False), nl=False)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise KdcurveError(f"cannot write {path}: {error.strerror or error}") from error

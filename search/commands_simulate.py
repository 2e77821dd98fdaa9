"""The commands that replay searches on what is known, and export it."""

import json
import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from search.errors import KdcurveError, UsageError
from search.options import Name
from search.places import Places
from search.printing import out, outcome_line, print_answers

if TYPE_CHECKING:
    import pandas as pd

    from search.simulator import Simulated
    from search.space import SearchSpec
    from search.worlds import World


class Format(StrEnum):
    """How a simulation is written."""

    TABLE = "table"
    JSON = "json"


def simulate(
    file: Annotated[Path, typer.Argument(help="The search file (YAML).", show_default=False)],
    places: Places,
    verbose: bool,
    table: Annotated[
        Path | None,
        typer.Option(help="Response table to replay on; a ridge search needs none."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trials at a time (default: resources.concurrent, or 1)."),
    ] = None,
    samples_per_s: Annotated[
        float, typer.Option(min=1e-6, help="Training speed of a worker.")
    ] = 1000.0,
    replications: Annotated[
        int, typer.Option(min=1, help="Repeat with other search and trial seeds.")
    ] = 1,
    format: Annotated[Format, typer.Option(help="How to write the answers.")] = Format.TABLE,
) -> None:
    """Play a search in virtual time, without training: what would it answer, at what loss?

    Example: `kdcurve simulate configs/ridge.yaml --replications 10`
    """
    from search.regret import answers  # noqa: PLC0415
    from search.simulator import simulate as play  # noqa: PLC0415

    spec, world = _problem(file, table)
    all_played, curves = [], []
    for draw in range(replications):
        played = play(spec, world, draw=draw, workers=workers, samples_per_s=samples_per_s)
        all_played.append(played)
        curves.append(answers(played, world, places))
    if format is Format.JSON:
        typer.echo(json.dumps(_plain(_report(all_played, curves)), indent=2))
    elif replications == 1:
        _print_one(all_played[0], curves[0])
    else:
        _print_many(_report(all_played, curves))


def _problem(file: Path, path: Path | None) -> "tuple[SearchSpec, World]":
    """The search, and the world that answers for it."""
    from analysis.table import read_table  # noqa: PLC0415
    from search.replay import TableWorld  # noqa: PLC0415
    from search.specfile import load_spec  # noqa: PLC0415
    from search.worlds import RidgeWorld  # noqa: PLC0415
    from trainables.config import RidgeDataset  # noqa: PLC0415

    if path is not None:
        table = read_table(path)
        counted = {"train_samples": table.train_samples, "classes": table.classes, "shape": [1]}
        spec = load_spec(file, counted=counted)
        return spec, TableWorld(table, spec)
    spec = load_spec(file)
    if not isinstance(spec.dataset, RidgeDataset):
        raise UsageError(
            f"--table: missing; a search on {spec.dataset.name} is replayed on recorded runs, "
            "which kdcurve table NAME exports"
        )
    return spec, RidgeWorld()


def _report(played: "list[Simulated]", curves: "list[pd.DataFrame]") -> dict[str, Any]:
    """All that a simulation found; with replications, medians and 90th percentiles."""
    import pandas as pd  # noqa: PLC0415

    from search.regret import spread  # noqa: PLC0415

    first = played[0]
    spent: dict[str, list[float]] = {
        "trials": [len(each.ledger.trials) for each in played],
        "epoch_samples": [each.samples for each in played],
        "sweeps": [each.sweeps for each in played],
        "virtual_s": [each.virtual_s for each in played],
        "seconds": [each.seconds for each in played],
    }
    regrets = [float(curve["regret"].mean()) for curve in curves]
    report: dict[str, Any] = {
        "search": first.spec.name,
        "sampler": first.spec.sampler,
        "objective": first.spec.objective,
        "replications": len(played),
        "trials_per_minute": 60 * sum(spent["trials"]) / sum(spent["seconds"]),
    }
    if len(played) == 1:
        columns = ["label", "kd_weight", "kd_weight_low", "kd_weight_high", "score", "true_score"]
        columns += ["best_kd_weight", "regret", "n_complete", "n_stopped", "reason"]
        contexts = curves[0][columns].to_dict("records")
        return {
            **report,
            **{name: values[0] for name, values in spent.items()},
            "regret": regrets[0],
            "contexts": contexts,
        }
    return {
        **report,
        **{name: spread(values) for name, values in spent.items()},
        "regret": spread(regrets),
        "contexts": [
            {
                "label": label,
                "best_kd_weight": float(rows["best_kd_weight"].iloc[0]),
                "kd_weight": spread(rows["kd_weight"]),
                "regret": spread(rows["regret"]),
                "without_answer": int(rows["kd_weight"].isna().sum()),
            }
            for label, rows in pd.concat(curves).groupby("label", sort=False)
        ],
    }


def _print_one(played: "Simulated", curve: "pd.DataFrame") -> None:
    print_answers(curve)
    table = Table(box=None, pad_edge=False)
    for column in ("context", "KD weight", "truly best", "regret"):
        table.add_column(column, justify="left" if column == "context" else "right")
    for row in curve.to_dict("records"):
        table.add_row(
            row["label"],
            *(_number(row[key], 3) for key in ("kd_weight", "best_kd_weight")),
            _number(row["regret"], 3),
        )
    out.print()
    out.print(table)
    out.print(
        f"\nRegret: {_number(float(curve['regret'].mean()), 3)} points, averaged over the contexts "
        "with an answer: what the recommended settings lose in hundredths of "
        f"{played.spec.objective}, by the truth.",
        markup=False,
        soft_wrap=True,
    )
    out.print(outcome_line(played.ledger))
    out.print(
        f"Compute: {played.samples} epochs × samples, {played.sweeps:.2f} sweeps (full runs of "
        f"every context); {played.virtual_s:.0f} virtual s, simulated in {played.seconds:.1f} s.",
        markup=False,
        soft_wrap=True,
    )


def _print_many(report: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("context", "truly best", "KD weight", "regret: median", "90%", "no answer"):
        table.add_column(column, justify="left" if column == "context" else "right")
    for row in report["contexts"]:
        table.add_row(
            row["label"],
            _number(row["best_kd_weight"], 3),
            _number(row["kd_weight"]["median"], 3),
            _number(row["regret"]["median"], 3),
            _number(row["regret"]["p90"], 3),
            str(row["without_answer"]),
        )
    out.print(table)
    regret, sweeps = report["regret"], report["sweeps"]
    out.print(
        f"\nRegret, averaged over contexts: median {_number(regret['median'], 3)} points, 90th "
        f"percentile {_number(regret['p90'], 3)}, over {report['replications']} replications of "
        f"{_number(sweeps['median'], 2)} sweeps; "
        f"{report['trials_per_minute']:.0f} trials a minute.",
        markup=False,
        soft_wrap=True,
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _plain(value: Any) -> Any:
    """JSON has no word for what is missing but null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def table(
    name: Name,
    places: Places,
    verbose: bool,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The Parquet file to write (NAME.parquet).")
    ] = None,
) -> None:
    """Export every epoch of a search's trials, for `kdcurve simulate` to replay.

    Example: `kdcurve table demo --out demo.parquet`
    """
    from analysis.table import write_table  # noqa: PLC0415
    from search.standing import open_recorded  # noqa: PLC0415
    from search.table import recorded_table  # noqa: PLC0415

    found = recorded_table(open_recorded(name, places), name)
    path = out_file or Path(f"{name}.parquet")
    try:
        write_table(found, path)
    except OSError as error:
        raise KdcurveError(f"cannot write {path}: {error.strerror or error}") from error
    out.print(f"written: {path} ({len(found.rows)} rows)", markup=False, soft_wrap=True)

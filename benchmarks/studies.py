"""Do the claims about distillation on pruned data hold here?

    python benchmarks/studies.py CLAIM FILE... [--seeds N] [--out FOLDER]

CLAIM is one of `analysis.claims.CLAIMS`, FILE a search file; those made for a claim lie under
`configs/studies/` (its README says which). Runs each search, or goes on with it, confirms its
answers on the test set under N fresh seeds, and skips what is recorded already. Prints what was
found, the differences that decide the claim, and a verdict that follows from their intervals. Draws
CLAIM.svg and CLAIM.png into ``--out``, if given. As its last line prints one JSON object.
"""

import argparse
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import search
from analysis.claims import (
    CLAIMS,
    CONTEXT,
    LEVEL,
    WITH_KD,
    WITHOUT_KD,
    Claim,
    Evidence,
    gather,
    judge,
    means,
)
from analysis.errors import AnalysisError
from analysis.figures.claims import draw, tidy
from analysis.format import Column, Table, gain_text, heading, score_text, value_text, with_interval
from search.confirmation import DEFAULT_SEEDS
from search.display import Display, quiet
from search.errors import KdcurveError
from search.journal import Journal
from search.printing import print_table
from search.standing import standing
from trainables.record import VAL_ACCURACY, SearchState

if TYPE_CHECKING:
    import pandas as pd


def carry_out(
    spec: search.SearchSpec, places: search.Places, seeds: int, address: str | None
) -> None:
    """Run a search and confirm it (0 seeds: do not), as far as that is not done.

    Raises:
        KdcurveError: one of the two was interrupted.
    """
    places.make()
    journal = Journal(places.record)
    with quiet(places.folder(spec.name) / "kdcurve.log") as console:
        watcher = Display(console)
        if spec.name not in journal.searches():
            search.run(spec, places, address=address, watcher=watcher)
        elif standing(journal, spec.name).state is not SearchState.COMPLETE:
            search.resume(spec.name, places, address=address, watcher=watcher)
        if standing(journal, spec.name).state is not SearchState.COMPLETE:
            raise KdcurveError(f"{spec.name} was interrupted; the same command goes on with it")
        if (
            seeds
            and search.confirm(
                spec.name, places, seeds=seeds, address=address, watcher=watcher
            ).left
        ):
            raise KdcurveError(f"{spec.name} is not all confirmed; the same command goes on")


def found_table(claim: Claim, evidence: Evidence) -> Table:
    """What was found in each context: the best KD weight, and test accuracies."""
    curve = evidence.curve(LEVEL)
    arms = {
        arm: {tuple(row[name] for name in CONTEXT): row for row in part.to_dict("records")}
        for arm, part in means(evidence.scores).groupby("arm")
    }
    shown = _varying(curve, CONTEXT)

    def accuracy(arm: str, context: tuple[object, ...]) -> str:
        row = arms.get(arm, {}).get(context)
        return (
            "" if row is None else score_text(VAL_ACCURACY, row["score"], row["low"], row["high"])
        )

    rows = []
    for answer in curve.to_dict("records"):
        context = tuple(answer[name] for name in CONTEXT)
        weight = (answer[f"kd_weight{end}"] for end in ("", "_low", "_high"))
        cells = [*(value_text(name, answer[name]) for name in shown), with_interval(*weight)]
        if claim.tested:
            cells += [accuracy(arm, context) for arm in (WITH_KD, WITHOUT_KD)]
        rows.append(tuple(cells))
    tested = [f"test accuracy (%) {arm}" for arm in (WITH_KD, WITHOUT_KD)] if claim.tested else []
    titles = [*map(heading, shown), "best KD weight", *tested]
    return Table(tuple(map(Column, titles)), tuple(rows))


def difference_table(claim: Claim, found: "pd.DataFrame") -> Table:
    """The differences that decide a claim, in its unit."""
    numeric = {"difference", "low", "high", "n"}
    shown = _varying(found, (name for name in map(str, found) if name not in numeric))
    titles = [
        f"against {heading(name.removesuffix('_other'))}"
        if name.endswith("_other")
        else heading(name)
        for name in shown
    ]
    rows = []
    for row in found.to_dict("records"):
        numbers = row["difference"], row["low"], row["high"]
        text = (
            gain_text(VAL_ACCURACY, *numbers)
            if claim.unit == "points"
            else with_interval(*numbers, "+.2f")
        )
        holds = "yes" if row["low"] > claim.bound else ""
        cells = (value_text(name.removesuffix("_other"), row[name]) for name in shown)
        rows.append((*cells, text, holds, str(row["n"])))
    titles += [f"difference ({claim.unit})", f"above {_bound(claim)}", "seeds"]
    return Table(tuple(map(Column, titles)), tuple(rows))


def _bound(claim: Claim) -> str:
    return f"{100 * claim.bound if claim.unit == 'points' else claim.bound:g}"


def _varying(frame: "pd.DataFrame", names: Iterable[str]) -> list[str]:
    """Columns with more than one value, and those that are compared with another of their own."""

    def compared(name: str) -> bool:
        return name.endswith("_other") or f"{name}_other" in frame

    shown = (name for name in names if name not in {"arm", "arm_other"})
    return [name for name in shown if compared(name) or frame[name].nunique() > 1]


def main() -> None:
    """Run, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "claim", choices=CLAIMS, metavar="CLAIM", help=f"one of {', '.join(CLAIMS)}"
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="search files")
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS, help="of the confirmation")
    parser.add_argument("--home", default=os.environ.get("KDCURVE_HOME", "kdcurve-data"))
    parser.add_argument("--address", help="of a running Ray cluster")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="draw the figure into it")
    options = parser.parse_args()
    claim = CLAIMS[options.claim]
    others = (os.environ.get(f"KDCURVE_{name}") for name in ("RECORD", "TRACKING_URI", "STORAGE"))
    places = search.Places.at(options.home, *others)
    try:
        specs = [search.load_spec(file) for file in options.files]
        for spec in specs:
            carry_out(spec, places, options.seeds if claim.tested else 0, options.address)
        evidence = gather([spec.name for spec in specs], places.tracking_uri)
        found, verdict = judge(claim, evidence)
    except (KdcurveError, AnalysisError) as error:
        raise SystemExit(f"studies: {error}") from None
    print_table(found_table(claim, evidence))
    print()
    print_table(difference_table(claim, found))
    print(f"\n[low, high]: {LEVEL:.0%} intervals; differences are paired by seed.")
    print(f"{claim.text}.\n{verdict}.")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        drawing = draw(tidy(options.claim, claim, evidence))
        for ending in ("svg", "png"):
            drawing.save(options.out / f"{options.claim}.{ending}", ending)
    figures = {
        "claim": options.claim,
        "verdict": verdict._asdict(),
        "differences": json.loads(found.to_json(orient="records")),
        "versions": {name: version(name) for name in ("kdcurve", "torch", "ray")},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

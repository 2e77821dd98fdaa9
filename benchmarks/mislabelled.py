"""How many of the samples that the demo's pruning methods keep have a wrong label?

    make demo && .venv/bin/python benchmarks/mislabelled.py

Reads the scores from the cache (and makes them if they are not there). Prints a line per
method, and as its last line one JSON object.
"""

import json
from importlib.metadata import version
from pathlib import Path

import search
from search.plan import shared_artifacts
from trainables import datasets
from trainables.config import ScoresSpec
from trainables.pruning.scores import load_scores
from trainables.pruning.select import keep


def main() -> None:
    """Measure and print."""
    spec = search.load_spec("configs/demo.yaml")
    splits = datasets.load(spec.dataset)
    wrong = splits.labels != splits.clean_labels
    figures = {}
    for scores in shared_artifacts(spec):
        if isinstance(scores, ScoresSpec):
            ranking = load_scores(scores, Path("kdcurve-data/cache"))
            shares = {
                f: float(wrong[keep(ranking, f)].float().mean()) for f in spec.contexts.fraction
            }
            figures[scores.method] = shares
            print(
                f"{scores.method:11}", *(f"{f:.0%} kept: {s:.0%} wrong " for f, s in shares.items())
            )
    print(json.dumps({"wrong": figures, "versions": {"kdcurve": version("kdcurve")}}))


if __name__ == "__main__":
    main()

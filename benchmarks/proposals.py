"""How long does each sampler think about a trial?

    python benchmarks/proposals.py [--quick] [--size CONTEXTS TRIALS] [--under-way N] [SAMPLER ...]

Searches of 200 and of 3,000 trials over 28 contexts, and one of 3,000 over 500, whose trials are
made up: a parabola over the KD weight with noise. `taking up` is what a search that is resumed
spends before its first proposal: Optuna is told everything. The next 60 proposals are timed with
all of the trials known, each trial ending before the next is asked for. With ``--under-way`` the
last of the made-up trials, so many of them, have not ended. Processor seconds, and the most memory
that the process took, libraries included.

Prints a table, and as its last line one JSON object.
"""

import argparse
import json
import os
import random
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from overhead import fresh
from rich.console import Console
from rich.table import Table

from search.designer import Later, Proposal, start_trials
from search.ledger import TrialState
from search.samplers.optuna_samplers import SAMPLERS
from search.samplers.table import DESIGNERS, make_designer
from search.space import SearchSpec
from search.specfile import parse_spec
from search.studies import Studies
from trainables.record import Outcome

SIZES = ((28, 200), (28, 3000), (500, 3000))
"""Contexts and trials."""
PROPOSALS = 60
"""Several batches of what the curve sampler chooses together."""


def made_up(sampler: str, contexts: int, trials: int) -> SearchSpec:
    """A search with room for that many trials and some more."""
    methods = ["random", "el2n", "forgetting", "grand"]
    count = contexts // len(methods)
    per_context = max(5, -(-(trials + PROPOSALS + 1) // contexts))
    return parse_spec(
        {
            "name": "proposals",
            "dataset": {"name": "digits"},
            "student": "cnn8",
            "recipe": {"epochs": 9},
            "contexts": {
                "method": methods,
                "fraction": [round(0.3 + 0.7 * i / count, 4) for i in range(count)],
                "teacher": "cnn4",
            },
            "seeds": {"trials": 30},
            "sampler": sampler,
            "budget": {"trials_per_context": per_context},
        }
    )


def measure(
    sampler: str, contexts: int, trials: int, under_way: int, folder: Path
) -> tuple[float, list[float], float]:
    """Seconds to tell Optuna everything, those of the proposals after that, and MB of memory."""
    spec = made_up(sampler, contexts, trials)
    draw = random.Random(0)
    known: dict[str, list[TrialState]] = {}

    def end(number: int, proposal: Proposal) -> None:
        weight = proposal.values["kd_weight"]
        score = 0.9 - 0.05 * (weight - 0.4) ** 2 + draw.gauss(0, 0.005)
        known.setdefault(proposal.context.key, []).append(
            TrialState(
                number, proposal.context.key, proposal.values, proposal.seed, False,
                scores={9: score}, outcome=Outcome.COMPLETE,
            )
        )  # fmt: skip

    for number in range(trials):
        context = spec.context_list[number % contexts]
        turn = number // contexts
        end(number, Proposal(context, {"kd_weight": draw.random()}, turn % spec.seeds.trials))
    # The starting design is behind them: what is timed are the sampler's proposals.
    for own in known.values():
        for trial in own[: start_trials(spec)]:
            trial.start_design = True
        for trial in own:
            if trial.number >= trials - under_way:
                trial.scores, trial.outcome = {}, None
    studies = Studies(spec, folder / "optuna.journal")
    designer = make_designer(spec, studies)
    # Whatever is loaded or told once is done here.
    began = time.process_time()
    if sampler in SAMPLERS:
        studies.sync_all(known)
    designer.propose(known)
    taking_up = time.process_time() - began
    times = []
    for number in range(trials, trials + PROPOSALS):
        began = time.process_time()
        proposal = designer.propose(known)
        times.append(time.process_time() - began)
        if proposal is None or isinstance(proposal, Later):
            raise RuntimeError(f"{sampler} proposed nothing after {number} trials")
        designer.accepted(number)
        end(number, proposal)
    return taking_up, times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Time all samplers, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("samplers", nargs="*", metavar="SAMPLER")
    parser.add_argument("--quick", action="store_true", help="the small search alone")
    parser.add_argument("--size", nargs=2, type=int, metavar=("CONTEXTS", "TRIALS"))
    parser.add_argument("--under-way", type=int, default=0, help="trials that have not ended")
    options = parser.parse_args()
    names = options.samplers or list(DESIGNERS)
    sizes = [options.size] if options.size else SIZES[:1] if options.quick else SIZES
    seconds = ("taking up (s)", "mean (s)", "longest (s)")
    table = Table("sampler", "contexts", "trials", *seconds, "memory (MB)")
    figures = {}
    for contexts, trials in sizes:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                under_way = min(options.under_way, trials)
                taking_up, times, memory_mb = fresh(
                    measure, name, contexts, trials, under_way, Path(folder)
                )
            row = {
                "taking_up": taking_up,
                "mean": statistics.fmean(times),
                "longest": max(times),
            }
            figures[f"{name}/{contexts}/{trials}"] = {k: round(s, 4) for k, s in row.items()}
            shown = (f"{s:.3f}" for s in row.values())
            table.add_row(name, str(contexts), str(trials), *shown, f"{memory_mb:.0f}")
    Console(width=100).print(table)
    versions = {name: version(name) for name in ("optuna", "numpy")}
    print(json.dumps({"seconds": figures, "n": PROPOSALS, "cpus": os.cpu_count(), **versions}))


if __name__ == "__main__":
    main()

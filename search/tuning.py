"""Ray Tune set up for a search, and run once over the trials that are left."""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, PlacementGroupFactory, RunConfig

from search.ledger import Ledger
from search.places import Places
from search.recorder import Recorder
from search.reserves import Reserves
from search.samplers.table import make_designer
from search.scheduler import make_scheduler
from search.searcher import CurveSearcher
from search.space import SearchSpec
from search.stopping import Bounded, Losses, reached
from search.studies import Studies
from search.watchdog import Watchdog
from trainables.trial import REPORT_EVERY_S, DistillationTrial

MOST_REPORTS_PER_S = 100.0
"""What Tune's event loop is asked to take from all trials; epochs in between come together."""


def tune_trials(
    spec: SearchSpec, places: Places, ledger: Ledger, concurrent: int, reserves: Reserves
) -> str | None:
    """Let Tune run the trials that are left.

    Args:
        spec: the search.
        places: where things live.
        ledger: the record.
        concurrent: trials at a time.
        reserves: stops the search before a disk is full.

    Returns:
        What ended the search, in words; None if it was cut off.
    """
    if (reason := _budget_spent(spec, ledger)) is not None:
        return reason
    objective = spec.objective
    studies = Studies(spec, places.optuna(spec.name))
    designer = Bounded(
        make_designer(spec, studies), spec, lambda: ledger.active_at(time.time()), Losses(spec)
    )
    searcher = CurveSearcher(spec, ledger, designer, machines=_machines)
    folder, checkpoints = places.tune / spec.name, places.checkpoints / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    contexts = spec.context_list
    watchdog = Watchdog(ledger, {context.key: spec.kept_samples(context) for context in contexts})
    recorder = Recorder(
        ledger,
        {context.key: spec.total_epochs(context) for context in contexts},
        checkpoints,
        again=searcher.again,
        hung=watchdog.hung,
    )
    tuner = tune.Tuner(
        tune.with_resources(DistillationTrial, _resources_of),
        param_space={
            "objective": objective,
            "cache": str(places.cache),
            "cpus": spec.resources.cpu,
            "checkpoints": str(checkpoints),
            "checkpoint_every_s": spec.checkpoint_every_s,
            "report_every_s": max(REPORT_EVERY_S, concurrent / MOST_REPORTS_PER_S),
            "logits": str(places.logits / spec.name),
        },
        tune_config=tune.TuneConfig(
            metric=objective,
            mode="max",
            search_alg=searcher,
            scheduler=make_scheduler(spec, ledger),
            num_samples=-1,  # the searcher says when there are no more
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(places.tune),
            callbacks=[recorder, watchdog],
            stop=reserves,
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=FailureConfig(max_failures=0),  # the recorder and the searcher retry
            verbose=0,
        ),
    )
    # It would warn, trial by trial, that the files of the loggers turned off are missing.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        tuner.fit()
    finally:
        searcher.close()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, before)  # Tune leaves its own behind
    studies.sync_all(ledger.by_context)
    if not ledger.unfinished():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return designer.reason or _budget_spent(spec, ledger)
    return None


def _budget_spent(spec: SearchSpec, ledger: Ledger) -> str | None:
    """The criterion that has ended a search, in words; None while it is not or trials go on."""
    if ledger.unfinished():
        return None
    return reached(spec, ledger.by_context, ledger.active_at(time.time()), Losses(spec))


def _resources_of(config: dict[str, Any]) -> PlacementGroupFactory:
    asked = {"CPU": config["resources"]["cpu"], "GPU": config["resources"]["gpu"]}
    return PlacementGroupFactory([{kind: amount for kind, amount in asked.items() if amount}])


def _machines() -> list[Mapping[str, float]]:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]

"""The stock tools as their documentation puts them together, for benchmarks to compare with.

Ray Tune with `OptunaSearch`, `AsyncHyperBandScheduler` and `MLflowLoggerCallback`, nothing
changed but where Ray listens. One study over KD weight, fraction and seed, and one ASHA over all
fractions: what they find is another question, here they are timed.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from mlflow.tracking import MlflowClient
from ray import tune
from ray._private import ray_constants
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from trainables.config import TrialConfig
from trainables.record import VAL_R2
from trainables.ridge import RidgeTraining

EXPERIMENT = "stock"


class StockTrial(tune.Trainable):
    """The closed-form problem, one report (accuracy, seconds, epoch) an epoch as Tune asks for."""

    def setup(self, config: dict[str, Any]) -> None:
        """Solve the problem: about a millisecond."""
        self._training = RidgeTraining(
            TrialConfig(
                dataset={"name": "ridge"},
                student="linear",
                teacher="linear",
                method="random",
                recipe={"epochs": config["epochs"]},
                fraction=config["fraction"],
                kd_weight=config["kd_weight"],
                seed=config["seed"],
            )
        )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        report = self._training.step()
        return {**report, "done": self._training.epoch >= self._training.epochs}


class FirstTrial(tune.Callback):
    """Notes when the first trial starts."""

    began = 0.0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Once."""
        self.began = self.began or time.perf_counter()


def listen_on_loopback() -> dict[str, Any]:
    """Arguments for `ray.init` that keep a local Ray on 127.0.0.1; before workers start."""
    # Ray puts the host's address in place of the loopback one where it forms clusters.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    return {"_node_ip_address": "127.0.0.1", "include_dashboard": False}


def run_search(
    folder: Path, space: Mapping[str, Any], trials: int, concurrent: int, *, reuse_actors: bool
) -> dict[str, float]:
    """Run one search and measure it from the start of its first trial to the end of `fit`.

    Args:
        folder: for Tune's files and MLflow's SQLite database.
        space: fractions and seeds to choose from, and epochs.
        trials: how many.
        concurrent: trials at a time.
        reuse_actors: Tune's setting; it is off by default.

    Returns:
        Seconds (`wall_s`), the share of trials that were stopped early, and the number of metrics
        that a trial's MLflow run holds.
    """
    tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
    ray.init(**listen_on_loopback(), logging_level=logging.WARNING)
    epochs, first = space["epochs"], FirstTrial()
    tuner = tune.Tuner(
        tune.with_resources(StockTrial, {"cpu": 1}),
        param_space={
            "kd_weight": tune.uniform(0.0, 1.0),
            "fraction": tune.choice(space["fractions"]),
            "seed": tune.choice(space["seeds"]),
            "epochs": epochs,
        },
        tune_config=tune.TuneConfig(
            metric=VAL_R2,
            mode="max",
            search_alg=OptunaSearch(seed=0),
            scheduler=ASHAScheduler(max_t=epochs, grace_period=-(-epochs // 3), reduction_factor=3),
            num_samples=trials,
            max_concurrent_trials=concurrent,
            reuse_actors=reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(folder / "tune"),
            callbacks=[first, MLflowLoggerCallback(tracking_uri, experiment_name=EXPERIMENT)],
            # Off, as in kdcurve: by default every trial would write one at its end.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    results = tuner.fit()
    wall_s = time.perf_counter() - first.began
    ray.shutdown()
    lengths = [result.metrics["training_iteration"] for result in results]
    if len(lengths) < trials or results.num_errors:
        raise RuntimeError(f"{len(lengths)} of {trials} trials ran, {results.num_errors} failed")
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run, *_) = client.search_runs([experiment.experiment_id], max_results=1)
    return {
        "wall_s": wall_s,
        "stopped_early": sum(length < epochs for length in lengths) / trials,
        "metrics": len(run.data.metrics),
    }

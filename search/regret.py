"""What a simulated search answered, and what those answers lose against the truth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.curve import fit_curve
from search.frame import runs_frame
from search.places import Places
from search.simulator import Simulated
from search.space import Context, SearchSpec
from search.worlds import World, settings
from trainables.record import CONTEXT_PARAMS

if TYPE_CHECKING:
    import pandas as pd

POINTS = 201
"""KD weights among which the truly best one is looked for, evenly over the tuned range."""
HIGH = 0.9
"""The quantile that is given beside the median."""


@dataclass(frozen=True)
class Optimum:
    """The truly best setting of a context."""

    setting: Mapping[str, Any]
    kd_weight: float
    score: float


def optima(spec: SearchSpec, world: World) -> dict[str, Optimum]:
    """The truly best setting by context key, among all that may be recommended."""
    tuned = spec.tune.kd_weight
    weights = np.linspace(tuned.low, tuned.high, POINTS)
    found: dict[str, Optimum] = {}
    for context, base in settings(spec):
        for temperature in world.temperatures(spec) or (base["temperature"],):
            setting = {**base, "temperature": temperature}
            scores = world.truth(setting, weights)
            top = int(scores.argmax())
            here = Optimum(setting, float(weights[top]), float(scores[top]))
            if context.key not in found or here.score > found[context.key].score:
                found[context.key] = here
    return found


def answers(played: Simulated, world: World, places: Places) -> "pd.DataFrame":
    """The curve of `analysis.fit_curve`, and how far each answer is from the truth.

    Adds `best_kd_weight` (the truly best), `true_score` (of the recommended setting) and
    `regret`: true score of the best setting minus that of the recommended one, in points
    (hundredths of the objective); missing where there is no answer.

    Raises:
        AnalysisError: no trial is complete.
    """
    spec = played.spec
    curve = fit_curve(runs_frame(played.ledger, places))
    best = optima(spec, world)
    contexts = {context.key: context for context in spec.context_list}
    true_scores = [
        _true_score(spec, world, contexts[row["context"]], best[row["context"]], row)
        for row in curve.to_dict("records")
    ]
    curve["best_kd_weight"] = [best[key].kd_weight for key in curve["context"]]
    curve["true_score"] = true_scores
    top = np.array([best[key].score for key in curve["context"]])
    curve["regret"] = 100.0 * (top - curve["true_score"])
    return curve


def _true_score(
    spec: SearchSpec, world: World, context: Context, best: Optimum, row: Mapping[Any, Any]
) -> float:
    weight = row["kd_weight"]
    if math.isnan(weight):
        return math.nan
    others = {name: row[name] for name in CONTEXT_PARAMS if name in spec.tuned}
    # What has no effect at KD weight 0 is not recommended: any value stands for it.
    known = {n: best.setting[n] if _missing(value) else value for n, value in others.items()}
    config = spec.trial_config(context, {"kd_weight": weight, **known}, 0)
    return float(world.truth(config.model_dump(mode="json"), np.array([weight]))[0])


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def spread(values: "pd.Series[float] | list[float]") -> dict[str, float | None]:
    """Median and 90th percentile of what is not missing."""
    there = np.asarray(values, dtype=np.float64)
    there = there[np.isfinite(there)]
    if not len(there):
        return {"median": None, "p90": None}
    return {"median": float(np.median(there)), "p90": float(np.quantile(there, HIGH))}

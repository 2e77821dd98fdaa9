"""Parameter importance: which settings tell the best trials from the rest, by fraction."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from analysis.curve import usable
from analysis.figures.drawing import Drawing
from analysis.figures.findings import Findings, shown
from analysis.figures.style import SHADES, styled
from analysis.format import fraction_text, heading

if TYPE_CHECKING:
    import pandas as pd

TITLE = "What matters"
PARAMETERS = ("kd_weight", "temperature", "method", "teacher", "teacher_fraction", "seed")
FEWEST = 12
"""Complete trials of a fraction below which importance would be noise."""
GOOD = 0.25
"""Share of the trials, the best, that are told from the rest."""


def tidy(findings: Findings) -> "pd.DataFrame":
    """Rows (`fraction`, `parameter`, `importance`, `trials`); importances of a fraction sum to 1.

    By Optuna's PED-ANOVA: how differently a setting is distributed among the best trials and
    among all. Every fraction is a study of its own. Empty where fewer than two parameters vary.
    """
    import pandas as pd  # noqa: PLC0415

    rows = []
    runs = findings.runs[usable(findings.runs)]
    for fraction, trials in runs.groupby("fraction"):
        if len(trials) >= FEWEST:
            rows += [
                {
                    "fraction": fraction,
                    "parameter": name,
                    "importance": value,
                    "trials": len(trials),
                }
                for name, value in _importances(trials).items()
            ]
    frame = pd.DataFrame(rows, columns=["fraction", "parameter", "importance", "trials"])
    frame.attrs = shown(findings.curve.attrs)
    return frame


def _importances(trials: "pd.DataFrame") -> dict[str, float]:
    import optuna  # noqa: PLC0415  (only where it is asked)
    from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: PLC0415
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # noqa: PLC0415

    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in PARAMETERS:
        values = sorted(trials[name].dropna().unique().tolist())
        if len(values) > 1 and not trials[name].isna().any():
            numeric = name in ("kd_weight", "temperature")
            space[name] = (
                FloatDistribution(values[0], values[-1])
                if numeric
                else CategoricalDistribution(values)
            )
    if len(space) < 2 or trials["score"].nunique() < 2:  # noqa: PLR2004
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize")
        optuna.logging.set_verbosity(verbosity)
        study.add_trials(
            [
                optuna.create_trial(
                    params={name: row[name] for name in space},
                    distributions=space,
                    value=row["score"],
                )
                for row in trials.to_dict("records")
            ]
        )
        evaluator = PedAnovaImportanceEvaluator(target_quantile=GOOD)
        return get_param_importances(study, evaluator=evaluator)


def caption(frame: "pd.DataFrame") -> str:
    """What the figure shows."""
    return (
        f"What tells the best {GOOD:.0%} of the complete trials of a fraction from all of them "
        "(Optuna's PED-ANOVA; a column sums to 100%). Each fraction stands for itself: across "
        "fractions the data kept would be all that matters. Where scores hardly differ, shares "
        "say little."
    )


@styled
def draw(frame: "pd.DataFrame") -> Drawing:
    """A table of shares, a row per parameter and a column per fraction, shaded."""
    order = frame.groupby("parameter")["importance"].mean().sort_values(ascending=False).index
    table = frame.pivot_table(index="parameter", columns="fraction", values="importance").loc[order]
    values, fractions = table.to_numpy(), table.columns.to_list()
    size = (1.9 + 0.95 * values.shape[1], 0.9 + 0.48 * values.shape[0])
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    axes = figure.subplots()
    drawing = Drawing(figure)
    axes.pcolormesh(values, cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    trials = frame.groupby("fraction")["trials"].first()
    for (i, j), value in np.ndenumerate(values):
        color = "black" if value > 0.6 else "white"  # noqa: PLR2004  (light shades)
        axes.text(j + 0.5, i + 0.5, f"{value:.0%}", ha="center", va="center", color=color)
        fraction = float(fractions[j])
        text = f"{heading(str(order[i]))}, {fraction_text(fraction)} kept: {value:.1%}\n"
        drawing.mark(axes, j + 0.5, i + 0.5, text + f"from {trials[fraction]} trials")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(order)) + 0.5, [heading(str(name)) for name in order])
    axes.set_xticks(np.arange(len(fractions)) + 0.5, [fraction_text(float(f)) for f in fractions])
    axes.set_xlabel("training data kept")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return drawing

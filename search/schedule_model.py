"""A schedule as an MLflow model: the code that travels with it.

MLflow copies this file into the model and runs it when the model is loaded; nothing is pickled.
Beside it travel the schedule's JSON document and `analysis/laws.py`, as `kdcurve_laws`, so that
a model needs neither kdcurve nor what that needs. `search.registry` puts it together.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

try:
    import kdcurve_laws as laws  # type: ignore[import-not-found]
except ModuleNotFoundError:  # while it is put together MLflow runs this file where it stands
    from analysis import laws


class ScheduleModel(PythonModel):
    """Kept fractions → KD weights, with bands."""

    def load_context(self, context: Any) -> None:
        """Read the document."""
        document = json.loads(Path(context.artifacts["schedule"]).read_text(encoding="utf-8"))
        self._laws = document["laws"]

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row per row asked.

        Args:
            context: of the model; not used.
            model_input: a frame with `fraction` in (0, 1], and `method` and `teacher` where the
                schedule knows several.
            params: none are known.

        Returns:
            `kd_weight`, the band's `low` and `high` (missing where there is none) and
            `extrapolated`.

        Raises:
            ValueError: a fraction outside (0, 1], or an unknown or ambiguous method or teacher.
        """
        names = [name for name in ("method", "teacher") if name in model_input]
        rows = [
            self._row(float(asked["fraction"]), {name: asked[name] for name in names})
            for asked in model_input.to_dict("records")
        ]
        columns = ("kd_weight", "low", "high", "extrapolated")
        return pd.DataFrame(rows, columns=columns, index=model_input.index)

    def _row(self, fraction: float, named: dict[str, Any]) -> tuple[float, float, float, bool]:
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"fraction {fraction:g} is not in (0, 1]")
        law = self._law({name: value for name, value in named.items() if not pd.isna(value)})
        at = np.array(fraction)
        fitted = [point["fraction"] for point in law["points"]]
        low, high = laws.band(law["band"], at)
        return (
            float(laws.LAWS[law["family"]](at, **law["parameters"])),
            float(low),
            float(high),
            bool(laws.outside(at, min(fitted), max(fitted))),
        )

    def _law(self, named: dict[str, Any]) -> dict[str, Any]:
        found = [law for law in self._laws if named.items() <= law.items()]
        if len(found) != 1:
            asked = ", ".join(map(str, named.values())) or "no method and teacher"
            there = "; ".join(f"{law['method']}, {law['teacher']}" for law in self._laws)
            raise ValueError(f"{asked}: {len(found)} laws of the schedule fit; known: {there}")
        return dict(found[0])


set_model(ScheduleModel())

"""Schedules: a pure function fraction → KD weight, fitted, saved as JSON, loaded and applied.

Applying a schedule needs NumPy and pydantic only: a training script can load one without
MLflow, Ray, torch or pandas.
"""

import json
import os
import warnings
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from analysis.errors import AnalysisError, known

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
MIN_FRACTIONS = 2
"""Fractions with an answer that a line through them needs."""
MIN_WIDTH = 0.02
"""Narrowest interval that a weight is computed from: an exact point must not rule alone."""
MAX_NAMED = 5
"""Fractions that a warning names."""
TUNED = "tuned"
"""Stands for the method or teacher where the search chose it instead of keeping it apart."""

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1.0)]


class ExtrapolationWarning(UserWarning):
    """A schedule was asked for a fraction outside the range it was fitted on."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Point(_Document):
    """One answer of the curve behind a schedule."""

    fraction: Fraction
    kd_weight: Weight
    low: Weight
    high: Weight


class Law(_Document):
    """kd_weight = clip(intercept + slope · ln(fraction), 0, 1), for one method and teacher."""

    method: str
    teacher: str
    intercept: float
    slope: float
    points: tuple[Point, ...] = Field(min_length=MIN_FRACTIONS)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest fraction it was fitted on."""
        fractions = [point.fraction for point in self.points]
        return min(fractions), max(fractions)


class LeftOut(_Document):
    """A method and teacher without a law, and why."""

    method: str
    teacher: str
    reason: str


class Schedule(_Document):
    """A fitted function fraction → KD weight, one law per method and teacher."""

    format_version: Literal[1] = 1
    kind: Literal["clipped-log-linear"] = "clipped-log-linear"
    laws: tuple[Law, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, JsonValue] = {}

    @overload
    def __call__(
        self, fraction: float, *, method: str | None = None, teacher: str | None = None
    ) -> float: ...
    @overload
    def __call__(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> float | NDArray[np.float64]: ...
    def __call__(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> float | NDArray[np.float64]:
        """The KD weight to use.

        Args:
            fraction: kept fraction(s) in (0, 1], a number or an array of any shape.
            method: pruning method; may be omitted if the schedule knows one only.
            teacher: likewise.

        Returns:
            KD weight(s) in [0, 1], of the shape of `fraction`.

        Raises:
            AnalysisError: unknown or ambiguous method or teacher, or a fraction outside (0, 1].

        Warns:
            ExtrapolationWarning: a fraction lies outside the range fitted on.
        """
        law = self.law(method, teacher)
        fractions = _fractions(fraction)
        outside = fractions[~np.asarray(self.covers(fractions, method=method, teacher=teacher))]
        if outside.size:
            low, high = law.range
            asked = [f"{each:g}" for each in np.unique(outside)]
            named = known(asked[:MAX_NAMED]) + (", …" if len(asked) > MAX_NAMED else "")
            warnings.warn(
                f"fraction {named} outside [{low:g}, {high:g}], on which the schedule for "
                f"{law.method}, {law.teacher} was fitted: the KD weight is extrapolated",
                ExtrapolationWarning,
                stacklevel=2,
            )
        weights = _law(law.intercept, law.slope, fractions)
        return float(weights) if weights.ndim == 0 else weights

    def covers(
        self, fraction: ArrayLike, *, method: str | None = None, teacher: str | None = None
    ) -> bool | NDArray[np.bool_]:
        """Whether fraction(s) lie inside the range that the law was fitted on.

        Raises:
            AnalysisError: as `__call__`.
        """
        fractions = _fractions(fraction)
        low, high = self.law(method, teacher).range
        slack = 1e-9  # 0.1 that went through text and back is still 0.1
        inside = (fractions >= low * (1 - slack)) & (fractions <= high * (1 + slack))
        return bool(inside) if np.ndim(inside) == 0 else np.asarray(inside)

    def law(self, method: str | None = None, teacher: str | None = None) -> Law:
        """The law of a method and teacher.

        Raises:
            AnalysisError: none or several fit; the message lists the known ones.
        """
        found = list(self.laws)
        for name, value in (("method", method), ("teacher", teacher)):
            there = sorted({str(getattr(law, name)) for law in found})
            if value is None and len(there) > 1:
                raise AnalysisError(f"say which {name}: the schedule knows {known(there)}")
            if value is not None and value not in there:
                raise AnalysisError(
                    f"{name} {value!r} is not one this schedule was fitted on; known: "
                    f"{known(there)}{self._why_not(name, value, method)}"
                )
            found = [law for law in found if value is None or getattr(law, name) == value]
        return found[0]

    def _why_not(self, name: str, value: str, method: str | None) -> str:
        for each in self.left_out:
            if getattr(each, name) == value and (name == "method" or each.method == method):
                return f" ({value} was left out: {each.reason})"
        return ""

    def save(self, path: str | Path) -> None:
        """Write the schedule as JSON, at once or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=2) + "\n")
        temporary = Path(file.name)
        temporary.chmod(0o644)  # a temporary file is for its owner's eyes; a schedule is not
        os.replace(temporary, path)  # noqa: PTH105  (replace, not rename: the same on every system)


def load_schedule(path: str | Path) -> Schedule:
    """Read a schedule that `Schedule.save` wrote.

    Raises:
        AnalysisError: no such file, damaged, of another version, or a key missing or wrong.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AnalysisError(f"cannot read schedule {path}: {error.strerror}") from None
    except ValueError as error:
        raise AnalysisError(f"schedule {path} is damaged, not JSON: {error}") from None
    if not isinstance(document, dict):
        raise AnalysisError(f"schedule {path} is damaged: a JSON object is expected")
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise AnalysisError(
            f"schedule {path} has format_version {version!r}; this kdcurve reads {FORMAT_VERSION}"
        )
    for key in ("kind", "laws"):
        if key not in document:
            raise AnalysisError(f"schedule {path} is damaged: key {key!r} is missing")
    try:
        return Schedule.model_validate_json(json.dumps(document))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise AnalysisError(f"schedule {path} is damaged: {key}: {fault['msg'].lower()}") from None


def fit_schedule(curve: "pd.DataFrame", provenance: dict[str, JsonValue] | None = None) -> Schedule:
    """Fit kd_weight = clip(a + b ln(fraction), 0, 1) per method and teacher.

    Least squares with each answer weighted by the inverse width of its interval and the clip
    inside the fit, so that answers at 0 or 1 bend the line only until it reaches them.

    Args:
        curve: from `fit_curve`; rows without an answer are passed over.
        provenance: what to record beside the search, objective, estimator, number of trials and
            version, e.g. a git commit.

    Raises:
        AnalysisError: no method and teacher has answers at two fractions, or contexts differ in
            something else too (a temperature, say) that a schedule does not take.
    """
    _require_one_value(curve)
    contexts = curve.attrs["contexts"]
    # The method and teacher were either kept apart, or one of the tuned values.
    keys = [curve[name] if name in contexts else TUNED for name in ("method", "teacher")]
    keyed = curve.assign(_method=keys[0], _teacher=keys[1])
    laws, left_out = [], []
    for (method, teacher), rows in keyed.groupby(["_method", "_teacher"], sort=True):
        names = {"method": str(method), "teacher": str(teacher)}
        answers = rows[rows["kd_weight"].notna()].sort_values("fraction")
        if len(answers) < MIN_FRACTIONS:
            has = f"{len(answers)} of {len(rows)} fractions answered"
            left_out.append(LeftOut(**names, reason=f"{has}, needs {MIN_FRACTIONS}"))
            continue
        columns = ["fraction", "kd_weight", "kd_weight_low", "kd_weight_high"]
        table = answers[columns].to_numpy(dtype=np.float64)
        intercept, slope = _fit_law(table)
        points = tuple(
            Point(fraction=f, kd_weight=w, low=low, high=high) for f, w, low, high in table.tolist()
        )
        laws.append(Law(**names, intercept=intercept, slope=slope, points=points))
    if not laws:
        why = "; ".join(f"{each.method}, {each.teacher}: {each.reason}" for each in left_out)
        raise AnalysisError(
            f"no schedule: it needs answers at {MIN_FRACTIONS} or more fractions for one method "
            f"and teacher ({why})"
        )
    return Schedule(
        laws=tuple(laws),
        left_out=tuple(left_out),
        provenance={**_provenance(curve), **(provenance or {})},
    )


def _fit_law(table: NDArray[np.float64]) -> tuple[float, float]:
    """Intercept and slope for rows (fraction, kd_weight, low, high)."""
    from scipy.optimize import least_squares  # noqa: PLC0415  (half a second, only to fit)

    fraction, weight, low, high = table.T
    scale = np.maximum(high - low, MIN_WIDTH)
    basis = np.column_stack([np.ones_like(fraction), np.log(fraction)])

    def misfit(law: NDArray[np.float64]) -> NDArray[np.float64]:
        residual: NDArray[np.float64] = (_law(law[0], law[1], fraction) - weight) / scale
        return residual

    # The clip makes flat stretches where a search would stay: start from the line through all
    # answers and from that through those inside, and keep the better end.
    inside = (weight > 0.0) & (weight < 1.0)
    subsets = [np.full_like(inside, fill_value=True)]
    if inside.sum() >= MIN_FRACTIONS:
        subsets.append(inside)
    ends = []
    for rows in subsets:
        scaled = basis[rows] / scale[rows, None]
        start = np.linalg.lstsq(scaled, weight[rows] / scale[rows], rcond=None)[0]
        ends.append(least_squares(misfit, start))
    law = min(ends, key=lambda end: float(end.cost)).x
    return float(law[0]), float(law[1])


def _law(intercept: float, slope: float, fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(intercept + slope * np.log(fraction), 0.0, 1.0)


def _fractions(fraction: ArrayLike) -> NDArray[np.float64]:
    fractions = np.asarray(fraction, dtype=np.float64)
    wrong = fractions[~((fractions > 0.0) & (fractions <= 1.0))]
    if wrong.size:
        raise AnalysisError(f"fraction {wrong.flat[0]:g} is not in (0, 1]")
    return fractions


def _require_one_value(curve: "pd.DataFrame") -> None:
    free = ("method", "teacher", "fraction")
    for name in curve.attrs["contexts"]:
        values = sorted(curve[name].dropna().unique())
        if name not in free and len(values) > 1:
            raise AnalysisError(
                f"a schedule answers per method and teacher, but the contexts differ in {name} "
                f"too: {known(values)}; keep one of them"
            )


def _provenance(curve: "pd.DataFrame") -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        kdcurve: str | None = version("kdcurve")
    except PackageNotFoundError:
        kdcurve = None  # used from a source folder
    return {
        "kdcurve": kdcurve,
        **{key: curve.attrs.get(key) for key in ("search", "objective", "estimator", "level")},
        "parent_run_id": curve.attrs.get("parent_run_id"),
        "complete_trials": int(curve["n_complete"].sum()),
    }

"""Response tables: what runs of a problem scored, epoch by epoch, as one Parquet file.

A table answers for trials that nobody has to train again: searches are replayed on it. It is
long: one row per run and reported epoch, every parameter in a column of its own. The file's
metadata says what the rows do not: `version`, `objective`, `train_samples`, `classes`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.errors import AnalysisError, known

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""Of the schema; a file of another version is refused."""
RUN = (
    *("dataset", "student", "method", "fraction", "teacher", "teacher_fraction"),
    *("temperature", "label_noise", "kd_weight", "seed"),
)
"""The columns that tell a run from all others."""
COLUMNS: dict[str, str] = {
    **{"dataset": "str", "student": "str", "method": "str", "fraction": "float64"},
    **{"teacher": "str", "teacher_fraction": "float64", "temperature": "float64"},
    **{"label_noise": "float64", "kd_weight": "float64", "seed": "int64", "epoch": "int64"},
    **{"score": "float64", "val_nll_scaled": "float64"},
}
"""All columns in their order, with the types that they have once they are read."""
_PARAMETERS = ("fraction", "teacher_fraction", "temperature", "label_noise", "kd_weight")
_DIGITS = 6
"""Decimals of parameters that count: a file may hold them in single precision."""
_RANGES = {
    "fraction": "0 < fraction <= 1",
    "teacher_fraction": "0 < teacher_fraction <= 1",
    "temperature": "0 < temperature",
    "label_noise": "0 <= label_noise < 1",
    "kd_weight": "0 <= kd_weight <= 1",
    "seed": "0 <= seed",
    "epoch": "1 <= epoch",
    "score": "-inf < score < inf",
}
"""What values are allowed, as pandas evaluates it; `val_nll_scaled` may be missing."""


@dataclass(frozen=True, eq=False)
class ResponseTable:
    """A validated table.

    Args:
        rows: `COLUMNS`, in any order of rows.
        objective: name of the metric in `score`, higher is better.
        train_samples: training samples before pruning.
        classes: number of classes (1 for a regression).

    Raises:
        AnalysisError: a column or all rows are missing, a value is outside its range, or a
            run has an epoch twice.
    """

    rows: "pd.DataFrame"
    objective: str
    train_samples: int
    classes: int

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.rows.columns]
        if missing:
            raise AnalysisError(f"columns are missing: {known(missing)}")
        if self.rows.empty:
            raise AnalysisError("it has no rows")
        rows = self.rows[list(COLUMNS)].astype(COLUMNS)
        rows[list(_PARAMETERS)] = rows[list(_PARAMETERS)].round(_DIGITS)
        for name, allowed in _RANGES.items():
            right = np.asarray(rows.eval(allowed), dtype=bool)
            wrong = rows[name][~right]
            if len(wrong):
                raise AnalysisError(
                    f"{name}: {wrong.iloc[0]:g} in row {wrong.index[0]}; allowed: {allowed}"
                )
        twice = rows.duplicated([*RUN, "epoch"])
        if twice.any():
            first = rows[twice].iloc[0]
            which = ", ".join(f"{name} {first[name]}" for name in (*RUN, "epoch"))
            raise AnalysisError(f"{twice.sum()} rows are there twice, the first: {which}")
        object.__setattr__(self, "rows", rows)


def read_table(path: Path | str) -> ResponseTable:
    """Read and validate a table.

    Raises:
        AnalysisError: it cannot be read, is of another version, or is not valid; the message
            names the file.
    """
    import pyarrow as pa  # noqa: PLC0415  (a query of recorded answers does without)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        whole = pq.read_table(path)
        metadata = {
            key.decode(): value.decode() for key, value in (whole.schema.metadata or {}).items()
        }
        if (version := metadata.get("version")) != str(VERSION):
            raise AnalysisError(
                f"its metadata names version {version}; this kdcurve reads version {VERSION}"
            )
        return ResponseTable(
            whole.to_pandas(ignore_metadata=True),
            metadata["objective"],
            int(metadata["train_samples"]),
            int(metadata["classes"]),
        )
    except (OSError, pa.ArrowException) as error:
        raise AnalysisError(f"cannot read the table {path}: {str(error).splitlines()[0]}") from None
    except KeyError as error:
        raise AnalysisError(f"table {path}: its metadata lacks {error}") from None
    except (ValueError, TypeError) as error:
        raise AnalysisError(f"table {path}: {error}") from None


def write_table(table: ResponseTable, path: Path | str) -> None:
    """Write a table: parameters as dictionaries, scores in single precision, compressed.

    Raises:
        OSError: the file cannot be written.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    stored: dict[str, np.dtype[np.generic] | str] = {
        name: np.dtype(np.float32) if kind == "float64" else kind for name, kind in COLUMNS.items()
    }
    whole = pa.Table.from_pandas(table.rows.astype(stored), preserve_index=False)
    metadata = {
        "version": str(VERSION),
        "objective": table.objective,
        "train_samples": str(table.train_samples),
        "classes": str(table.classes),
    }
    pq.write_table(whole.replace_schema_metadata(metadata), path, compression="zstd")

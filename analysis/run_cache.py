"""Tables of ended trials in Parquet files, in the user's cache folder.

They can be removed at any time. Each is replaced as a whole, so that several processes may read and
write it; one that is damaged, or of something else, is as good as none.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.secrets import redacted

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FORMAT = 1
_METADATA = b"kdcurve"


def default_folder() -> Path:
    """Where tables are cached: `~/.cache/kdcurve/runs` on Linux, below `XDG_CACHE_HOME` if set."""
    from platformdirs import user_cache_path  # noqa: PLC0415

    return user_cache_path("kdcurve") / "runs"


def file_name(tracking_uri: str, experiment_id: str) -> str:
    """The name of an experiment's file; passwords have no part in it."""
    text = f"{redacted(tracking_uri)}\n{experiment_id}"
    if tracking_uri.startswith("sqlite:///") and not tracking_uri.startswith("sqlite:////"):
        text = f"{Path.cwd()}\n{text}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"


def load(
    path: Path, key: Mapping[str, Any], dtypes: Mapping[str, str]
) -> "tuple[pd.DataFrame, int] | None":
    """A table and the number of deleted runs that went with it.

    Args:
        path: of the file.
        key: what must have been saved with it.
        dtypes: of its columns.

    Returns:
        None if there is none of this key that can be read.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with path.open("rb") as file:  # pyarrow alone would take a folder, too
            table = pq.read_table(file, page_checksum_verification=True)
        saved = json.loads(table.schema.metadata[_METADATA])
        if saved["key"] != {"format": FORMAT, **key}:
            return None
        return table.to_pandas().astype(dict(dtypes))[list(dtypes)], int(saved["deleted"])
    except FileNotFoundError:
        return None
    except Exception:
        logger.warning("the cached table %s cannot be read and is made anew", path, exc_info=True)
        return None


def save(path: Path, key: Mapping[str, Any], runs: "pd.DataFrame", deleted: int) -> None:
    """Keep a table; a folder that cannot be written to is left alone."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    saved = {"key": {"format": FORMAT, **key}, "deleted": deleted}
    table = pa.Table.from_pandas(runs, preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _METADATA: json.dumps(saved)}
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(table, file, compression="zstd", write_page_checksum=True)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.info("the table of runs is not cached: %s", error)

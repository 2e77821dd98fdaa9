"""Where things live: one folder by default, URIs on a cluster."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from search.errors import KdcurveError, UsageError

_UNFIT = re.compile(r"[#?]|%[0-9a-fA-F]{2}")


@dataclass(frozen=True)
class Places:
    """The four places of a search; each defaults to a file or folder under `home`."""

    home: Path
    """Folder with everything that has no place of its own."""
    record: str
    """SQLAlchemy URI of the journal."""
    tracking_uri: str
    """MLflow tracking URI."""
    storage: Path
    """Folder for caches and Tune's working files, shared by all nodes."""

    @classmethod
    def at(
        cls,
        home: Path | str = "kdcurve-data",
        record: str | None = None,
        tracking_uri: str | None = None,
        storage: Path | str | None = None,
    ) -> "Places":
        """Fill in what is not given from `home`."""
        if "://" in str(storage or ""):
            raise UsageError(
                f"--storage {str(storage)!r} is not a folder; object stores are not supported "
                "yet, allowed: a folder that all machines share"
            )
        home = Path(home).expanduser().resolve()
        if _UNFIT.search(str(home)):
            raise UsageError(
                f"--home {str(home)!r} cannot stand in a database URI; allowed: a folder without "
                "'#', '?' and '%' followed by two digits in its path"
            )
        return cls(
            home=home,
            record=record or f"sqlite:///{home / 'record.db'}",
            tracking_uri=tracking_uri or f"sqlite:///{home / 'mlflow.db'}",
            storage=Path(storage).expanduser().resolve() if storage else home,
        )

    def named(self) -> dict[str, str]:
        """The places that are not the default, by option (`home`, `tracking_uri`, ...)."""
        usual = Places.at(self.home)
        places = {} if self.home == Places.at().home else {"home": str(self.home)}
        for name in ("record", "tracking_uri", "storage"):
            if (where := getattr(self, name)) != getattr(usual, name):
                places[name] = str(where)
        return places

    @property
    def cache(self) -> Path:
        """Teachers and scores, made once and shared."""
        return self.storage / "cache"

    @property
    def tune(self) -> Path:
        """Ray Tune's own working files; nothing is read back from them."""
        return self.storage / "tune"

    def folder(self, search: str) -> Path:
        """A search's own folder: log, Optuna's storage, curve, schedule, report."""
        return self.home / "searches" / search

    def answers(self, search: str) -> Path:
        """The part of a search's folder that is uploaded to MLflow."""
        return self.folder(search) / "answers"

    def optuna(self, search: str) -> Path:
        """Optuna's storage of a search, derived from the record."""
        return self.folder(search) / "optuna.journal"

    @property
    def checkpoints(self) -> Path:
        """States that unfinished trials go on from, a folder per search."""
        return self.storage / "checkpoints"

    @property
    def logits(self) -> Path:
        """Validation logits of complete trials, a folder per search."""
        return self.storage / "logits"

    @property
    def confirmed(self) -> Path:
        """Weights of the students that confirmed an answer, a folder per search."""
        return self.storage / "confirmed"

    def artifact_root(self) -> str | None:
        """Where MLflow shall keep artifacts; None leaves it to a tracking server."""
        if self.tracking_uri.startswith(("http:", "https:", "databricks")):
            return None
        return (self.home / "mlartifacts").as_uri()

    def make(self) -> None:
        """Create the folders, for their owner alone; one that is there keeps its permissions.

        Raises:
            KdcurveError: a folder cannot be made or written.
        """
        for folder in (self.home, self.storage):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise KdcurveError(
                    f"cannot create the folder {folder}: {error.strerror}; "
                    "choose another with --home or --storage"
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise KdcurveError(
                    f"cannot write to the folder {folder}; choose another with --home or --storage"
                )

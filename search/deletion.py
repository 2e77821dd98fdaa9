"""A search deleted: its record, its folders and, where MLflow answers, its experiment."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search.client import connect, first_line
from search.errors import KdcurveError
from search.journal import EventKind, Journal, cause_of
from search.lease import Lease
from search.mirror import identity_of
from search.places import Places
from search.standing import open_recorded, require_idle
from trainables import record


@dataclass(frozen=True)
class Belongings:
    """All that goes with a search."""

    events: int
    trials: int
    """What its record holds."""
    folders: tuple[Path, ...]
    """Those that exist: its log and answers, checkpoints, logits, confirmed students, Tune's
    working files."""
    experiments: tuple[Any, ...]
    """MLflow's: one, none, or two if an earlier deletion was cut off."""


def belongings(
    name: str, places: Places | None = None, *, keep_mlflow: bool = False, take_over: bool = False
) -> Belongings:
    """What `delete` would delete.

    Raises:
        KdcurveError: as `delete`.
    """
    places = places or Places.at()
    journal = open_recorded(name, places)
    require_idle(journal, name, take_over)
    return _belongings(journal, name, places, keep_mlflow)


def _belongings(journal: Journal, name: str, places: Places, keep_mlflow: bool) -> Belongings:
    shared = (places.checkpoints, places.logits, places.confirmed, places.tune)
    folders = (places.folder(name), *(folder / name for folder in shared))
    return Belongings(
        events=journal.last_number(name),
        trials=journal.count(name, EventKind.PROPOSED),
        folders=tuple(folder for folder in folders if folder.exists()),
        experiments=() if keep_mlflow else tuple(_experiments(journal, name, places)),
    )


def delete(
    name: str, places: Places | None = None, *, keep_mlflow: bool = False, take_over: bool = False
) -> Belongings:
    """Delete a search, so that its name is free again. The caches stay: others share them.

    The record goes last: a deletion that was cut off can be repeated. MLflow keeps what it
    deletes, and its name, until ``mlflow gc``; so the experiment is renamed first.

    Args:
        name: of the search.
        places: where things live; ``./kdcurve-data`` by default.
        keep_mlflow: leave MLflow alone.
        take_over: break the lease of a process on another machine that is gone for good.

    Returns:
        What was deleted.

    Raises:
        KdcurveError: there is no such search, some process has it in hand, MLflow does not
            answer (nothing is deleted then), or a folder cannot be removed.
    """
    places = places or Places.at()
    journal = open_recorded(name, places)
    require_idle(journal, name, take_over)
    lease = Lease(journal, name, take_over=take_over)
    try:
        doomed = _belongings(journal, name, places, keep_mlflow)
        for experiment in doomed.experiments:
            _delete_experiment(experiment, _hidden_name(journal, name), places)
        for folder in doomed.folders:
            _remove(folder)
        try:
            journal.delete(name)
        except sa.exc.SQLAlchemyError as error:
            raise KdcurveError(f"cannot write to the record: {cause_of(error)}") from error
    finally:
        lease.release()
    return doomed


def _identity(journal: Journal, name: str) -> str:
    return identity_of(journal.milestones(name)[0])


def _hidden_name(journal: Journal, name: str) -> str:
    return f"{name}-deleted-{_identity(journal, name)}"


def _experiments(journal: Journal, name: str, places: Places) -> list[Any]:
    """MLflow's experiments of this search: under its name, or renamed and not deleted yet."""
    uri = places.tracking_uri
    if uri.startswith("sqlite:") and not Path(sa.make_url(uri).database or "").is_file():
        return []  # asked, MLflow would make it
    try:
        client = connect(places)
    except KdcurveError as error:
        raise KdcurveError(
            f"{error}; nothing was deleted (--keep-mlflow deletes the rest)"
        ) from error
    identity = _identity(journal, name)
    found = map(client.get_experiment_by_name, (name, _hidden_name(journal, name)))
    return [
        each
        for each in found
        # Another record may have a search of this name.
        if each is not None
        and record.TAG_SEARCH in each.tags
        and each.tags.get(record.TAG_PLANNED, identity) == identity
        and (each.name == name or each.lifecycle_stage == "active")
    ]


def _delete_experiment(experiment: Any, hidden_name: str, places: Places) -> None:
    client, number = connect(places), experiment.experiment_id
    try:
        if experiment.name != hidden_name:
            if experiment.lifecycle_stage != "active":  # deleted elsewhere; it blocks the name
                client.restore_experiment(number)
            taken = client.get_experiment_by_name(hidden_name) is not None
            client.rename_experiment(number, f"{hidden_name}-{number}" if taken else hidden_name)
        client.delete_experiment(number)
    except Exception as error:
        raise KdcurveError(
            f"MLflow does not delete the experiment {experiment.name!r}: {first_line(error)}; "
            "the record and the folders are untouched"
        ) from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass  # someone was faster
    except OSError as error:
        raise KdcurveError(
            f"cannot remove {error.filename or folder}: {error.strerror}; "
            "the search is still recorded, so that this can be repeated"
        ) from error

"""The answers of searches, from the record where it holds them, else from MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from analysis.curve import find_curve, select
from analysis.estimators import DEFAULT
from analysis.recorded import from_document
from analysis.runs import together
from analysis.secrets import redacted
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.places import Places

if TYPE_CHECKING:
    import pandas as pd


def ask(
    names: Sequence[str],
    places: Places,
    wanted: Mapping[str, str | float | None],
    by: Sequence[str] = (),
    *,
    estimator: str = DEFAULT,
    fresh: bool = False,
    cache: bool = True,
) -> "pd.DataFrame":
    """As `analysis.best`, and without MLflow where the record has the answers.

    Args:
        names: of the searches.
        places: where things live.
        wanted: see `analysis.curve.select`.
        by: see there.
        estimator: a name of `ESTIMATORS`.
        fresh: compute, whatever is recorded.
        cache: as for `load_runs`.

    Raises:
        AnalysisError: as `analysis.best`.
    """
    one = len(names) == 1

    def answer(name: str) -> "pd.DataFrame":
        found = None if fresh or estimator != DEFAULT else recorded(name, places)
        if found is not None:
            return found
        asked = wanted if one else {}
        return find_curve(
            name, places.tracking_uri, asked, estimator=estimator, fresh=fresh, cache=cache
        )

    curves = {name: answer(name) for name in names}
    return select(curves[names[0]] if one else together(curves), wanted, by)


def recorded(name: str, places: Places) -> "pd.DataFrame | None":
    """The answers in the record, if they are the last that was recorded of the search.

    MLflow takes seconds to import; the record is a query away.
    """
    try:
        journal = Journal(places.record, create=False)
        if not journal.last_number(name):
            return None
        event = journal.newest(name)
    except (KdcurveError, sa.exc.SQLAlchemyError):
        return None
    if event.kind is not EventKind.ANSWER or "about" not in event.data:
        return None
    home = Places.at(places.home)
    beside = (places.record, places.tracking_uri) == (home.record, home.tracking_uri)
    if not beside and event.data["tracking_uri"] != redacted(places.tracking_uri):
        return None  # another search may have this name there
    curve = from_document({**event.data["about"], "curve": event.data["curve"]})
    if curve is not None:
        uri = redacted(places.tracking_uri)
        curve.attrs.update({"parent_run_id": None, "tracking_uri": uri})
    return curve

"""The answers of searches, from the record where it holds them, else from MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from analysis.comparison import at_contexts, compare, compare_schedules
from analysis.curve import find_curve, select
from analysis.errors import known
from analysis.estimators import DEFAULT
from analysis.recorded import from_document
from analysis.runs import together
from analysis.schedule import Schedule, load_schedule
from analysis.secrets import redacted
from search.errors import KdcurveError, UsageError
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
    if len({*names}) < len(names):
        raise UsageError(f"a search is named twice: {known(names)}")
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


def compare_answers(
    first: str,
    second: str,
    places: Places,
    *,
    estimator: str = DEFAULT,
    fresh: bool = False,
    cache: bool = True,
) -> "pd.DataFrame":
    """Two searches, schedule files, or one of each, side by side.

    Args:
        first: name of a search, or path of a schedule file.
        second: likewise.
        places: where things live.
        estimator: of searches.
        fresh: compute, whatever is recorded.
        cache: as for `load_runs`.

    Raises:
        AnalysisError: as `analysis.best`, `load_schedule` and `comparison.compare`.
    """

    def answers(name: str) -> "pd.DataFrame":
        return ask([name], places, {}, estimator=estimator, fresh=fresh, cache=cache)

    a, b = (load_schedule(each) if _is_file(each) else answers(each) for each in (first, second))
    short = tuple(Path(each).name if _is_file(each) else each for each in (first, second))
    names = (short[0], short[1]) if short[0] != short[1] else (first, second)
    if isinstance(a, Schedule):
        if isinstance(b, Schedule):
            return compare_schedules(a, b, names)
        return compare(at_contexts(a, b), b, names)
    return compare(a, at_contexts(b, a) if isinstance(b, Schedule) else b, names)


def _is_file(name: str) -> bool:
    """Whether this is a path: names of searches are letters, digits and hyphens."""
    return "." in name or "/" in name


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

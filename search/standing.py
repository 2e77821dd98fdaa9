"""Where recorded searches stand: complete, in some process's hands, or to be gone on with."""

from dataclasses import dataclass

from analysis.errors import nearest
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.lease import running
from search.places import Places
from search.space import SearchSpec
from search.specfile import parse_spec
from trainables.record import SearchState


@dataclass(frozen=True)
class Standing:
    """Where one search stands."""

    state: SearchState
    """Running as long as it has not come to a halt and some process holds it."""
    holder: str | None
    """The process that has it in hand, to run it or for its upkeep."""
    cut_off: bool
    """Whether its process is gone without having closed it."""

    @property
    def resumable(self) -> bool:
        """Whether it waits for `kdcurve resume`."""
        return self.holder is None and self.state is not SearchState.COMPLETE


def open_recorded(name: str, places: Places) -> Journal:
    """The record that a search is in.

    Raises:
        KdcurveError: there is no record, or no such search in it; the message says which
            names come near.
    """
    journal = Journal(places.record, create=False)
    names = journal.searches()
    if name not in names:
        raise KdcurveError(f"no search named {name!r} is recorded; {nearest(name, names)}")
    return journal


def standing(journal: Journal, name: str) -> Standing:
    """Where a recorded search stands."""
    turn = journal.milestones(name)[-1]
    holder = running(journal).get(name)
    if turn.kind is EventKind.CLOSED:
        return Standing(SearchState(turn.data["state"]), holder, cut_off=False)
    state = SearchState.RUNNING if holder else SearchState.INTERRUPTED
    return Standing(state, holder, cut_off=holder is None)


def recorded_spec(journal: Journal, name: str) -> SearchSpec:
    """A recorded search as it was planned, or last extended, without reading its trials.

    Raises:
        UsageError: this version does not know what stands there.
    """
    *_, newest = (event for event in journal.milestones(name) if "spec" in event.data)
    return parse_spec(newest.data["spec"], f"the recorded search {name!r}")


def require_idle(journal: Journal, name: str, take_over: bool) -> None:
    """Refuse to touch a search that some process has in hand.

    Raises:
        KdcurveError: one has, and it is not to be taken over.
    """
    holder = standing(journal, name).holder
    if holder is not None and not take_over:
        raise KdcurveError(
            f"{name} is in the hands of {holder}; let it end first, or, if that process is gone "
            "for good, add --take-over"
        )

"""A record in memory, in whatever time its clock tells: for searches that are simulated."""

from collections.abc import Callable, Iterable, Iterator

from search.journal import Entry, Event, EventKind, numbered

_MILESTONES = (EventKind.PLANNED, EventKind.RESUMED, EventKind.CLOSED)


class MemoryJournal:
    """Append and read the events of one search, as `search.journal.Journal` does on disk.

    Args:
        clock: the time of an event, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: list[Event] = []

    def append(self, search: str, entries: Iterable[Entry]) -> list[Event]:
        """Keep events, numbered after those that are there."""
        events = numbered(entries, len(self._events), self._clock())
        self._events += events
        return events

    def events(self, search: str, after: int = 0) -> Iterator[Event]:
        """Events in order, those with a number above `after`."""
        yield from self._events[after:]

    def milestones(self, search: str) -> list[Event]:
        """The few events that say where the search stands: its starts and halts."""
        return [event for event in self._events if event.kind in _MILESTONES]

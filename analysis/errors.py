"""The one exception of this package, and how its messages name what is known."""

from collections.abc import Iterable
from difflib import get_close_matches


class AnalysisError(ValueError):
    """A question that the records cannot answer; the message is one line for people."""


def known(values: Iterable[object]) -> str:
    """List the values there are, for the end of a message: `a, b, c` or `none`."""
    return ", ".join(str(value) for value in values) or "none"


def nearest(name: str, names: Iterable[str], limit: int = 3) -> str:
    """Say which names come near a mistyped one, or else which there are.

    Args:
        name: what was asked for.
        names: what exists.
        limit: how many names to show at most.
    """
    names = sorted(names)
    near = get_close_matches(name, names, n=limit, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return "there is none yet"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"there are: {known(names[:limit])}{more}"

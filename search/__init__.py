"""kdcurve's launching side: the search file, running and resuming a search.

    import search
    result = search.run(search.load_spec("configs/demo.yaml"))

Names load on first use, so that a command which only asks starts quickly.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "run": "search.launch",
    "resume": "search.launch",
    "confirm": "search.retraining",
    "SearchResult": "search.launch",
    "load_spec": "search.specfile",
    "parse_spec": "search.specfile",
    "SearchSpec": "search.space",
    "Places": "search.places",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""A user's own parts, named `package.module:function` in a search file."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

PATH_VARIABLE = "KDCURVE_PATH"
"""Folder that a user's modules are looked for in, after everything else; workers inherit it."""


def find(name: str, what: str) -> Callable[..., Any]:
    """Import a user's part.

    Args:
        name: `package.module:function`.
        what: it is to be, for messages, e.g. "a model".

    Raises:
        ValueError: there is no such module or function, or importing it fails.
    """
    folder = os.environ.get(PATH_VARIABLE) or os.getcwd()  # noqa: PTH109  (a string for sys.path)
    if folder not in sys.path:
        sys.path.append(folder)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: no module {error.name!r} in {folder} or installed") from error
    except AttributeError as error:
        raise ValueError(f"{name}: {module} has no function {attribute!r}") from error
    except Exception as error:
        raise ValueError(f"{name}: importing {module} failed: {error!r}") from error
    if not callable(found):
        kind = type(found).__name__
        raise ValueError(f"{name}: {what} is needed here, found a {kind}")  # noqa: TRY004
    return found  # type: ignore[no-any-return]

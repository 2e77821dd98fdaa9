"""What may be shown: text without the passwords and tokens that may stand in it."""

import os
import re

_USERINFO = re.compile(r"(://[^\s:/@]*):\S*@")
"""`://user:password@`; a password may itself hold a slash or an at sign."""
_QUERY = re.compile(r"([?&;](?:password|passwd|token|secret|sslpassword)=)[^&;\s]+", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(TOKEN|PASSWORD|SECRET|SECRET_ACCESS_KEY)$", re.IGNORECASE)
_SHORTEST = 6
"""Shorter values of environment variables are words that may stand anywhere."""


def redacted(text: str) -> str:
    """A text as it may be shown or kept.

    Passwords in URIs and the values of environment variables that are named like secrets
    (`MLFLOW_TRACKING_TOKEN`, `PGPASSWORD`, ...) become `***`.
    """
    text = _USERINFO.sub(r"\1:***@", text)
    text = _QUERY.sub(r"\1***", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    return text

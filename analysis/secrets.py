"""What may be shown: text without the passwords and tokens that may stand in it."""

import logging
import os
import re

_USERINFO = re.compile(r"(://[^\s:/@]*):\S*@")
"""`://user:password@`; a password may itself hold a slash or an at sign."""
_SETTING = re.compile(r"\b((?:ssl)?password|passwd|pwd|token|secret)=[^&;\s]+", re.IGNORECASE)
"""`password=...`, as in a URI's query."""
_SECRET_VARIABLE = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_ACCESS_KEY|API_KEY)$", re.IGNORECASE
)
_SHORTEST = 6
"""Shorter values of environment variables are words that may stand anywhere."""


def redacted(text: str) -> str:
    """A text as it may be shown or kept.

    Passwords in URIs and the values of environment variables that are named like secrets
    (`MLFLOW_TRACKING_TOKEN`, `PGPASSWORD`, ...) become `***`.
    """
    text = _USERINFO.sub(r"\1:***@", text)
    text = _SETTING.sub(r"\1=***", text)
    secrets = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name)
    }
    for secret in sorted(secrets, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, "***")
    return text


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, as they may be kept."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record without its secrets."""
        return redacted(super().format(record))

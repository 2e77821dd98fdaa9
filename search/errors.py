"""Faults a user can cause or must be told of: one clear line each, with an exit code."""


class KdcurveError(Exception):
    """A failure with a message for the user; the command exits with `exit_code`."""

    exit_code = 1


class UsageError(KdcurveError):
    """Bad usage or a bad search file."""

    exit_code = 2


class NotReadyError(KdcurveError):
    """Machines lack what a search needs: nothing was started."""

    exit_code = 3

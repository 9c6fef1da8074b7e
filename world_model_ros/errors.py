"""The error for users."""


class UserError(Exception):
    """An error that the user can fix: one sentence with the problem and the remedy.

    The command line prints it without a traceback and ends with exit code 2.
    """


class NoPlanError(ValueError):
    """There is no plan for this model step; the next one may have one."""

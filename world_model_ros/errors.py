"""The one error that people are meant to read."""


class UserError(Exception):
    """Something the user can mend: one sentence that names the trouble and the remedy.

    The command line prints it without a traceback and ends with exit code 2.
    """

"""The exception for mistakes that a user can fix."""


class UserError(ValueError):
    """A mistake in a config, a command or a file: one line that names the field, its value and the way out.

    The command line prints it without a traceback.
    """

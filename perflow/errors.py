"""The one exception that is shown to a user as a single line."""


class PerflowError(Exception):
    """A mistake in the input or a broken artifact: what is wrong, where, and what is valid.

    The command line prints the message alone and exits with status 1; nothing else in the
    package turns an exception into text.
    """

"""The one exception that is shown to a user as a single line."""

import errno
from pathlib import Path

_HEAD, _TAIL = 700, 400
"""Characters kept of a longer message."""


class PerflowError(Exception):
    """A mistake in the input or a broken artifact: what is wrong, where, and what is valid.

    The command line prints the message alone and exits with status 1; nothing else in the
    package turns an exception into text. A message may quote anything: line breaks and control
    characters become escapes, and the middle of what is too long to read is left out.
    """

    def __init__(self, message: str):
        if len(message) > _HEAD + _TAIL:
            message = f"{message[:_HEAD]} … {message[-_TAIL:]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def refused(error: OSError) -> bool:
    """Whether the system refuses to write: no room, or no right."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
    return error.errno in codes


def unwritable(path: str | Path, reason: object) -> PerflowError:
    """What is said of a file that cannot be written, whoever was to write it."""
    return PerflowError(
        f"{path}: cannot be written ({reason}); make room or allow writing there, and run the same command again"
    )


def no_room(error: RuntimeError) -> str | None:
    """What torch says of a device that has no room for a tensor; None of another error."""
    return str(error).splitlines()[0] if type(error).__name__ == "OutOfMemoryError" else None

"""Mistakes a user can fix: shown as one line without a traceback, exit status 2."""

import math


class UserError(Exception):
    """The message says what is wrong, where, and what to do about it.

    Not a ValueError: the command-line parser turns those into messages of its own.
    """


def printable(text: object) -> str:
    """`text` on one line of any screen: newlines and undecodable bytes appear as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which says what happened; the rest is detail."""
    return str(error).partition("\n")[0]


def require_at_least(settings: object, **minimum: float) -> None:
    """Raise UserError for an option in `settings` that is below its minimum, NaN or infinite."""
    for name, value in minimum.items():
        found = getattr(settings, name)
        if not value <= found < math.inf:
            wanted = "finite" if found == math.inf else f"at least {value}"
            raise UserError(f"--{name.replace('_', '-')} {found}: must be {wanted}")

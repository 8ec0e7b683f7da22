"""What a user can mend: shown as it stands, without a traceback, with exit status 2."""


class UserError(ValueError):
    """The message says what is wrong, where, and what to do."""


def shown(name: object) -> str:
    """`name` on one line of any screen: what can't be printed (a newline, a byte of another
    encoding) as its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def require_at_least(settings: object, **least: float) -> None:
    """Raise UserError where an option in `settings` is smaller than the value given for it."""
    for name, value in least.items():
        if not getattr(settings, name) >= value:  # also for NaN
            option = name.replace("_", "-")
            raise UserError(f"--{option} {getattr(settings, name)}: must be at least {value}")

"""What a user can mend: shown as it stands, without a traceback, with exit status 2."""


class UserError(ValueError):
    """The message says what is wrong, where, and what to do."""


def require_at_least(settings: object, **least: float) -> None:
    """Raise UserError where an option in `settings` is smaller than the value given for it."""
    for name, value in least.items():
        if not getattr(settings, name) >= value:  # also for NaN
            option = name.replace("_", "-")
            raise UserError(f"--{option} {getattr(settings, name)}: must be at least {value}")

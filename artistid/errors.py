"""What a user can mend: shown as it stands, without a traceback, with exit status 2."""


class UserError(ValueError):
    """The message says what is wrong, where, and what to do."""

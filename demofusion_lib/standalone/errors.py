"""What the command line tells its user in one line, with exit code 2."""


class UserError(ValueError):
    """Input that can't be used: the message names the setting, the value and what is allowed."""

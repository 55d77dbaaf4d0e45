"""What the command line tells its user in one line."""


class UserError(ValueError):
    """Input that can't be used, exit code 2: the message names the setting, the value and what is allowed."""


class Unwritten(OSError):
    """A picture that could not be put on the disk: the message names the file and the system's reason."""


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def told(error: Exception) -> str:
    """In one line, with the kind of fault where the words alone say little, such as a KeyError's."""
    from ..core import is_out_of_memory

    line, kind = first_line(error), type(error).__name__
    if is_out_of_memory(error):
        return f"out of memory ({line})"
    plain = isinstance(error, (RuntimeError, ValueError, OSError)) or line.startswith(kind)
    return line if plain else f"{kind}: {line}"

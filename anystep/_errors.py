"""What anystep raises and warns with of its own."""


class UsageError(ValueError):
    """Something that a person wrote or brought cannot be used: a recipe, a flag, a file.

    Raised where input comes in, in words for that person. The command line shows it as one line and
    exits with 2; any other exception is a defect, of ours or of a part that was plugged in, and
    keeps its traceback.
    """


class RunError(RuntimeError):
    """Work that was asked for rightly came to no good end, and no line of code is to blame.

    A loss that is no longer finite, a worker that was killed, memory that ran out. The command line
    shows it as one line and exits with 1, as it does with an `OSError` (a full disk, say).
    """


class AnystepWarning(UserWarning):
    """What anystep warns with: a silent layer, a slow choice. Never used for an error."""

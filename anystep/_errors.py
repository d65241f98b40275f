"""What anystep raises and warns with of its own."""


class UsageError(ValueError):
    """Something that a person wrote or brought cannot be used: a recipe, a flag, a file.

    The command line shows it as one line and exits with 2; any other exception is a defect, of ours
    or of a part that was plugged in, and keeps its traceback.
    """


class RunError(RuntimeError):
    """Work that was asked for rightly came to no good end, and no line of code is to blame.

    The command line shows it as one line and exits with 1, as it does with an `OSError`.
    """


class AnystepWarning(UserWarning):
    """What anystep warns with: a silent layer, a slow choice. Never used for an error."""

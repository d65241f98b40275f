"""What anystep raises and warns with of its own."""


class UsageError(ValueError):
    """Something that a person wrote or brought cannot be used: a recipe, a flag, an argument, a
    file.

    Raised where input comes in, in words for that person. The command line shows it as one line and
    exits with 2; any other exception is a defect, of ours or of a part that was plugged in, and
    keeps its traceback."""


class AnystepWarning(UserWarning):
    """What anystep warns with: a silent layer, a slow choice. Never used for an error."""

"""The one warning category."""


class AnystepWarning(UserWarning):
    """What anystep warns with: a silent layer, a slow choice. Never used for an error."""

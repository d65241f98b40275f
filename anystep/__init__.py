"""Train a spiking network once with many time steps, deploy it at any step."""


class AnystepWarning(UserWarning):
    """What anystep warns with: a silent layer, a slow choice. Never raised for an error."""

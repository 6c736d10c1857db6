"""The asynchronous side of a back end, for workers that poll; see port.pxd."""

class Port:
    """Takes many commands without waiting for them. Driven from C, by one worker thread at a time."""

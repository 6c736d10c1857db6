"""The asynchronous side of a back end as a worker thread sees it; its functions are in port.pxd."""

class Port:
    """Base of what runs a unit's commands without the GIL; this one is dead from the beginning."""

"""The thread that takes a controller's requests to Python and their answers back."""

from typing import Final

MEMORY_GONE: Final[str]
"""The reason of ``queue_broken`` where nothing of the guest can be trusted any more."""

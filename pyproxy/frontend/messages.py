"""What the control API's execute call carries: a command as JSON, its result, or the error in place of one.

Byte strings are base64. Every field is bounded here, before anything is allocated for it.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct

from pyproxy.scsi.command import Command, Result

API_VERSION: Final = "v1"
LARGEST_TRANSFER: Final = 16 << 20
"""Bytes one command may transfer through the API."""
LARGEST_REQUEST: Final = 24 << 20
"""Bytes of a request body: the largest transfer in base64, with room for the rest."""
LONGEST_TIMEOUT_MS: Final = 86_400_000


class ExecuteRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One SCSI command of a guest; at most one direction is used.

    ``data_in`` is how many bytes to accept. ``timeout_ms`` 0 is the time configured for the unit.
    """

    cdb: Annotated[bytes, Meta(min_length=6, max_length=32)]
    data_out: Annotated[bytes, Meta(max_length=LARGEST_TRANSFER)] = b""
    data_in: Annotated[int, Meta(ge=0, le=LARGEST_TRANSFER)] = 0
    timeout_ms: Annotated[int, Meta(ge=0, le=LONGEST_TIMEOUT_MS)] = 0

    def __post_init__(self) -> None:
        if self.data_out and self.data_in:
            raise ValueError("data_out and data_in are both given; a command transfers in one direction")

    def command(self) -> Command:
        """Return the command."""
        return Command(self.cdb, self.data_out, self.data_in, self.timeout_ms)


class ExecuteReply(Struct, frozen=True, kw_only=True):
    """The device's answer; a CHECK CONDITION is one too."""

    status: int
    sense: bytes = b""
    data: bytes = b""
    host_status: int = 0
    driver_status: int = 0
    residual: int = 0
    duration_ms: int = 0

    @classmethod
    def of(cls, result: Result) -> Self:
        """Return the reply for ``result``."""
        return cls(**{field: getattr(result, field) for field in cls.__struct_fields__})

    def result(self) -> Result:
        """Return the result."""
        return Result(**msgspec.structs.asdict(self))


class ErrorReply(Struct, frozen=True, kw_only=True):
    """Why there is no answer.

    ``error`` is the sentence for people, ``reason`` a word for programs. ``errno`` and ``fate_unknown`` are set when
    the command could not be handed to the device.
    """

    error: str
    reason: str
    errno: int | None = None
    fate_unknown: bool = False

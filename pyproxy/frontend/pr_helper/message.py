"""The messages of the persistent reservation helper protocol, all numbers big-endian (QEMU docs/interop/pr-helper.rst).

helper -> client   4 bytes    features the helper has: none
client -> helper   4 bytes    features the client wants: none
client -> helper   16 bytes   CDB, with one descriptor of the device
                   n bytes    PERSISTENT RESERVE OUT: the parameter list
helper -> client   104 bytes  status, size of the data, 96 bytes of sense
                   n bytes    PERSISTENT RESERVE IN that ended with GOOD: the data
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pyproxy.scsi.constants import PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT, Status

FEATURES: Final = bytes(4)
"""The feature word both sides send: there are none yet."""

FEATURES_SIZE: Final = 4
CDB_SIZE: Final = 16
SENSE_SIZE: Final = 96
DATA_LIMIT: Final = 8192
"""Bytes of parameter list or data that one request may transfer."""

_HEADER: Final = struct.Struct(f">iI{SENSE_SIZE}s")
_COMMAND_SIZE: Final = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One PERSISTENT RESERVE IN or OUT with the descriptor of its device, which the receiver has to close.

    ``cdb`` has 16 bytes, of which the command uses 10. ``parameter_list`` has ``length`` bytes with OUT, none with IN.
    """

    cdb: bytes
    descriptor: int
    parameter_list: bytes = b""

    @property
    def is_out(self) -> bool:
        """Whether it is PERSISTENT RESERVE OUT."""
        return self.cdb[0] == PERSISTENT_RESERVE_OUT

    @property
    def command(self) -> bytes:
        """The CDB without the padding."""
        return self.cdb[:_COMMAND_SIZE]

    @property
    def length(self) -> int:
        """ALLOCATION LENGTH or parameter list length in bytes, as the protocol reads it."""
        return transfer_length(self.cdb)


def is_persistent_reserve(cdb: bytes) -> bool:
    """Whether the protocol carries this command."""
    return cdb[0] in (PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT)


def transfer_length(cdb: bytes) -> int:
    """Return bytes 7 and 8 of the CDB; clients send no more with OUT, although its length has bytes 5 to 8."""
    return int.from_bytes(cdb[7:9])


@dataclass(frozen=True, slots=True)
class Reply:
    """How a command ended: the SAM status, sense bytes of CHECK CONDITION, data of PERSISTENT RESERVE IN."""

    status: int
    sense: bytes = b""
    data: bytes = b""

    def encode(self, request: Request) -> bytes:
        """Return the header and the data the client of ``request`` waits for.

        QEMU aborts the guest when the size is not 0 with OUT or above the allocation length with IN, so both are
        enforced here whatever the device did. Sense beyond 96 bytes is cut.
        """
        wanted = not request.is_out and self.status == Status.GOOD
        data = self.data[: min(request.length, DATA_LIMIT)] if wanted else b""
        return _HEADER.pack(self.status, len(data), self.sense) + data

"""The messages of vhost-user as bytes, both directions (QEMU docs/interop/vhost-user.rst).

Every message is a header of 12 bytes and a payload, in the machine's own byte order:

     0  u32  request
     4  u32  flags: version 1 in bits 1-0, REPLY 0x4, NEED_REPLY 0x8
     8  u32  size of the payload in bytes

Descriptors come with the header's first byte. Decoders raise ``MessageError``, encoders ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

HEADER_SIZE: Final = 12
VERSION: Final = 0x1
VERSION_MASK: Final = 0x3
REPLY: Final = 0x4
NEED_REPLY: Final = 0x8
REPLY_FLAGS: Final = VERSION | REPLY
"""QEMU compares a reply's flags for equality; NEED_REPLY is never echoed."""

MAX_REGIONS: Final = 8
"""Regions of a whole memory table; more go one by one (CONFIGURE_MEM_SLOTS)."""
MAX_DESCRIPTORS: Final = MAX_REGIONS
CONFIG_LIMIT: Final = 256
LARGEST_PAYLOAD: Final = 12 + CONFIG_LIMIT
"""Bytes: a configuration space payload; a memory table of 8 regions has 264."""

NO_DESCRIPTOR: Final = 1 << 8
"""In the u64 of SET_VRING_KICK, CALL and ERR: no descriptor comes with it."""
_RING_MASK: Final = 0xFF

_HEADER = struct.Struct("=III")
_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDRESS = struct.Struct("=IIQQQQ")
_TABLE = struct.Struct("=II")
_REGION = struct.Struct("=QQQQ")
_LOG = struct.Struct("=QQ")
_INFLIGHT = struct.Struct("=QQHH4x")
"""24 bytes: the C structure is padded."""
_CONFIG = struct.Struct("=III")

LOG_USED_RING: Final = 0x1
"""Flag of SET_VRING_ADDR: writes to the used ring are logged at ``log``."""


class MessageError(ValueError):
    """Bytes from the other side are no message; the text says what was got and expected."""


class Request(IntEnum):
    """What a front end asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44
    GET_VRING_BASE_SKIP_DRAIN = 45


def name_of(request: int) -> str:
    """Return the name of a request, or its number where there is none."""
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"


@dataclass(frozen=True, slots=True)
class Header:
    """The first 12 bytes of a message; ``size`` is what follows."""

    request: int
    flags: int
    size: int

    @property
    def needs_reply(self) -> bool:
        """Whether an acknowledgement is asked for."""
        return bool(self.flags & NEED_REPLY)

    @property
    def is_reply(self) -> bool:
        """Whether this answers a request."""
        return bool(self.flags & REPLY)

    def encode(self) -> bytes:
        """Return the 12 bytes."""
        return _HEADER.pack(self.request, self.flags, self.size)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read 12 bytes; MessageError for another version, unknown flags or a payload above the largest."""
        if len(data) != HEADER_SIZE:
            raise MessageError(f"a header has {HEADER_SIZE} bytes, got {len(data)}")
        request, flags, size = _HEADER.unpack(data)
        if flags & VERSION_MASK != VERSION:
            raise MessageError(f"{name_of(request)}: version {flags & VERSION_MASK} of the protocol, expected 1")
        if flags & ~(VERSION_MASK | REPLY | NEED_REPLY):
            raise MessageError(f"{name_of(request)}: unknown flags {flags:#x}")
        if size > LARGEST_PAYLOAD:
            raise MessageError(f"{name_of(request)}: a payload of {size} bytes, at most {LARGEST_PAYLOAD} are taken")
        return cls(request, flags, size)


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message; whoever gets one owns its descriptors."""

    request: int
    payload: bytes = b""
    descriptors: tuple[int, ...] = ()
    needs_reply: bool = False

    def encode(self) -> bytes:
        """Return header and payload of a request; the descriptors go with its first byte."""
        flags = VERSION | (NEED_REPLY if self.needs_reply else 0)
        return Header(self.request, flags, _checked(self.payload)).encode() + self.payload

    def encode_reply(self) -> bytes:
        """Return header and payload of an answer."""
        return Header(self.request, REPLY_FLAGS, _checked(self.payload)).encode() + self.payload


@dataclass(frozen=True, slots=True)
class VringState:
    """A ring and a number: entries, the next available index, 0 or 1."""

    index: int
    number: int

    def encode(self) -> bytes:
        """Return the 8 bytes."""
        return _pack(_STATE, self.index, self.number)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read 8 bytes."""
        return cls(*_unpack(_STATE, payload, "vring state"))


@dataclass(frozen=True, slots=True)
class VringAddress:
    """Where the parts of a ring are: front-end user addresses, ``log`` a guest physical one.

    On the wire the used ring comes before the available ring.
    """

    index: int
    flags: int
    descriptor: int
    used: int
    available: int
    log: int

    @property
    def logs_used(self) -> bool:
        """Whether writes to the used ring are logged."""
        return bool(self.flags & LOG_USED_RING)

    def encode(self) -> bytes:
        """Return the 40 bytes."""
        return _pack(_ADDRESS, self.index, self.flags, self.descriptor, self.used, self.available, self.log)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read 40 bytes."""
        return cls(*_unpack(_ADDRESS, payload, "vring address"))


@dataclass(frozen=True, slots=True)
class VringDescriptor:
    """The u64 of SET_VRING_KICK, CALL and ERR: which ring, and whether a descriptor comes with it."""

    index: int
    has_descriptor: bool

    def encode(self) -> bytes:
        """Return the 8 bytes."""
        if not 0 <= self.index <= _RING_MASK:
            raise ValueError(f"ring {self.index} does not fit 8 bits")
        return encode_u64(self.index | (0 if self.has_descriptor else NO_DESCRIPTOR))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read 8 bytes; MessageError for bits that mean nothing."""
        value = decode_u64(payload)
        if value & ~(_RING_MASK | NO_DESCRIPTOR):
            raise MessageError(f"unknown bits in ring number {value:#x}")
        return cls(value & _RING_MASK, not value & NO_DESCRIPTOR)


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A part of the guest's memory: guest physical and front-end user address, size, where it begins in its file."""

    guest_address: int
    size: int
    user_address: int
    offset: int

    def encode(self) -> bytes:
        """Return the 32 bytes."""
        return _pack(_REGION, self.guest_address, self.size, self.user_address, self.offset)


def encode_single_region(region: MemoryRegion) -> bytes:
    """Return the 40 bytes of ADD_MEM_REG and REM_MEM_REG."""
    return bytes(8) + region.encode()


def decode_single_region(payload: bytes) -> MemoryRegion:
    """Read the 40 bytes of ADD_MEM_REG and REM_MEM_REG."""
    if len(payload) != 8 + _REGION.size:
        raise MessageError(f"a single memory region has {8 + _REGION.size} bytes, got {len(payload)}")
    return MemoryRegion(*_REGION.unpack(payload[8:]))


def encode_memory_table(regions: Sequence[MemoryRegion]) -> bytes:
    """Return the payload of SET_MEM_TABLE: 8 bytes and 32 for each of at most 8 regions."""
    if len(regions) > MAX_REGIONS:
        raise ValueError(f"{len(regions)} regions, a table has at most {MAX_REGIONS}")
    return _TABLE.pack(len(regions), 0) + b"".join(region.encode() for region in regions)


def decode_memory_table(payload: bytes) -> tuple[MemoryRegion, ...]:
    """Read the payload of SET_MEM_TABLE; its size has to be that of the regions it announces."""
    if len(payload) < _TABLE.size:
        raise MessageError(f"a memory table has at least {_TABLE.size} bytes, got {len(payload)}")
    count, _ = _TABLE.unpack_from(payload)
    if count > MAX_REGIONS:
        raise MessageError(f"a memory table of {count} regions, at most {MAX_REGIONS} are taken")
    if len(payload) != _TABLE.size + count * _REGION.size:
        raise MessageError(
            f"a memory table of {count} regions has {_TABLE.size + count * _REGION.size} bytes, got {len(payload)}"
        )
    return tuple(MemoryRegion(*fields) for fields in _REGION.iter_unpack(payload[_TABLE.size :]))


@dataclass(frozen=True, slots=True)
class LogArea:
    """The dirty log in the descriptor that comes with it, in bytes."""

    size: int
    offset: int

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        return _pack(_LOG, self.size, self.offset)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read 16 bytes."""
        return cls(*_unpack(_LOG, payload, "log"))


@dataclass(frozen=True, slots=True)
class InflightArea:
    """The region that remembers what is in flight: bytes, and how many rings of how many entries it has room for."""

    size: int
    offset: int
    queues: int
    queue_size: int

    def encode(self) -> bytes:
        """Return the 24 bytes."""
        return _pack(_INFLIGHT, self.size, self.offset, self.queues, self.queue_size)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read 24 bytes."""
        return cls(*_unpack(_INFLIGHT, payload, "inflight"))


@dataclass(frozen=True, slots=True)
class ConfigAccess:
    """Bytes of the configuration space, at most 256; ``flags`` 0 writable, 1 live migration."""

    offset: int
    flags: int
    data: bytes

    def encode(self) -> bytes:
        """Return 12 bytes and the data."""
        if len(self.data) > CONFIG_LIMIT:
            raise ValueError(f"{len(self.data)} bytes of configuration space, at most {CONFIG_LIMIT}")
        return _pack(_CONFIG, self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read 12 bytes and as much data as they announce."""
        if len(payload) < _CONFIG.size:
            raise MessageError(f"a configuration payload has at least {_CONFIG.size} bytes, got {len(payload)}")
        offset, size, flags = _CONFIG.unpack_from(payload)
        if size > CONFIG_LIMIT or offset + size > CONFIG_LIMIT or len(payload) != _CONFIG.size + size:
            raise MessageError(
                f"a configuration payload of {len(payload)} bytes announces {size} bytes at offset {offset}"
            )
        return cls(offset, flags, payload[_CONFIG.size :])


def encode_u64(value: int) -> bytes:
    """Return 8 bytes."""
    return _pack(_U64, value)


def decode_u64(payload: bytes) -> int:
    """Read 8 bytes."""
    return _unpack(_U64, payload, "u64")[0]


def decode_empty(payload: bytes) -> None:
    """Insist on no payload at all."""
    if payload:
        raise MessageError(f"no payload belongs here, got {len(payload)} bytes")


def _checked(payload: bytes) -> int:
    if len(payload) > LARGEST_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes, at most {LARGEST_PAYLOAD} can be sent")
    return len(payload)


def _pack(layout: struct.Struct, *values: int) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise ValueError(f"{values} do not fit their fields: {error}") from None


def _unpack(layout: struct.Struct, payload: bytes, what: str) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise MessageError(f"a {what} payload has {layout.size} bytes, got {len(payload)}")
    return layout.unpack(payload)

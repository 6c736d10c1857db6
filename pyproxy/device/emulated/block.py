"""Commands that move or compare logical blocks (SBC-4 5): READ, WRITE, VERIFY, COMPARE AND WRITE, SYNCHRONIZE CACHE."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import Aborted, Refused, check_condition
from pyproxy.scsi.sense import (
    INSUFFICIENT_RESOURCES,
    INTERNAL_TARGET_FAILURE,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    MISCOMPARE,
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
    UNRECOVERED_READ_ERROR,
    WRITE_ERROR,
    Sense,
)

LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED: Final = Sense(0x7, 0x27, 0x02)

MAX_TRANSFER_BYTES: Final = 64 << 20
MAX_COMPARE_AND_WRITE_BLOCKS: Final = 255

_PROTECT: Final = 0xE0
_FUA: Final = 0x08
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Extent(NamedTuple):
    """A range of logical blocks: ``offset`` and ``length`` in bytes, ``lba`` and ``blocks`` as in the CDB."""

    lba: int
    blocks: int
    offset: int
    length: int


def extent(call: Call) -> Extent:
    """Read address and length of a CDB of 6, 10, 12 or 16 bytes; raises Refused when it leaves the medium."""
    cdb = call.cdb
    if len(cdb) == 6:
        lba = int.from_bytes(cdb[1:4]) & 0x1FFFFF
        blocks = cdb[4] or 256
    elif len(cdb) == 10:
        lba, blocks = int.from_bytes(cdb[2:6]), int.from_bytes(cdb[7:9])
    elif len(cdb) == 12:
        lba, blocks = int.from_bytes(cdb[2:6]), int.from_bytes(cdb[6:10])
    else:
        lba, blocks = int.from_bytes(cdb[2:10]), int.from_bytes(cdb[10:14])
    return within(call, lba, blocks)


def within(call: Call, lba: int, blocks: int) -> Extent:
    """Check a range against the capacity; raises Refused with 05/21/00 and the first address beyond the end."""
    capacity = call.unit.blocks
    if lba + blocks > capacity or lba > capacity:
        raise check_condition(Sense(*LBA_OUT_OF_RANGE.code, information=max(lba, capacity)))
    size = call.unit.block_size
    return Extent(lba, blocks, lba * size, blocks * size)


def unprotected(call: Call) -> None:
    """Refuse RDPROTECT, WRPROTECT and VRPROTECT: the medium has no protection information."""
    if len(call.cdb) > 6 and call.cdb[1] & _PROTECT:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, 7, in_cdb=True))


def writable(call: Call) -> None:
    """Refuse to change a write-protected medium."""
    if call.unit.modes.swp:
        raise check_condition(LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED)


def transferable(at: Extent) -> None:
    """Refuse more than the MAXIMUM TRANSFER LENGTH of the Block Limits page."""
    if at.length > MAX_TRANSFER_BYTES:
        raise check_condition(INVALID_FIELD_IN_CDB)


def durable(call: Call) -> bool:
    """Whether a write may end only when its data are on stable storage."""
    return not call.unit.modes.wce or (len(call.cdb) > 6 and bool(call.cdb[1] & _FUA))


@contextmanager
def medium_errors(*, writing: bool) -> Iterator[None]:
    """Turn failures of the medium into what a device server answers; ENODEV passes as it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ECANCELED:
            raise Aborted from None
        if error.errno == errno.ENODEV:
            raise
        if writing and error.errno in _NO_SPACE:
            raise check_condition(SPACE_ALLOCATION_FAILED_WRITE_PROTECT) from error
        if error.errno == errno.EIO:
            raise check_condition(WRITE_ERROR if writing else UNRECOVERED_READ_ERROR) from error
        raise check_condition(INTERNAL_TARGET_FAILURE) from error
    except MemoryError as error:
        raise check_condition(INSUFFICIENT_RESOURCES) from error


def _miscompare(difference: int) -> Refused:
    return check_condition(Sense(*MISCOMPARE.code, information=difference))


def read(call: Call) -> None:
    """READ (6), (10), (12) and (16); an initiator that accepts less gets the beginning."""
    unprotected(call)
    at = extent(call)
    transferable(at)
    length = min(at.length, call.in_capacity)
    medium, gate = call.unit.medium, call.nexus.gate
    with medium_errors(writing=False):
        if isinstance(call.command.data_in, int):
            call.data = medium.read(gate, call.token, at.offset, length)
        else:
            medium.read_into(gate, call.token, at.offset, length, call.command.data_in)
    call.moved = length


def write(call: Call) -> None:
    """WRITE (6), (10), (12) and (16)."""
    unprotected(call)
    at = extent(call)
    transferable(at)
    writable(call)
    parts = call.receive(at.length)
    with medium_errors(writing=True):
        call.unit.medium.write(call.nexus.gate, call.token, at.offset, at.length, parts, durable(call))


def write_and_verify(call: Call) -> None:
    """WRITE AND VERIFY (10), (12) and (16), BYTCHK 0 or 1: either way what was written is read back and compared."""
    unprotected(call)
    if call.cdb[1] >> 1 & 0x03 > 1:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, 2, in_cdb=True))
    at = extent(call)
    transferable(at)
    writable(call)
    parts = call.receive(at.length)
    with medium_errors(writing=True):
        medium = call.unit.medium
        difference = medium.write_and_compare(call.nexus.gate, call.token, at.offset, at.length, parts)
    if difference >= 0:
        raise _miscompare(difference)


def verify(call: Call) -> None:
    """VERIFY (10), (12) and (16): BYTCHK 0 reads, 1 compares with the data sent, 3 with one block sent."""
    unprotected(call)
    check = call.cdb[1] >> 1 & 0x03
    if check == 2:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, 2, in_cdb=True))
    at = extent(call)
    transferable(at)
    if not at.blocks:
        return
    medium, gate = call.unit.medium, call.nexus.gate
    difference = -1
    if check == 0:
        with medium_errors(writing=False):
            medium.verify(gate, call.token, at.offset, at.length)
    elif check == 1:
        parts = call.receive(at.length)
        with medium_errors(writing=False):
            difference = medium.compare(gate, call.token, at.offset, at.length, parts)
    else:
        block = call.parameter_block()
        with medium_errors(writing=False):
            difference = medium.compare_same(gate, call.token, at.offset, at.length, block)
    if difference >= 0:
        raise _miscompare(difference)


def compare_and_write(call: Call) -> None:
    """COMPARE AND WRITE: one uninterrupted action; on a difference its offset in the data sent is in INFORMATION."""
    unprotected(call)
    blocks = call.cdb[13]
    at = within(call, int.from_bytes(call.cdb[2:10]), blocks)
    writable(call)
    if not blocks:
        return
    parts = call.receive(2 * at.length, exact=True)
    with medium_errors(writing=True):
        medium = call.unit.medium
        difference = medium.compare_and_write(call.nexus.gate, call.token, at.offset, at.length, parts, durable(call))
    if difference >= 0:
        raise _miscompare(difference)


def synchronize_cache(call: Call) -> None:
    """SYNCHRONIZE CACHE (10) and (16): the whole file, whichever range was asked for; IMMED waits all the same."""
    extent(call)
    with medium_errors(writing=True):
        call.unit.medium.flush()


def pre_fetch(call: Call) -> None:
    """PRE-FETCH (10) and (16): GOOD says that not all the blocks were brought into a cache."""
    extent(call)

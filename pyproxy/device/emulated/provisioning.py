"""Commands about which blocks are mapped (SBC-4 4.7, 5): UNMAP, WRITE SAME, GET LBA STATUS."""

from __future__ import annotations

from typing import Final

from pyproxy.device.emulated.block import durable, medium_errors, unprotected, within, writable
from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import check_condition
from pyproxy.scsi.sense import INVALID_FIELD_IN_CDB, INVALID_FIELD_IN_PARAMETER_LIST, PARAMETER_LIST_LENGTH_ERROR

MAX_UNMAP_BLOCKS: Final = 0xFFFFFFFF
MAX_UNMAP_DESCRIPTORS: Final = 256
MAX_WRITE_SAME_BYTES: Final = 256 << 20
_MAX_STATUS_DESCRIPTORS: Final = 1024

_ANCHOR: Final = 0x10
_UNMAP: Final = 0x08
_NDOB: Final = 0x01
_MAPPED: Final = 0
_DEALLOCATED: Final = 1


def unmap(call: Call) -> None:
    """UNMAP: all descriptors are checked before the first takes effect."""
    if call.cdb[1] & 0x01:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, 0, in_cdb=True))
    length = int.from_bytes(call.cdb[7:9])
    if length == 0:
        return
    if length < 8:
        raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
    raw = call.parameter_list(length)
    # A list shorter than it says is no error, and what is left of a descriptor is not used (SBC-4 5.31.2).
    count = min(int.from_bytes(raw[2:4]), length - 8) // 16
    writable(call)
    if count > MAX_UNMAP_DESCRIPTORS:
        raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST.with_field_pointer(2))
    extents = [
        within(call, int.from_bytes(raw[at : at + 8]), int.from_bytes(raw[at + 8 : at + 12]))
        for at in range(8, 8 + 16 * count, 16)
    ]
    if sum(one.blocks for one in extents) > MAX_UNMAP_BLOCKS:
        raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST)
    with medium_errors(writing=True):
        for one in extents:
            call.unit.medium.unmap(call.nexus.gate, call.token, one.offset, one.length)


def write_same(call: Call) -> None:
    """WRITE SAME (10) and (16); 0 blocks means to the end of the medium.

    UNMAP deallocates where the block is all zeros, because that is what unmapped blocks read as; with other
    content it writes. ANCHOR is not supported.
    """
    unprotected(call)
    flags = call.cdb[1]
    sixteen = len(call.cdb) == 16
    if flags & _ANCHOR:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, 4, in_cdb=True))
    lba = int.from_bytes(call.cdb[2:10] if sixteen else call.cdb[2:6])
    blocks = int.from_bytes(call.cdb[10:14] if sixteen else call.cdb[7:9])
    at = within(call, lba, blocks or max(call.unit.blocks - lba, 0))
    if at.length > MAX_WRITE_SAME_BYTES:
        raise check_condition(INVALID_FIELD_IN_CDB)
    writable(call)
    no_data = sixteen and bool(flags & _NDOB)
    block = bytes(call.unit.block_size) if no_data else call.parameter_block()
    medium, gate = call.unit.medium, call.nexus.gate
    with medium_errors(writing=True):
        if flags & _UNMAP and not any(block):
            medium.unmap(gate, call.token, at.offset, at.length)
        else:
            medium.write_same(gate, call.token, at.offset, at.length, block, durable(call))


def get_lba_status(call: Call) -> None:
    """GET LBA STATUS (16): runs of mapped and deallocated blocks from the starting address on."""
    lba = int.from_bytes(call.cdb[2:10])
    allocation_length = int.from_bytes(call.cdb[10:14])
    capacity = call.unit.blocks
    within(call, lba, 1)
    room = min(max(1, (allocation_length - 8) // 16), _MAX_STATUS_DESCRIPTORS)
    body = bytearray()
    with medium_errors(writing=False):
        while room and lba < capacity:
            run, mapped = call.unit.medium.allocation(lba, min(capacity - lba, 0xFFFFFFFF))
            status = _MAPPED if mapped else _DEALLOCATED
            body += lba.to_bytes(8) + run.to_bytes(4) + bytes([status, 0, 0, 0])
            lba += run
            room -= 1
    call.reply((len(body) + 4).to_bytes(4) + bytes(4) + bytes(body), allocation_length)

"""MODE SENSE (6) and the control mode page (SPC-4 6.13, 7.5.8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import BLOCK, GOOD, LBA_OUT_OF_RANGE, WRITE_PROTECTED, Initiator, cdb

CONTROL = 0x0A
ALL = 0x3F
SWP = 0x08


def pages(first: Initiator, page: int) -> dict[int, bytes]:
    """The pages that MODE SENSE (6) returns, by page code."""
    data = first.fetch(struct.pack(">BBBBBx", 0x1A, 0, page, 0, 255), 255)
    assert data[0] == len(data) - 1 >= 3, "MODE DATA LENGTH"
    rest = data[4 + data[3] :]
    found = {}
    while rest:
        size = 2 + rest[1]
        found[rest[0] & 0x3F] = rest[:size]
        rest = rest[size:]
    return found


@pytest.fixture
def protected(first: Initiator) -> Iterator[Initiator]:
    """The initiator after it has set SWP by MODE SELECT (6)."""
    page = bytearray(pages(first, CONTROL)[CONTROL])
    page[0] &= 0x3F
    before = bytes(page)
    page[4] |= SWP
    assert first.says("15 10 0000 10 00", bytes(4) + bytes(page)) == GOOD
    yield first
    assert first.says("15 10 0000 10 00", bytes(4) + before) == GOOD


@counterpart_of("ModeSense6.AllPages")
def test_all_pages(first: Initiator) -> None:
    assert set(pages(first, ALL)) >= {0x01, 0x08, CONTROL, 0x1C}


@counterpart_of("ModeSense6.Control")
def test_control_page_is_the_same_alone_and_among_all(first: Initiator) -> None:
    assert pages(first, CONTROL)[CONTROL] == pages(first, ALL)[CONTROL]


@counterpart_of("ModeSense6.Control")
def test_control_page_has_no_reserved_values(first: Initiator) -> None:
    page = pages(first, CONTROL)[CONTROL]
    assert page[2] >> 5 <= 1, "TST"
    assert page[3] >> 4 in (0, 1, *range(8, 16)), "QUEUE ALGORITHM MODIFIER"
    assert page[3] >> 1 & 0x03 != 2, "QERR"
    assert page[4] >> 4 & 0x03 != 1, "UA_INTLCK_CTRL"
    assert page[5] & 0x07 <= 2, "AUTOLOAD MODE"
    assert int.from_bytes(page[8:10]) != 0, "BUSY TIMEOUT PERIOD"


@counterpart_of("ModeSense6.Control-D_SENSE")
@pytest.mark.parametrize("d_sense", [False, True])
def test_sense_has_the_format_that_d_sense_says(first: Initiator, d_sense: bool) -> None:
    page = bytearray(pages(first, CONTROL)[CONTROL])
    page[0] &= 0x3F
    page[2] = page[2] & ~0x04 | d_sense << 2
    assert first.says("15 10 0000 10 00", bytes(4) + bytes(page)) == GOOD
    assert bool(pages(first, CONTROL)[CONTROL][2] & 0x04) == d_sense
    result = first.send(cdb(0x88, 16, (1 << 64) - 1, 1), data_in=BLOCK)
    sense = result.decoded_sense
    assert sense is not None
    assert f"02 {sense.key:02x}/{sense.asc:02x}/{sense.ascq:02x}" == LBA_OUT_OF_RANGE
    assert result.sense[0] & 0x7F == (0x72 if d_sense else 0x70)


@counterpart_of("ModeSense6.Control-SWP")
def test_swp_reads_back(protected: Initiator) -> None:
    assert pages(protected, CONTROL)[CONTROL][4] & SWP


@counterpart_of("ModeSense6.Control-SWP")
def test_protected_unit_can_be_read(protected: Initiator) -> None:
    assert protected.says(cdb(0x28, 10, 0, 1), data_in=BLOCK) == GOOD


@counterpart_of("ModeSense6.Control-SWP")
def test_protected_unit_cannot_be_written(protected: Initiator) -> None:
    assert protected.says(cdb(0x2A, 10, 0, 1), b"x" * BLOCK) == WRITE_PROTECTED
    assert not any(protected.read(0, 1))


@counterpart_of("ModeSense6.Residuals")
def test_short_allocation_length_is_no_residual(first: Initiator) -> None:
    result = first.send("1a 00 3f 00 04 00", data_in=4)
    assert (result.status, len(result.data), result.residual) == (0, 4, 0)


@counterpart_of("ModeSense6.Residuals")
def test_what_is_not_sent_is_the_residual(first: Initiator) -> None:
    result = first.send("1a 00 3f 00 ff 00", data_in=255)
    assert result.status == 0
    assert result.residual == 255 - len(result.data) > 0

"""PERSISTENT RESERVE IN (SPC-4 6.15), as a guest sees it whose reservations migrate and one whose do not."""

from __future__ import annotations

import pytest

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import GOOD, INVALID_FIELD_IN_CDB, Initiator

KEY = 0x0123456789ABCDEF
TYPE_BITS = {1: (4, 0x02), 3: (4, 0x08), 5: (4, 0x20), 6: (4, 0x40), 7: (4, 0x80), 8: (5, 0x01)}
"""Type -> byte and bit of the PERSISTENT RESERVATION TYPE MASK (SPC-4 table 222)."""


@pytest.fixture(params=[True, False], ids=["migrated", "verbatim"])
def migrate_pr(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def capabilities(first: Initiator) -> bytes:
    return first.fetch("5e02 0000000000 4000 00", 0x4000)


@counterpart_of("PrinReadKeys.Simple")
def test_read_keys(first: Initiator) -> None:
    data = first.fetch("5e00 0000000000 4000 00", 0x4000)
    assert len(data) >= 8
    assert int.from_bytes(data[4:8]) == len(data) - 8


@counterpart_of("PrinReadKeys.Truncate")
def test_additional_length_is_whole_when_the_keys_are_cut(first: Initiator) -> None:
    first.register(KEY)
    data = first.fetch("5e00 0000000000 0008 00", 0x4000)
    assert (len(data), data[4:8]) == (8, bytes([0, 0, 0, 8]))
    first.unregister(KEY)


@counterpart_of("PrinServiceactionRange.Range")
@pytest.mark.parametrize("action", range(0x20))
def test_service_actions(first: Initiator, action: int) -> None:
    expected = GOOD if action < 4 else INVALID_FIELD_IN_CDB
    assert first.says(f"5e{action:02x} 0000000000 4000 00", data_in=0x4000) == expected


@counterpart_of("PrinReportCapabilities.Simple")
def test_capabilities_have_no_reserved_values(first: Initiator) -> None:
    data = capabilities(first)
    assert (len(data), data[:2]) == (8, bytes([0, 8]))
    assert data[3] >> 4 & 0x07 <= 5, "ALLOW COMMANDS"
    assert data[3] & 0x80, "TMV"
    assert not data[4] & ~0xEA
    assert not data[5] & ~0x01


@counterpart_of("PrinReportCapabilities.Simple")
@pytest.mark.parametrize("kind", TYPE_BITS)
def test_every_type_that_is_announced_can_be_reserved(first: Initiator, kind: int) -> None:
    byte, bit = TYPE_BITS[kind]
    assert capabilities(first)[byte] & bit
    first.register(KEY)
    first.reserve(KEY, kind)
    assert first.reservation() == (0 if kind in (7, 8) else KEY, kind)
    first.release(KEY, kind)
    first.unregister(KEY)

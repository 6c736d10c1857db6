"""INQUIRY: standard data and vital product data pages (SPC-4 6.4, 7.8; SBC-4 6.6)."""

from __future__ import annotations

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import INVALID_FIELD_IN_CDB, Initiator

SPC_2, SPC_3, SPC_4 = 0x04, 0x05, 0x06


@counterpart_of("Inquiry.Standard")
def test_standard_data_is_whole_and_names_a_known_version(first: Initiator) -> None:
    data = first.inquire(count=260)
    assert len(data) >= 36
    assert data[0] >> 5 == 0, "PERIPHERAL QUALIFIER"
    assert data[2] in (0x00, SPC_2, SPC_3, SPC_4)
    assert data[3] & 0x0F == 2, "RESPONSE DATA FORMAT"
    assert data[4] == len(data) - 5, "ADDITIONAL LENGTH"


@counterpart_of("Inquiry.Standard")
def test_names_are_printable(first: Initiator) -> None:
    names = first.inquire()[8:36]
    assert all(byte == 0 or 0x20 <= byte <= 0x7E for byte in names)


@counterpart_of("Inquiry.Standard")
def test_bits_that_the_version_made_obsolete_are_zero(first: Initiator) -> None:
    assert not first.inquire()[3] & 0xC0, "AERC, TRMTSK"


@counterpart_of("Inquiry.AllocLength")
def test_every_allocation_length_of_one_byte(first: Initiator) -> None:
    whole = first.inquire(count=255)
    assert len(whole) >= 36
    for count in range(5, 256):
        assert first.inquire(count=count) == whole[:count]


@counterpart_of("Inquiry.AllocLength")
def test_allocation_length_has_two_bytes(first: Initiator) -> None:
    assert first.inquire(count=511) == first.inquire(count=512) == first.inquire(count=255)


@counterpart_of("Inquiry.EVPD")
def test_page_code_without_evpd(first: Initiator) -> None:
    assert first.says("12 00 01 0100 00", data_in=256) == INVALID_FIELD_IN_CDB


@counterpart_of("Inquiry.BlockLimits")
def test_block_limits_page_has_the_length_of_sbc_3(first: Initiator) -> None:
    data = first.inquire(0xB0, 255)
    assert len(data) == data[3] + 4 == 64


@counterpart_of("Inquiry.BlockLimits")
def test_limits_of_unmap_are_there_where_unmap_is(first: Initiator) -> None:
    data = first.inquire(0xB0, 255)
    assert first.inquire(0xB2)[5] & 0x80, "LBPU"
    for limit in (int.from_bytes(data[20:24]), int.from_bytes(data[24:28])):
        assert limit == 0xFFFFFFFF or 1 <= limit <= 1 << 20


@counterpart_of("Inquiry.MandatoryVPDSBC")
def test_mandatory_pages(first: Initiator) -> None:
    for page in (0x00, 0x83):
        assert first.inquire(page, 255)[1] == page


@counterpart_of("Inquiry.SupportedVPD")
def test_every_page_that_is_listed_is_there(first: Initiator) -> None:
    listed = first.inquire(0x00, 255)
    assert len(listed) == 4 + int.from_bytes(listed[2:4])
    for page in listed[4:]:
        data = first.inquire(page)
        assert (data[1], len(data)) == (page, 4 + int.from_bytes(data[2:4]))


@counterpart_of("Inquiry.VPDPageCodesSorted")
def test_pages_are_listed_in_ascending_order(first: Initiator) -> None:
    pages = list(first.inquire(0x00, 255)[4:])
    assert pages == sorted(set(pages))


@counterpart_of("Inquiry.VersionDescriptors")
def test_spc_and_sbc_are_claimed(first: Initiator) -> None:
    data = first.inquire(count=255)
    claimed = {int.from_bytes(data[at : at + 2]) for at in range(58, 74, 2)}
    # SPC-4 and SBC-3, no version claimed (SPC-4 table 175).
    assert {0x0460, 0x04C0} <= claimed

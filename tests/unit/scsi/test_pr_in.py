"""Parameter data of PERSISTENT RESERVE IN (SPC-4 6.15.2 to 6.15.5)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_in import FullStatus, ReadKeys, ReadReservation, RegistrationDescriptor, ReportCapabilities
from pyproxy.scsi.transport_id import FcTransportId, IscsiTransportId, OpaqueTransportId, SasTransportId

from .checks import check_parameter_data, hex_bytes, refused
from .test_transport_id import transport_ids

ALL_TYPES = frozenset(PrType)
SAS_WIRE = "06 00 x3 50 01 40 50 00 00 00 01 00 x12"
SAS = SasTransportId(bytes.fromhex("5001405000000001"))

CASES: list[tuple[Any, str]] = [
    (ReadKeys(0, ()), "00 x8"),
    (ReadKeys(7, (1,)), "00 00 00 07 00 00 00 08 00 x7 01"),
    (
        ReadKeys(0xFFFFFFFF, (0x1122334455667788, 0x1122334455667788, (1 << 64) - 1)),
        "FF FF FF FF 00 00 00 18 11 22 33 44 55 66 77 88 11 22 33 44 55 66 77 88 FF x8",
    ),
    (ReadReservation(5), "00 00 00 05 00 00 00 00"),
    (
        ReadReservation(5, 0x1122334455667788, 0, 1),
        "00 00 00 05 00 00 00 10 11 22 33 44 55 66 77 88 00 x5 01 00 00",
    ),
    (ReadReservation(6, 0, 0, 7), "00 00 00 06 00 00 00 10 00 x8 00 x5 07 00 00"),
    (ReadReservation(6, 1, 2, 15), "00 00 00 06 00 00 00 10 00 x7 01 00 x5 2F 00 00"),
    (ReportCapabilities(), "00 08 00 x6"),
    # what LIO answers
    (
        ReportCapabilities(
            crh=True, sip_c=True, atp_c=True, ptpl_c=True, tmv=True, ptpl_a=True, allow_commands=1, types=ALL_TYPES
        ),
        "00 08 1D 91 EA 01 00 00",
    ),
    (ReportCapabilities(rlr_c=True), "00 08 80 00 00 00 00 00"),
    (ReportCapabilities(crh=True), "00 08 10 00 00 00 00 00"),
    (ReportCapabilities(sip_c=True), "00 08 08 00 00 00 00 00"),
    (ReportCapabilities(atp_c=True), "00 08 04 00 00 00 00 00"),
    (ReportCapabilities(ptpl_c=True), "00 08 01 00 00 00 00 00"),
    (ReportCapabilities(ptpl_a=True), "00 08 00 01 00 00 00 00"),
    (ReportCapabilities(allow_commands=4), "00 08 00 40 00 00 00 00"),
    (ReportCapabilities(allow_commands=3), "00 08 00 30 00 00 00 00"),
    (ReportCapabilities(tmv=True, types=frozenset({PrType(1)})), "00 08 00 80 02 00 00 00"),
    (ReportCapabilities(tmv=True, types=frozenset({PrType(3)})), "00 08 00 80 08 00 00 00"),
    (ReportCapabilities(tmv=True, types=frozenset({PrType(5)})), "00 08 00 80 20 00 00 00"),
    (ReportCapabilities(tmv=True, types=frozenset({PrType(6)})), "00 08 00 80 40 00 00 00"),
    (ReportCapabilities(tmv=True, types=frozenset({PrType(7)})), "00 08 00 80 80 00 00 00"),
    (ReportCapabilities(tmv=True, types=frozenset({PrType(8)})), "00 08 00 80 00 01 00 00"),
    (FullStatus(3, ()), "00 00 00 03 00 00 00 00"),
    (
        FullStatus(
            9,
            (
                RegistrationDescriptor(0xABC, True, False, 0, 5, 1, SAS),
                RegistrationDescriptor(0xDEF, False, True, 0, 0, 0, FcTransportId(bytes.fromhex("2100001122334455"))),
                RegistrationDescriptor(1, False, False, 0, 0, 0x0102, None),
                RegistrationDescriptor(2, True, True, 0, 8, 3, IscsiTransportId("iqn.a", bytes(6))),
            ),
        ),
        (
            "00 00 00 09 00 00 00 AC "
            f"00 x6 0A BC 00 x4 01 05 00 x4 00 01 00 00 00 18 {SAS_WIRE} "
            "00 x6 0D EF 00 x4 02 00 00 x4 00 00 00 00 00 18 00 x8 21 00 00 11 22 33 44 55 00 x8 "
            "00 x7 01 00 x4 00 00 00 x4 01 02 00 00 00 00 "
            "00 x7 02 00 x4 03 08 00 x4 00 03 00 00 00 1C 45 00 00 18 69 71 6E 2E 61 2C 69 2C 30 78 30 x12 00 00"
        ),
    ),
]


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_whole_cut_and_over_long(value: Any, wire: str) -> None:
    check_parameter_data(value, hex_bytes(wire))


def test_additional_length_of_keys_survives_truncation() -> None:
    whole = hex_bytes("00 00 00 07 00 00 00 18 00 x7 01 00 x7 02 00 x7 03")
    for size in range(8, len(whole)):
        got = ReadKeys.decode(whole[:size])
        assert got.additional_length == 24
        assert got.allocation_length == 32
        assert got.keys == (1, 2, 3)[: (size - 8) // 8]
        assert not got.complete
    assert ReadKeys.decode(whole[:16]).encode() == whole[:16]


def test_odd_additional_length_still_becomes_complete() -> None:
    got = ReadKeys.decode(hex_bytes("00 00 00 01 00 00 00 0C 00 x7 01 FF FF FF FF"))
    assert got.keys == (1,)
    assert got.complete


def test_cut_reservation_does_not_pass_for_none() -> None:
    whole = hex_bytes("00 00 00 05 00 00 00 10 11 22 33 44 55 66 77 88 00 x5 01 00 00")
    for size in range(22):
        refused(ReadReservation.decode, whole[:size])
    for size in (22, 23):
        assert ReadReservation.decode(whole[:size]).type == 1


@pytest.mark.parametrize("length", [1, 8, 15])
def test_reservation_of_odd_length_is_refused(length: int) -> None:
    error = refused(ReadReservation.decode, bytes(4) + length.to_bytes(4) + bytes(length))
    assert f"is {length}, expected 0 or 16" in str(error)


def test_reservation_may_be_followed_by_obsolete_descriptors() -> None:
    wire = hex_bytes("00 00 00 05 00 00 00 20 00 x7 01 00 x5 03 00 00 FF x16")
    assert ReadReservation.decode(wire) == ReadReservation(5, 1, 0, 3)


def test_values_without_details() -> None:
    """What a caller leaves out is zero: no holder, logical unit scope, no TransportID."""
    assert RegistrationDescriptor(1).encode() == hex_bytes("00 x7 01 00 x16")
    assert ReadReservation(1, type=1).encode() == hex_bytes("00 00 00 01 00 00 00 10 00 x8 00 x5 01 00 00")


def test_known_types_come_back_with_their_name() -> None:
    held = ReadReservation.decode(hex_bytes("00 00 00 05 00 00 00 10 00 x7 01 00 x5 05 00 00"))
    assert held.type is PrType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    unknown = ReadReservation.decode(hex_bytes("00 00 00 05 00 00 00 10 00 x7 01 00 x5 0F 00 00"))
    assert unknown.type == 15


def test_capabilities_that_were_cut_promise_nothing() -> None:
    got = ReportCapabilities.decode(hex_bytes("00 08 1D"))
    assert got == ReportCapabilities(crh=True, sip_c=True, atp_c=True, ptpl_c=True, complete=False)
    refused(ReportCapabilities.decode, hex_bytes("00 07 1D 91 EA 01 00 00"))


def test_reserved_capability_bits_are_ignored() -> None:
    assert ReportCapabilities.decode(hex_bytes("00 10 62 0E 15 FE FF FF 00 x8")) == ReportCapabilities()


def descriptor(key: int, announced: int, name: bytes) -> bytes:
    return key.to_bytes(8) + bytes(12) + announced.to_bytes(4) + name


def full_status(*descriptors: bytes, announced: int | None = None) -> bytes:
    body = b"".join(descriptors)
    return bytes(4) + (len(body) if announced is None else announced).to_bytes(4) + body


def test_full_status_keeps_descriptors_with_names_it_cannot_read() -> None:
    names = [b"\x05\x00\xff\xff" + bytes(20), b"\x0e" * 12, b"\x06", hex_bytes(SAS_WIRE) + bytes(8)]
    got = FullStatus.decode(full_status(*(descriptor(key, len(name), name) for key, name in enumerate(names))))
    assert got.complete
    assert [one.key for one in got.descriptors] == [0, 1, 2, 3]
    assert [one.transport_id for one in got.descriptors] == [*map(OpaqueTransportId, names[:3]), SAS]


def test_full_status_stops_at_a_length_that_runs_out_of_bounds() -> None:
    good = descriptor(1, 24, hex_bytes(SAS_WIRE))
    got = FullStatus.decode(full_status(good, descriptor(2, 0xFFFFFFFF, bytes(30)), good))
    assert [one.key for one in got.descriptors] == [1]
    assert not got.complete


def test_full_status_ignores_less_than_a_descriptor_at_the_end() -> None:
    got = FullStatus.decode(full_status(descriptor(1, 0, b""), bytes(23)))
    assert [one.key for one in got.descriptors] == [1]
    assert got.complete


def test_full_status_cut_between_descriptors() -> None:
    whole = full_status(descriptor(1, 0, b""), descriptor(2, 0, b""))
    got = FullStatus.decode(whole[: 8 + 24])
    assert [one.key for one in got.descriptors] == [1]
    assert not got.complete
    assert got.allocation_length == 8 + 48


@pytest.mark.parametrize(
    "value",
    [
        ReadKeys(1 << 32, ()),
        ReadKeys(0, (1 << 64,)),
        ReadReservation(0, 0, 0, 16),
        ReadReservation(0, 0, 16, 1),
        ReportCapabilities(allow_commands=8),
        RegistrationDescriptor(0, rtpi=0x10000),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        value.encode()


generations = st.integers(0, 0xFFFFFFFF)
keys = st.integers(0, (1 << 64) - 1)
nibbles = st.integers(0, 15)


@given(generations, st.lists(keys, max_size=20).map(tuple))
def test_keys_round_trip(generation: int, listed: tuple[int, ...]) -> None:
    value = ReadKeys(generation, listed)
    assert ReadKeys.decode(value.encode()) == value


@given(st.builds(ReadReservation, generations, keys, nibbles, nibbles))
def test_reservation_round_trip(value: ReadReservation) -> None:
    assert ReadReservation.decode(value.encode()) == value


@given(
    st.builds(
        ReportCapabilities,
        *[st.booleans()] * 7,
        st.integers(0, 7),
        st.frozensets(st.sampled_from(PrType)),
    )
)
def test_capabilities_round_trip(value: ReportCapabilities) -> None:
    assert ReportCapabilities.decode(value.encode()) == value


registrations = st.builds(
    RegistrationDescriptor,
    keys,
    st.booleans(),
    st.booleans(),
    nibbles,
    nibbles,
    st.integers(0, 0xFFFF),
    st.none() | transport_ids,
)


@given(generations, st.lists(registrations, max_size=6).map(tuple))
def test_full_status_round_trip(generation: int, listed: tuple[RegistrationDescriptor, ...]) -> None:
    value = FullStatus(generation, listed)
    assert FullStatus.decode(value.encode()) == value


@given(st.lists(registrations, min_size=1, max_size=4).map(tuple), st.data())
def test_full_status_cut_anywhere_is_a_prefix(listed: tuple[RegistrationDescriptor, ...], data: st.DataObject) -> None:
    whole = FullStatus(1, listed).encode()
    got = FullStatus.decode(whole[: data.draw(st.integers(8, len(whole) - 1))])
    assert got.descriptors == listed[: len(got.descriptors)]
    assert not got.complete

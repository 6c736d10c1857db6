"""Sense data, fixed and descriptor format (SPC-4 4.5.2, 4.5.3)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi import sense as sense_module
from pyproxy.scsi.sense import Sense, decode_sense

from .checks import hex_bytes

FIXED = [
    (Sense(0x6, 0x2A, 0x05), "70 00 06 00 x4 0A 00 x4 2A 05 00 x4"),
    (Sense(0x5, 0x24, 0x00), "70 00 05 00 x4 0A 00 x4 24 00 00 x4"),
    (Sense(0x5, 0x26, 0x04), "70 00 05 00 x4 0A 00 x4 26 04 00 x4"),
    (Sense(0x4, 0x44, 0x00, deferred=True), "71 00 04 00 x4 0A 00 x4 44 00 00 x4"),
    (Sense(0x3, 0x11, 0x00, information=0x12345678), "F0 00 03 12 34 56 78 0A 00 x4 11 00 00 x4"),
    (
        Sense(0x5, 0x26, 0x00, sense_key_specific=bytes.fromhex("8B0014")),
        "70 00 05 00 x4 0A 00 x4 26 00 00 8B 00 14",
    ),
]
DESCRIPTOR = [
    (Sense(0x6, 0x2A, 0x03), "72 06 2A 03 00 x4"),
    (Sense(0xB, 0x4B, 0x00, deferred=True), "73 0B 4B 00 00 x4"),
    (Sense(0x3, 0x11, 0x00, information=0x100000005), "72 03 11 00 00 x3 0C 00 0A 80 00 00 00 00 01 00 00 00 05"),
    (
        Sense(0x5, 0x24, 0x00, sense_key_specific=bytes.fromhex("CB0001")),
        "72 05 24 00 00 x3 08 02 06 00 00 CB 00 01 00",
    ),
    (
        Sense(0x5, 0x24, 0x00, information=7, sense_key_specific=bytes.fromhex("C00002")),
        "72 05 24 00 00 x3 14 00 0A 80 00 x8 07 02 06 00 00 C0 00 02 00",
    ),
]


@pytest.mark.parametrize(("value", "wire"), FIXED)
def test_fixed_format_both_ways(value: Sense, wire: str) -> None:
    assert value.encode() == hex_bytes(wire)
    assert decode_sense(hex_bytes(wire)) == value
    assert decode_sense(hex_bytes(wire) + b"\xff" * 78) == value


@pytest.mark.parametrize(("value", "wire"), DESCRIPTOR)
def test_descriptor_format_both_ways(value: Sense, wire: str) -> None:
    assert value.encode(descriptor=True) == hex_bytes(wire)
    assert decode_sense(hex_bytes(wire)) == value
    assert decode_sense(hex_bytes(wire) + b"\xff" * 40) == value


def test_fixed_format_cut_byte_by_byte() -> None:
    wire = hex_bytes("F0 00 03 00 00 00 07 0A 00 x4 11 04 00 80 00 03")
    for size in range(len(wire) + 1):
        got = decode_sense(wire[:size])
        if size < 3:
            assert got is None
            continue
        assert got is not None
        assert got.key == 3
        assert (got.asc, got.ascq) == ((0x11, 0x04) if size >= 14 else (0, 0))
        assert got.information == (7 if size >= 7 else None)
        assert got.sense_key_specific == (bytes.fromhex("800003") if size >= 18 else None)


def test_descriptor_format_cut_byte_by_byte() -> None:
    wire = hex_bytes("72 05 24 00 00 x3 14 00 0A 80 00 x8 07 02 06 00 00 C0 00 02 00")
    for size in range(len(wire) + 1):
        got = decode_sense(wire[:size])
        if size < 4:
            assert got is None
            continue
        assert got is not None
        assert got.code == (5, 0x24, 0x00)
        assert got.information == (7 if size >= 20 else None)
        assert got.sense_key_specific == (bytes.fromhex("C00002") if size >= 27 else None)


def test_additional_length_limits_what_counts() -> None:
    """ADDITIONAL SENSE LENGTH 4: bytes 12 and 13 are whatever the buffer held before."""
    assert decode_sense(hex_bytes("70 00 06 00 x4 04 00 x4 2A 05 00 x4")) == Sense(6, 0, 0)
    assert decode_sense(hex_bytes("72 05 24 00 00 x3 00 02 06 00 00 C0 00 02 00")) == Sense(5, 0x24, 0)


def test_endless_or_empty_descriptors_do_not_hold_it_up() -> None:
    assert decode_sense(hex_bytes("72 06 29 00 00 x3 FF 00 x200")) == Sense(6, 0x29, 0)
    assert decode_sense(hex_bytes("72 06 29 00 00 x3 04 00 FF 80 00")) == Sense(6, 0x29, 0)


@pytest.mark.parametrize("first", [0x00, 0x6F, 0x74, 0x7E, 0x7F, 0xFF])
def test_other_response_codes_are_no_sense(first: int) -> None:
    assert decode_sense(bytes([first]) + bytes(17)) is None


def test_information_over_32_bits_is_not_valid_in_fixed_format() -> None:
    wire = Sense(0x3, 0x11, 0x00, information=1 << 32).encode()
    assert wire == hex_bytes("70 00 03 00 x4 0A 00 x4 11 00 00 x4")


def test_largest_information_of_the_fixed_format() -> None:
    wire = Sense(0x3, 0x11, 0x00, information=0xFFFFFFFF).encode()
    assert wire == hex_bytes("F0 00 03 FF FF FF FF 0A 00 x4 11 00 00 x4")


@pytest.mark.parametrize(("byte", "bit"), [(0x10000, None), (-1, None), (0, 8), (0, -1)])
def test_field_pointer_that_does_not_fit(byte: int, bit: int | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        Sense(5, 0x26, 0).with_field_pointer(byte, bit)


def test_exactly_eight_bytes_of_fixed_sense_have_no_asc() -> None:
    assert decode_sense(hex_bytes("70 00 06 00 00 00 00 FF")) == Sense(6, 0, 0)


def test_field_pointer() -> None:
    assert Sense(5, 0x26, 0).with_field_pointer(20, 3).encode()[15:] == bytes.fromhex("8B0014")
    assert Sense(5, 0x24, 0).with_field_pointer(1, in_cdb=True).encode()[15:] == bytes.fromhex("C00001")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Sense(0x6, 0x2A, 0x05), "06/2A/05 REGISTRATIONS PREEMPTED"),
        (Sense(0x5, 0x55, 0x04), "05/55/04 INSUFFICIENT REGISTRATION RESOURCES"),
        (Sense(0x4, 0x44, 0x00, deferred=True), "04/44/00 INTERNAL TARGET FAILURE (deferred)"),
        (Sense(0x6, 0x29, 0x7F), "06/29/7F (UNIT ATTENTION)"),
        (Sense(0xC, 0x99, 0x01), "0C/99/01 (RESERVED SENSE KEY)"),
    ],
)
def test_text(value: Sense, text: str) -> None:
    assert str(value) == text


def test_unit_attention_is_told_by_the_key() -> None:
    assert Sense(6, 0x2A, 3).is_unit_attention
    assert not Sense(5, 0x2A, 3).is_unit_attention


CONSTANTS = {
    "NO_SENSE": (0x0, 0x00, 0x00),
    "LOGICAL_UNIT_NOT_READY": (0x2, 0x04, 0x00),
    "LOGICAL_UNIT_BECOMING_READY": (0x2, 0x04, 0x01),
    "INITIALIZING_COMMAND_REQUIRED": (0x2, 0x04, 0x02),
    "MEDIUM_NOT_PRESENT": (0x2, 0x3A, 0x00),
    "WRITE_ERROR": (0x3, 0x0C, 0x00),
    "UNRECOVERED_READ_ERROR": (0x3, 0x11, 0x00),
    "INTERNAL_TARGET_FAILURE": (0x4, 0x44, 0x00),
    "PARAMETER_LIST_LENGTH_ERROR": (0x5, 0x1A, 0x00),
    "INVALID_COMMAND_OPERATION_CODE": (0x5, 0x20, 0x00),
    "LBA_OUT_OF_RANGE": (0x5, 0x21, 0x00),
    "INVALID_FIELD_IN_CDB": (0x5, 0x24, 0x00),
    "LOGICAL_UNIT_NOT_SUPPORTED": (0x5, 0x25, 0x00),
    "INVALID_FIELD_IN_PARAMETER_LIST": (0x5, 0x26, 0x00),
    "INVALID_RELEASE_OF_PERSISTENT_RESERVATION": (0x5, 0x26, 0x04),
    "SAVING_PARAMETERS_NOT_SUPPORTED": (0x5, 0x39, 0x00),
    "INSUFFICIENT_RESOURCES": (0x5, 0x55, 0x03),
    "INSUFFICIENT_REGISTRATION_RESOURCES": (0x5, 0x55, 0x04),
    "POWER_ON_RESET_OR_BUS_DEVICE_RESET": (0x6, 0x29, 0x00),
    "POWER_ON": (0x6, 0x29, 0x01),
    "SCSI_BUS_RESET": (0x6, 0x29, 0x02),
    "BUS_DEVICE_RESET_FUNCTION": (0x6, 0x29, 0x03),
    "DEVICE_INTERNAL_RESET": (0x6, 0x29, 0x04),
    "IT_NEXUS_LOSS": (0x6, 0x29, 0x07),
    "MODE_PARAMETERS_CHANGED": (0x6, 0x2A, 0x01),
    "RESERVATIONS_PREEMPTED": (0x6, 0x2A, 0x03),
    "RESERVATIONS_RELEASED": (0x6, 0x2A, 0x04),
    "REGISTRATIONS_PREEMPTED": (0x6, 0x2A, 0x05),
    "ASYMMETRIC_ACCESS_STATE_CHANGED": (0x6, 0x2A, 0x06),
    "CAPACITY_DATA_CHANGED": (0x6, 0x2A, 0x09),
    "PREVIOUS_RESERVATION_CONFLICT_STATUS": (0x6, 0x2C, 0x09),
    "COMMANDS_CLEARED_BY_ANOTHER_INITIATOR": (0x6, 0x2F, 0x00),
    "THIN_PROVISIONING_SOFT_THRESHOLD_REACHED": (0x6, 0x38, 0x07),
    "INQUIRY_DATA_CHANGED": (0x6, 0x3F, 0x03),
    "REPORTED_LUNS_DATA_CHANGED": (0x6, 0x3F, 0x0E),
    "WRITE_PROTECTED": (0x7, 0x27, 0x00),
    "SPACE_ALLOCATION_FAILED_WRITE_PROTECT": (0x7, 0x27, 0x07),
    "PERSISTENT_RESERVATION_INFORMATION_LOST": (0x7, 0x44, 0x01),
    "MISCOMPARE": (0xE, 0x1D, 0x00),
}


def test_every_constant_has_the_standards_numbers() -> None:
    found = {name: value.code for name, value in vars(sense_module).items() if isinstance(value, Sense)}
    assert found == CONSTANTS


@pytest.mark.parametrize(
    "arguments",
    [(16, 0, 0), (0, 256, 0), (0, 0, -1), (0, 0, 0, False, 1 << 64), (0, 0, 0, False, None, b"\x00\x00\x01")],
)
def test_values_that_do_not_fit_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Sense(*arguments)


sense_values = st.builds(
    Sense,
    st.integers(0, 15),
    st.integers(0, 255),
    st.integers(0, 255),
    st.booleans(),
    st.none() | st.integers(0, (1 << 32) - 1),
    st.none() | st.binary(min_size=3, max_size=3).map(lambda raw: bytes([raw[0] | 0x80]) + raw[1:]),
)


@given(sense_values, st.booleans())
def test_round_trip(value: Sense, descriptor: bool) -> None:
    assert decode_sense(value.encode(descriptor)) == value


@given(st.binary(max_size=300))
def test_never_raises(data: bytes) -> None:
    got = decode_sense(data)
    assert got is None or 0 <= got.key <= 15


@given(st.sampled_from([0x70, 0x71, 0x72, 0x73, 0xF0]), st.binary(max_size=280))
def test_never_raises_behind_a_known_response_code(first: int, rest: bytes) -> None:
    decode_sense(bytes([first]) + rest)

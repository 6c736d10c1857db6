"""Parameter data of REPORT SUPPORTED OPERATION CODES (SPC-4 6.35)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.rsoc import CommandDescriptor, CommandTimeouts, SupportedOpcode, SupportedOpcodes, drop_command

from .checks import check_both_ways, check_parameter_data, hex_bytes, refused

TEST_UNIT_READY = CommandDescriptor(0x00, None, 6)
REGISTER = CommandDescriptor(0x5F, 0x00, 10)
MOVE = CommandDescriptor(0x5F, 0x07, 10)
READ_16 = CommandDescriptor(0x88, None, 16)

TUR_WIRE = "00 00 00 00 00 00 00 06"
REGISTER_WIRE = "5F 00 00 00 00 01 00 0A"
MOVE_WIRE = "5F 00 00 07 00 01 00 0A"
READ_16_WIRE = "88 00 00 00 00 00 00 10"
TIMEOUTS_WIRE = "00 0A 00 05 00 00 00 0A 00 00 00 3C"
TIMEOUTS = CommandTimeouts(nominal=10, recommended=60, command_specific=5)

CASES: list[tuple[Any, str]] = [
    (SupportedOpcodes(()), "00 00 00 00"),
    (SupportedOpcodes((TEST_UNIT_READY, REGISTER)), f"00 00 00 10 {TUR_WIRE} {REGISTER_WIRE}"),
    (
        SupportedOpcodes((CommandDescriptor(0x00, None, 6, TIMEOUTS), CommandDescriptor(0x5F, 7, 10, TIMEOUTS))),
        (
            f"00 00 00 28 00 00 00 00 00 02 00 06 {TIMEOUTS_WIRE} "
            f"5F 00 00 07 00 03 00 0A {TIMEOUTS_WIRE}"
        ),
    ),
    (SupportedOpcodes((CommandDescriptor(0x7F, 0x0102, 32, None, 0x54),)), "00 00 00 08 7F 00 01 02 00 55 00 20"),
    (SupportedOpcode(1), "00 01 00 00"),
    (SupportedOpcode(3, bytes.fromhex("5e1f00000000 00ffff 07")), "00 03 00 0A 5E 1F 00 00 00 00 00 FF FF 07"),
    (
        SupportedOpcode(5, bytes.fromhex("00000000 0007"), TIMEOUTS, flags=0x18),
        f"00 9D 00 06 00 00 00 00 00 07 {TIMEOUTS_WIRE}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_whole_cut_and_over_long(value: Any, wire: str) -> None:
    check_parameter_data(value, hex_bytes(wire))


def test_supported_or_not() -> None:
    assert [SupportedOpcode(support).supported for support in range(8)] == [False] * 3 + [True, False, True] + [
        False
    ] * 2
    listed = SupportedOpcodes((TEST_UNIT_READY, REGISTER))
    assert listed.supports(0x00)
    assert listed.supports(0x5F, 0)
    assert not listed.supports(0x5F)
    assert not listed.supports(0x5F, 7)


def test_command_left_out() -> None:
    listed = SupportedOpcodes((TEST_UNIT_READY, REGISTER, MOVE, READ_16))
    assert listed.without(0x5F, 7) == SupportedOpcodes((TEST_UNIT_READY, REGISTER, READ_16))
    assert listed.without(0x5F, 8) == listed


def test_command_dropped_from_the_bytes() -> None:
    whole = hex_bytes(f"00 00 00 20 {TUR_WIRE} {REGISTER_WIRE} {MOVE_WIRE} {READ_16_WIRE}")
    assert drop_command(whole, 0x5F, 7) == hex_bytes(f"00 00 00 18 {TUR_WIRE} {REGISTER_WIRE} {READ_16_WIRE}")
    assert drop_command(whole, 0x88) == hex_bytes(f"00 00 00 18 {TUR_WIRE} {REGISTER_WIRE} {MOVE_WIRE}")
    assert drop_command(whole, 0x88, 0) == whole
    assert drop_command(whole + b"\xff" * 9, 0x12) == whole


def test_service_action_is_two_bytes_wide() -> None:
    whole = hex_bytes("00 00 00 10 7F 00 01 07 00 01 00 20 7F 00 00 07 00 01 00 20")
    assert drop_command(whole, 0x7F, 0x0007) == hex_bytes("00 00 00 08 7F 00 01 07 00 01 00 20")
    assert drop_command(whole, 0x7F, 0x0107) == hex_bytes("00 00 00 08 7F 00 00 07 00 01 00 20")
    assert drop_command(whole[:9], 0x7F, 0x0007) == whole[:9]
    assert drop_command(whole[:9], 0x7F, 0x0107) == hex_bytes("00 00 00 08")


def test_cut_descriptor_of_a_command_without_service_action() -> None:
    assert drop_command(hex_bytes("00 00 00 08 88 00 00 00 00"), 0x88) == hex_bytes("00 00 00 00")


def test_command_with_timeouts_dropped_from_the_bytes() -> None:
    tur, move = f"00 00 00 00 00 02 00 06 {TIMEOUTS_WIRE}", f"5F 00 00 07 00 03 00 0A {TIMEOUTS_WIRE}"
    whole = hex_bytes(f"00 00 00 3C {tur} {move} {tur}")
    assert drop_command(whole, 0x5F, 7) == hex_bytes(f"00 00 00 28 {tur} {tur}")


def test_dropped_command_does_not_show_in_any_truncated_reply() -> None:
    tur, move = f"00 00 00 00 00 02 00 06 {TIMEOUTS_WIRE}", f"5F 00 00 07 00 03 00 0A {TIMEOUTS_WIRE}"
    for first, second, size in ((TUR_WIRE, MOVE_WIRE, 8), (tur, move, 20)):
        whole = hex_bytes(f"00 00 00 {2 * size:02X} {first} {second}")
        for cut in range(4 + size, len(whole)):
            got = drop_command(whole[:cut], 0x5F, 7)
            if cut >= 4 + size + 4:
                assert got == hex_bytes(f"00 00 00 {size:02X} {first}")
            else:
                assert got == whole[:cut]


def test_dropping_needs_the_header() -> None:
    refused(lambda data: drop_command(data, 0x5F, 7), b"\0\0\0")


def test_length_that_lies_does_not_underflow() -> None:
    assert drop_command(hex_bytes(f"00 00 00 04 {MOVE_WIRE}"), 0x5F, 7) == hex_bytes("00 00 00 00")


@pytest.mark.parametrize(
    "value",
    [
        CommandDescriptor(256),
        CommandDescriptor(0, 0x10000),
        CommandDescriptor(0, flags=1),
        SupportedOpcode(8),
        SupportedOpcode(0, flags=0x80),
        SupportedOpcode(0, flags=0x100),
        CommandTimeouts(nominal=1 << 32),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        value.encode()


timeouts = st.builds(CommandTimeouts, st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 255))
descriptors = st.builds(
    CommandDescriptor,
    st.integers(0, 255),
    st.none() | st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.none() | timeouts,
    st.integers(0, 63).map(lambda upper: upper << 2),
)


@given(st.lists(descriptors, max_size=8).map(tuple))
def test_round_trip(listed: tuple[CommandDescriptor, ...]) -> None:
    value = SupportedOpcodes(listed)
    check_both_ways(value, value.encode())
    if listed:
        dropped = value.without(listed[0].opcode, listed[0].service_action)
        assert drop_command(value.encode(), listed[0].opcode, listed[0].service_action) == dropped.encode()


@given(
    st.builds(
        SupportedOpcode,
        st.integers(0, 7),
        st.binary(max_size=32),
        st.none() | timeouts,
        st.integers(0, 15).map(lambda middle: middle << 3),
    )
)
def test_one_command_round_trip(value: SupportedOpcode) -> None:
    check_both_ways(value, value.encode())


@given(st.binary(max_size=120), st.integers(0, 255), st.none() | st.integers(0, 0xFFFF))
def test_dropping_never_lengthens(data: bytes, opcode: int, service_action: int | None) -> None:
    if len(data) >= 4:
        assert len(drop_command(data, opcode, service_action)) <= len(data)

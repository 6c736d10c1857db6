"""Parameter lists of PERSISTENT RESERVE OUT (SPC-4 6.16.3, 6.16.4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.pr_out import MoveParameterList, ParameterList, decode_parameter_list
from pyproxy.scsi.transport_id import IscsiTransportId, SasTransportId

from .checks import check_both_ways, code_of, hex_bytes, refused
from .test_transport_id import transport_ids

SAS = SasTransportId(bytes.fromhex("5001405000000001"))
SAS_WIRE = "06 00 x3 50 01 40 50 00 00 00 01 00 x12"
ISCSI = IscsiTransportId("iqn.a")
ISCSI_WIRE = "05 00 00 14 69 71 6E 2E 61 00 x15"
KEYS = "11 22 33 44 55 66 77 88 99 AA BB CC DD EE FF 00"
KEY, SA_KEY = 0x1122334455667788, 0x99AABBCCDDEEFF00

PARAMETER_LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = (0x5, 0x26, 0x00)

BASIC: list[tuple[Any, str]] = [
    (ParameterList(0, 0x1122334455667788, aptpl=True), "00 x8 11 22 33 44 55 66 77 88 00 x4 01 00 00 00"),
    (ParameterList(KEY, SA_KEY), f"{KEYS} 00 x8"),
    (ParameterList(KEY, SA_KEY, all_tg_pt=True), f"{KEYS} 00 x4 04 00 00 00"),
    (ParameterList((1 << 64) - 1, 0), "FF x8 00 x16"),
]
NAMED: list[tuple[Any, str]] = [
    (ParameterList(KEY, SA_KEY, spec_i_pt=True), f"{KEYS} 00 x4 08 00 00 00 00 00 00 00"),
    (
        ParameterList(KEY, SA_KEY, True, True, True, (SAS, ISCSI)),
        f"{KEYS} 00 x4 0D 00 00 00 00 00 00 30 {SAS_WIRE} {ISCSI_WIRE}",
    ),
]
MOVE: list[tuple[Any, str]] = [
    (MoveParameterList(KEY, SA_KEY, rtpi=2, transport_id=SAS), f"{KEYS} 00 00 00 02 00 00 00 18 {SAS_WIRE}"),
    (
        MoveParameterList(KEY, SA_KEY, unreg=True, aptpl=True, rtpi=0x0102, transport_id=ISCSI),
        f"{KEYS} 00 03 01 02 00 00 00 18 {ISCSI_WIRE}",
    ),
    (
        MoveParameterList(KEY, SA_KEY, unreg=True, transport_id=IscsiTransportId("iqn.a", bytes(6))),
        f"{KEYS} 00 02 00 00 00 00 00 1C 45 00 00 18 69 71 6E 2E 61 2C 69 2C 30 78 30 x12 00 00",
    ),
]


@pytest.mark.parametrize(("value", "wire"), BASIC + NAMED + MOVE)
def test_both_ways(value: ParameterList | MoveParameterList, wire: str) -> None:
    check_both_ways(value, hex_bytes(wire))


@pytest.mark.parametrize(("value", "wire"), BASIC + NAMED + MOVE)
def test_cut_byte_by_byte_is_refused(value: ParameterList | MoveParameterList, wire: str) -> None:
    raw = hex_bytes(wire)
    for size in range(len(raw)):
        expected = PARAMETER_LIST_LENGTH_ERROR if size < 24 else INVALID_FIELD_IN_PARAMETER_LIST
        assert code_of(refused(type(value).decode, raw[:size])) == expected


@pytest.mark.parametrize(("value", "wire"), BASIC)
def test_basic_list_must_be_24_bytes(value: ParameterList, wire: str) -> None:
    error = refused(ParameterList.decode, hex_bytes(wire) + b"\0")
    assert code_of(error) == PARAMETER_LIST_LENGTH_ERROR
    assert "got 25 bytes, expected 24" in str(error)


@pytest.mark.parametrize(("value", "wire"), NAMED + MOVE)
def test_list_may_be_longer_than_its_transport_ids(value: ParameterList | MoveParameterList, wire: str) -> None:
    assert type(value).decode(hex_bytes(wire) + b"\xff" * 5) == value


def test_reserved_and_obsolete_bytes_are_ignored() -> None:
    assert ParameterList.decode(hex_bytes(f"{KEYS} FF x4 F2 FF FF FF")) == ParameterList(KEY, SA_KEY)
    assert MoveParameterList.decode(hex_bytes(f"{KEYS} FF FC 00 01 00 00 00 18 {SAS_WIRE}")) == MoveParameterList(
        KEY, SA_KEY, rtpi=1, transport_id=SAS
    )


@pytest.mark.parametrize(
    "names",
    [
        f"00 00 00 19 {SAS_WIRE}",  # announces more than follows
        f"00 00 00 17 {SAS_WIRE}",  # cuts the TransportID
        f"00 00 00 1C {SAS_WIRE} 06 00 00 00",  # a second one that is cut
        "FF FF FF FF",
        "00 00 00 04 05 00 00 00",
        f"00 00 00 18 05 00 00 18 {ISCSI_WIRE}",  # longer inside than the list
    ],
)
def test_transport_id_list_that_does_not_fit(names: str) -> None:
    error = refused(ParameterList.decode, hex_bytes(f"{KEYS} 00 x4 08 00 00 00 {names}"))
    assert code_of(error) == INVALID_FIELD_IN_PARAMETER_LIST


@pytest.mark.parametrize("size", ["00 00 00 00", "00 00 00 14", "00 00 00 19", "00 00 00 1C", "FF FF FF FC"])
def test_move_with_wrong_transport_id_length(size: str) -> None:
    error = refused(MoveParameterList.decode, hex_bytes(f"{KEYS} 00 00 00 01 {size} {SAS_WIRE} 00 x4"))
    assert code_of(error) == INVALID_FIELD_IN_PARAMETER_LIST


def test_length_bytes_of_move_are_not_flags() -> None:
    """Byte 20 is SPEC_I_PT elsewhere and the top of a length here."""
    wire = hex_bytes(f"{KEYS} 00 00 00 01 08 00 00 18 {SAS_WIRE}")
    assert code_of(refused(lambda data: decode_parameter_list(7, data), wire)) == INVALID_FIELD_IN_PARAMETER_LIST
    good = hex_bytes(f"{KEYS} 00 00 00 01 00 00 00 18 {SAS_WIRE}")
    assert decode_parameter_list(7, good) == MoveParameterList(KEY, SA_KEY, rtpi=1, transport_id=SAS)


@pytest.mark.parametrize("action", [1, 2, 3, 4, 5, 6, 8, 9, 0x1F])
@pytest.mark.parametrize("extra", ["", "00 x4", "FF FF FF FF"])
def test_spec_i_pt_belongs_to_register(action: int, extra: str) -> None:
    wire = hex_bytes(f"{KEYS} 00 x4 08 00 00 00 {extra}")
    error = refused(lambda data: decode_parameter_list(action, data), wire)
    assert code_of(error) == INVALID_FIELD_IN_PARAMETER_LIST
    assert "SPEC_I_PT" in str(error)


def test_register_takes_transport_ids() -> None:
    wire = hex_bytes(f"{KEYS} 00 x4 08 00 00 00 00 00 00 18 {SAS_WIRE}")
    assert decode_parameter_list(0, wire) == ParameterList(KEY, SA_KEY, True, transport_ids=(SAS,))


@pytest.mark.parametrize("action", range(32))
def test_short_list_is_a_length_error_for_every_service_action(action: int) -> None:
    for size in (0, 1, 23):
        error = refused(lambda data: decode_parameter_list(action, data), b"\xff" * size)
        assert code_of(error) == PARAMETER_LIST_LENGTH_ERROR


def test_basic_part_of_a_longer_list() -> None:
    wire = hex_bytes(f"{KEYS} 00 x4 08 00 00 00 FF x9")
    assert ParameterList.decode_basic(wire) == ParameterList(KEY, SA_KEY, spec_i_pt=True)


def test_values_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(ValueError, match="SPEC_I_PT"):
        ParameterList(1, 2, transport_ids=(SAS,))
    with pytest.raises(ValueError, match="transport_id"):
        MoveParameterList(1, 2).encode()
    with pytest.raises(ValueError, match="reservation key"):
        ParameterList(1 << 64, 0).encode()
    with pytest.raises(ValueError, match="target port"):
        MoveParameterList(1, 2, rtpi=0x10000, transport_id=SAS).encode()


keys = st.integers(0, (1 << 64) - 1)


@given(keys, keys, st.booleans(), st.booleans(), st.lists(transport_ids, max_size=4))
def test_round_trip(key: int, sa_key: int, all_tg_pt: bool, aptpl: bool, names: list[SasTransportId]) -> None:
    value = ParameterList(key, sa_key, bool(names), all_tg_pt, aptpl, tuple(names))
    assert ParameterList.decode(value.encode()) == value
    assert decode_parameter_list(0, value.encode()) == value


@given(keys, keys, st.booleans(), st.booleans(), st.integers(0, 0xFFFF), transport_ids)
def test_move_round_trip(key: int, sa_key: int, unreg: bool, aptpl: bool, rtpi: int, name: SasTransportId) -> None:
    value = MoveParameterList(key, sa_key, unreg, aptpl, rtpi, name)
    assert MoveParameterList.decode(value.encode()) == value


@given(st.integers(0, 31), st.binary(max_size=120))
def test_every_refusal_has_a_sense(action: int, data: bytes) -> None:
    answer = None
    try:
        decode_parameter_list(action, data)
    except DecodeError as error:
        answer = code_of(error)
        assert answer is not None, error  # noqa: PT017
    assert answer in (None, PARAMETER_LIST_LENGTH_ERROR, INVALID_FIELD_IN_PARAMETER_LIST)

"""Which commands a guest may send: the whole table of operation codes against what is written here."""

from __future__ import annotations

import pytest

from _fastpath.cdb import parse
from pyproxy.policy import Denial, deny, verdicts

ALLOWED_SIX = [0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x16, 0x17, 0x1A, 0x1B, 0x1C, 0x1E]
ALLOWED_TEN = [
    0x25,
    0x28,
    0x2A,
    0x2E,
    0x2F,
    0x34,
    0x35,
    0x37,
    0x3C,
    0x41,
    0x42,
    0x4D,
    0x55,
    0x56,
    0x57,
    0x5A,
    0x5E,
    0x5F,
]
ALLOWED_SIXTEEN = [0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x8E, 0x8F, 0x90, 0x91, 0x93, 0x9A, 0x9B, 0x9C]
ALLOWED_TWELVE = [0xA0, 0xA2, 0xA8, 0xAA, 0xAE, 0xAF, 0xB7]
BY_SERVICE_ACTION = {
    0x83: {0x10, 0x11},
    0x84: {0x03, 0x05, 0x06, 0x07},
    0x9E: {0x10, 0x12, 0x13, 0x16, 0x17},
    0x9F: {0x12},
    0xA3: {0x05, 0x0A, 0x0C, 0x0D, 0x0E, 0x0F, 0x1D},
    0xAB: {0x01},
}
ALLOWED = {*ALLOWED_SIX, *ALLOWED_TEN, *ALLOWED_SIXTEEN, *ALLOWED_TWELVE}


def reason(cdb: bytes, *, rawio: bool = False) -> Denial | None:
    denied = deny(parse(cdb), rawio=rawio)
    return None if denied is None else denied.reason


@pytest.mark.parametrize("opcode", [code for code in range(256) if code not in BY_SERVICE_ACTION and code != 0x7F])
def test_every_operation_code(opcode: int) -> None:
    expected = None if opcode in ALLOWED else Denial.NOT_ALLOWED
    assert reason(bytes([opcode]) + bytes(31)) is expected


@pytest.mark.parametrize("opcode", BY_SERVICE_ACTION)
def test_every_service_action(opcode: int) -> None:
    for action in range(32):
        expected = None if action in BY_SERVICE_ACTION[opcode] else Denial.NOT_ALLOWED
        assert reason(bytes([opcode, action]) + bytes(14)) is expected, f"{opcode:02X}/{action:02X}"


@pytest.mark.parametrize("opcode", [0x5E, 0x5F])
def test_every_persistent_reserve_is_the_devices_to_answer(opcode: int) -> None:
    for action in range(32):
        assert reason(bytes([opcode, action]) + bytes(8)) is None


def test_variable_length() -> None:
    for action in (0x0009, 0x000A, 0x000B, 0x000C, 0x000D, 0x000E, 0x000F, 0x0012):
        assert reason(bytes([0x7F, 0, 0, 0, 0, 0, 0, 0x18]) + action.to_bytes(2) + bytes(22)) is None
    for action in (0x0003, 0x0007, 0x1800, 0x1FF0, 0x0000):
        assert reason(bytes([0x7F, 0, 0, 0, 0, 0, 0, 0x18]) + action.to_bytes(2) + bytes(22)) is not None


@pytest.mark.parametrize(
    "cdb",
    [
        "040000000000",  # FORMAT UNIT
        "48010000000000000000",  # SANITIZE
        "3b050000000000000000",  # WRITE BUFFER, download microcode and save
        "3b0e0000000000000000",  # WRITE BUFFER, download microcode with offsets, defer activation
        "070000000000",  # REASSIGN BLOCKS
        "83000000000000000000000000000000",  # EXTENDED COPY
        "a40a00000000000000000000",  # SET TARGET PORT GROUPS
        "85000000000000000000000000000000",  # ATA PASS-THROUGH(16)
        "c00000000000",  # vendor specific
        "ff0000000000",
        "20000000000000000000",
    ],
)
def test_what_destroys_is_refused_as_unknown_and_rawio_lets_it_pass(cdb: str) -> None:
    denied = deny(parse(bytes.fromhex(cdb)))
    assert denied is not None
    assert denied.sense.code == (0x5, 0x20, 0x00)
    assert deny(parse(bytes.fromhex(cdb)), rawio=True) is None


@pytest.mark.parametrize("cdb", ["", "28", "2800000000", "5f0000", "7f", "a30c0000"])
@pytest.mark.parametrize("rawio", [False, True])
def test_cdb_cut_short_never_passes(cdb: str, rawio: bool) -> None:
    denied = deny(parse(bytes.fromhex(cdb)), rawio=rawio)
    assert denied is not None
    assert denied.reason is Denial.TRUNCATED
    assert denied.sense.code == (0x5, 0x24, 0x00)


@pytest.mark.parametrize("migrate_pr", [False, True])
@pytest.mark.parametrize("rawio", [False, True])
def test_workers_send_straight_what_is_allowed_and_python_need_not_see(rawio: bool, migrate_pr: bool) -> None:
    table = verdicts(rawio=rawio, migrate_pr=migrate_pr)
    for opcode in range(256):
        for action in range(32):
            parsed = parse(bytes([opcode, action]) + bytes(5) + b"\x18" + bytes([0, action]) + bytes(22))
            wanted = deny(parsed, rawio=rawio) is None and opcode not in (0x5E, 0x5F, 0xA0)
            if migrate_pr and opcode == 0xA3 and action == 0x0C:
                wanted = False
            assert table.passes(parsed) == wanted, f"{opcode:02X}h/{action:02X}h"
    assert not table.passes(parse(b"\x28\0"))


def test_variable_length_service_actions_beyond_the_table() -> None:
    strange = parse(b"\x7f" + bytes(6) + b"\x18\x80\x09" + bytes(22))
    assert not verdicts().passes(strange)
    assert verdicts(rawio=True).passes(strange)

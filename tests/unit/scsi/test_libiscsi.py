"""What libiscsi, which nobody here wrote, reads in our parameter data and builds itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyproxy.scsi.capacity import ReadCapacity10, ReadCapacity16
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_cdb import PrIn, PrOut
from pyproxy.scsi.pr_in import ReadKeys, ReadReservation, ReportCapabilities
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.report_luns import ReportLuns, int_to_lun
from pyproxy.scsi.rsoc import CommandDescriptor, CommandTimeouts, SupportedOpcode, SupportedOpcodes
from pyproxy.scsi.sense import Sense

Ask = Callable[..., list[tuple[str, str]]]

REPORT_ALL = "a30c00000000000010000000"
REPORT_ONE = "a30c01000000000010000000"


@pytest.mark.parametrize("action", range(4))
@pytest.mark.parametrize("length", [0, 8, 0x1234, 0xFFFF])
def test_persistent_reserve_in_cdb(libiscsi: Ask, action: int, length: int) -> None:
    assert libiscsi("prin", action, length) == [("cdb", PrIn(action, length).encode().hex())]


@pytest.mark.parametrize("action", range(7))
@pytest.mark.parametrize(("kind", "flags"), [(1, 0), (3, 1), (5, 4), (6, 8), (7, 13), (8, 5)])
def test_persistent_reserve_out(libiscsi: Ask, action: int, kind: int, flags: int) -> None:
    key, sa_key = 0x1122334455667788, 0xFFEEDDCCBBAA9988
    spec_i_pt, all_tg_pt, aptpl = bool(flags & 8), bool(flags & 4), bool(flags & 1)
    built = dict(libiscsi("prout", action, 0, kind, key, sa_key, flags))
    assert built["cdb"] == PrOut(action, 0, kind, 24).encode().hex()
    # libiscsi knows no TransportIDs: of a list with SPEC_I_PT it builds the first 24 bytes.
    assert built["list"] == ParameterList(key, sa_key, spec_i_pt, all_tg_pt, aptpl).encode()[:24].hex()


def test_read_keys(libiscsi: Ask) -> None:
    keys = (1, 0x1122334455667788, (1 << 64) - 1)
    said = libiscsi("in", PrIn(0, 4096).encode().hex(), ReadKeys(9, keys).encode().hex())
    assert said == [("generation", "9"), ("additional_length", "24"), *(("key", str(key)) for key in keys)]


@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8])
def test_read_reservation(libiscsi: Ask, kind: int) -> None:
    data = ReadReservation(7, 0xABCDEF, 0, kind).encode()
    assert libiscsi("in", PrIn(1, 4096).encode().hex(), data.hex()) == [
        ("generation", "7"), ("reserved", "1"), ("key", str(0xABCDEF)), ("scope", "0"), ("type", str(kind)),
    ]  # fmt: skip


def test_no_reservation(libiscsi: Ask) -> None:
    said = libiscsi("in", PrIn(1, 4096).encode().hex(), ReadReservation(7).encode().hex())
    assert said == [("generation", "7"), ("reserved", "0")]


# Not PTPL_A: libiscsi has a field for it and leaves it 0 whatever the device says.
@pytest.mark.parametrize("bit", ["crh", "sip_c", "atp_c", "ptpl_c", "tmv"])
def test_each_capability_bit(libiscsi: Ask, bit: str) -> None:
    data = ReportCapabilities(**{bit: True}, allow_commands=3).encode()  # type: ignore[arg-type]
    said = dict(libiscsi("in", PrIn(2, 4096).encode().hex(), data.hex()))
    assert said["length"] == "8"
    assert said["allow_commands"] == "3"
    assert {name for name in ("crh", "sip_c", "atp_c", "ptpl_c", "tmv") if said[name] == "1"} == {bit}


# libiscsi's SCSI_PR_TYPE_MASK_*
@pytest.mark.parametrize(
    ("kind", "mask"), [(1, 1 << 9), (3, 1 << 11), (5, 1 << 13), (6, 1 << 14), (7, 1 << 15), (8, 1)]
)
def test_each_type_in_the_mask(libiscsi: Ask, kind: int, mask: int) -> None:
    data = ReportCapabilities(tmv=True, types=frozenset({PrType(kind)})).encode()
    assert dict(libiscsi("in", PrIn(2, 4096).encode().hex(), data.hex()))["mask"] == str(mask)


@pytest.mark.parametrize(("key", "asc", "ascq"), [(6, 0x2A, 0x05), (5, 0x26, 0x04), (5, 0x55, 0x04), (0xE, 0x1D, 0)])
@pytest.mark.parametrize(
    ("deferred", "descriptor", "kind"),
    [(False, False, 0x70), (True, False, 0x71), (False, True, 0x72), (True, True, 0x73)],
)
def test_sense(libiscsi: Ask, key: int, asc: int, ascq: int, deferred: bool, descriptor: bool, kind: int) -> None:
    said = dict(libiscsi("sense", Sense(key, asc, ascq, deferred).encode(descriptor).hex()))
    assert (said["type"], said["key"], said["asc_ascq"]) == (str(kind), str(key), str(asc << 8 | ascq))


def test_sense_field_pointer(libiscsi: Ask) -> None:
    said = dict(libiscsi("sense", Sense(5, 0x26, 0).with_field_pointer(20, 3).encode().hex()))
    assert (said["specific"], said["bit_valid"], said["bit"], said["byte"]) == ("1", "1", "3", "20")


def test_read_capacity(libiscsi: Ask) -> None:
    assert libiscsi("in", "25" + "00" * 9, ReadCapacity10(0xFFFF, 4096).encode().hex()) == [
        ("last_lba", "65535"),
        ("block_size", "4096"),
    ]
    value = ReadCapacity16(0x123456789, 512, True, 2, 5, 3, True, False, 0x2345)
    assert libiscsi("in", "9e10" + "00" * 11 + "2000" + "00", value.encode().hex()) == [
        ("last_lba", str(0x123456789)), ("block_size", "512"), ("p_type", "2"), ("prot_en", "1"), ("p_i_exponent", "5"),
        ("physical_exponent", "3"), ("lbpme", "1"), ("lbprz", "0"), ("lowest_aligned_lba", str(0x2345)),
    ]  # fmt: skip


def test_report_luns(libiscsi: Ask) -> None:
    luns = ReportLuns(tuple(int_to_lun(number) for number in (0, 1, 255)))
    assert libiscsi("in", "a0" + "00" * 11, luns.encode().hex()) == [("lun", "0"), ("lun", "1"), ("lun", "255")]


def test_all_supported_opcodes(libiscsi: Ask) -> None:
    plain = SupportedOpcodes((CommandDescriptor(0x00, None, 6), CommandDescriptor(0x5F, 7, 10)))
    assert libiscsi("in", REPORT_ALL, plain.encode().hex()) == [("command", "0 -1 6 0"), ("command", "95 7 10 0")]
    timeouts = CommandTimeouts(10, 60)
    timed = SupportedOpcodes((CommandDescriptor(0x88, None, 16, timeouts), CommandDescriptor(0x5E, 2, 10, timeouts)))
    assert libiscsi("in", REPORT_ALL, timed.encode().hex()) == [
        ("command", "136 -1 16 1 10 60"),
        ("command", "94 2 10 1 10 60"),
    ]


def test_one_supported_opcode(libiscsi: Ask) -> None:
    usage = bytes.fromhex("5e1f000000000000ffff")
    assert libiscsi("in", REPORT_ONE, SupportedOpcode(3, usage).encode().hex()) == [
        ("ctdp", "0"), ("support", "3"), ("cdb_usage", usage.hex()),
    ]  # fmt: skip
    assert libiscsi("in", REPORT_ONE, SupportedOpcode(3, usage, CommandTimeouts(10, 60)).encode().hex()) == [
        ("ctdp", "1"), ("support", "3"), ("cdb_usage", usage.hex()), ("nominal", "10"), ("recommended", "60"),
    ]  # fmt: skip

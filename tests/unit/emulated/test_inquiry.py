"""INQUIRY, READ CAPACITY and REPORT LUNS (SPC-4 6.6, 7.8; SBC-4 5.20, 5.21, 6.6)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.transport_id import TransportId
from tests.unit.emulated.initiator import GOOD, Initiator, initiators


def test_standard_data(abc: list[Initiator]) -> None:
    data = abc[0].fetch("12 00 00 00ff 00", 255)
    assert len(data) == 96
    assert data[:8].hex() == "000006125b000002"
    assert data[8:36] == b"PYPROXY " + b"EMULATED DISK   " + b"0001"
    # SAM-5, SPC-4, SBC-3
    assert data[58:66].hex() == "00a0046004c00000"


@pytest.mark.parametrize("count", [0, 4, 5, 36, 95, 96, 97, 511, 512])
def test_allocation_length(abc: list[Initiator], count: int) -> None:
    result = abc[0].send(f"12 00 00 {count:04x} 00", data_in=600)
    assert (len(result.data), result.residual) == (min(count, 96), 600 - min(count, 96))


@pytest.mark.parametrize(
    "cdb", ["12 00 01 00ff 00", "12 00 83 00ff 00", "12 01 b3 00ff 00", "12 01 c0 00ff 00", "12 02 00 00ff 00"]
)
def test_pages_that_do_not_exist(abc: list[Initiator], cdb: str) -> None:
    assert abc[0].says(cdb, data_in=255) == "02 05/24/00"


def test_supported_pages(abc: list[Initiator]) -> None:
    assert abc[0].fetch("12 01 00 00ff 00").hex() == "00000006" + "008083b0b1b2"


def test_unit_serial_number(abc: list[Initiator]) -> None:
    assert abc[0].fetch("12 01 80 00ff 00") == b"\x00\x80\x00\x08SERIAL-1"


def test_device_identification(ram: EmulatedUnit) -> None:
    a = Initiator(ram.nexus(TransportId.parse("naa.5001405000000001"), 0x0102))
    data = a.fetch("12 01 83 00ff 00")
    assert data[:4].hex() == f"0083{len(data) - 4:04x}"
    naa, t10, port = data[4:24], data[24:-8], data[-8:]
    assert naa[:4].hex() == "01030010"
    assert naa[4:].hex().startswith("6525400")
    assert t10 == bytes([0x02, 0x01, 0, 32]) + b"PYPROXY EMULATED DISK   SERIAL-1"
    assert port.hex() == "0114000400000102"


def test_identity_follows_the_serial_number(abc: list[Initiator]) -> None:
    mine = LogicalUnitIdentity.from_vpd83(abc[0].fetch("12 01 83 00ff 00"))
    same, other = EmulatedUnit(1 << 20, serial="SERIAL-1"), EmulatedUnit(1 << 20)
    assert mine.unique
    assert mine.name.startswith("naa.6525400")
    theirs = [
        LogicalUnitIdentity.from_vpd83(initiators(unit, 1)[0].fetch("12 01 83 00ff 00")) for unit in (same, other)
    ]
    assert [mine.matches(one) for one in theirs] == [True, False]


def test_block_limits(abc: list[Initiator]) -> None:
    data = abc[0].fetch("12 01 b0 00ff 00")
    assert data[:4].hex() == "00b0003c"
    assert data[4:8].hex() == "00ff0008"  # WSNZ=0, COMPARE AND WRITE up to 255, granularity 8 blocks
    assert data[8:12].hex() == "00020000"  # 64 MiB
    assert data[20:36].hex() == "ffffffff" + "00000100" + "00000008" + "80000000"  # UNMAP
    assert data[36:44].hex() == "0000000000080000"  # WRITE SAME up to 256 MiB


def test_block_device_characteristics(abc: list[Initiator]) -> None:
    assert abc[0].fetch("12 01 b1 00ff 00").hex() == "00b1003c0001" + "00" * 58


def test_logical_block_provisioning(abc: list[Initiator]) -> None:
    # LBPU, LBPWS, LBPWS10, LBPRZ 001b; thin provisioning
    assert abc[0].fetch("12 01 b2 00ff 00").hex() == "00b2000400e40200"


@pytest.mark.parametrize(
    ("size", "block_size", "ten", "sixteen"),
    [
        (8 << 20, 512, "00003fff00000200", "0000000000003fff00000200"),
        (8 << 20, 4096, "000007ff00001000", "00000000000007ff00001000"),
        (1 << 41, 512, "ffffffff00000200", "00000000ffffffff00000200"),
        (1 << 42, 512, "ffffffff00000200", "00000001ffffffff00000200"),
    ],
)
def test_read_capacity(size: int, block_size: int, ten: str, sixteen: str) -> None:
    unit = EmulatedUnit(size, block_size=block_size)
    a, *_ = initiators(unit, 1)
    assert a.fetch("25 00 00000000 0000 00 00").hex() == ten
    # LBPME and LBPRZ
    assert a.fetch("9e 10 0000000000000000 00000020 0000").hex() == sixteen + "0000c000" + "00" * 16
    unit.close()


@pytest.mark.parametrize("count", range(17))
def test_read_capacity_16_allocation_length(abc: list[Initiator], count: int) -> None:
    assert len(abc[0].fetch(f"9e 10 0000000000000000 {count:08x} 0000")) == count


def test_read_capacity_10_address(abc: list[Initiator]) -> None:
    assert abc[0].says("25 00 00000001 0000 00 00", data_in=8) == "02 05/24/00"
    assert abc[0].says("25 00 00000001 0000 01 00", data_in=8) == GOOD


def test_report_luns(abc: list[Initiator]) -> None:
    a, *_ = abc
    one = "0000000800000000" + "0000000000000000"
    assert a.fetch("a0 00 00 000000 00000100 00 00").hex() == one
    assert a.fetch("a0 00 02 000000 00000100 00 00").hex() == one
    assert a.fetch("a0 00 01 000000 00000100 00 00").hex() == "0000000000000000"
    assert a.says("a0 00 03 000000 00000100 00 00", data_in=256) == "02 05/24/00"
    assert a.says("a0 00 00 000000 0000000f 00 00", data_in=256) == "02 05/24/00"
    assert a.fetch("a0 00 00 000000 00000010 00 00", 4).hex() == "00000008"

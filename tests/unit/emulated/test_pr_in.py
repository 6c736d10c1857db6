"""PERSISTENT RESERVE IN parameter data (SPC-4 6.15)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.transport_id import TransportId
from tests.unit.emulated.initiator import GOOD, REGISTER, RESERVE, Initiator, initiators, name

K1 = 0x0102030405060708


def test_read_keys(abc: list[Initiator]) -> None:
    a, b, _ = abc
    assert a.fetch("5e00 0000000000 ffff 00").hex() == "0000000000000000"
    a.out(REGISTER, sa_key=K1)
    assert b.fetch("5e00 0000000000 ffff 00").hex(" ", 4) == "00000001 00000008 01020304 05060708"


@pytest.mark.parametrize("count", range(18))
def test_allocation_length_cuts_data_and_not_the_length_in_it(abc: list[Initiator], count: int) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=K1)
    whole = bytes.fromhex("00000001 00000008 0102030405060708")
    result = a.send(f"5e00 0000000000 {count:04x} 00", data_in=64)
    assert (result.status, result.data, result.residual) == (0, whole[:count], 64 - min(count, 16))


def test_read_reservation(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.fetch("5e01 0000000000 ffff 00").hex() == "0000000000000000"
    a.out(REGISTER, sa_key=K1)
    a.out(RESERVE, key=K1, kind=6)
    assert a.fetch("5e01 0000000000 ffff 00").hex(" ", 4) == "00000001 00000010 01020304 05060708 00000000 00060000"


@pytest.mark.parametrize("kind", [7, 8])
def test_read_reservation_of_all_registrants_has_no_key(abc: list[Initiator], kind: int) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=K1)
    a.out(RESERVE, key=K1, kind=kind)
    assert a.fetch("5e01 0000000000 ffff 00")[8:].hex(" ", 4) == f"00000000 00000000 00000000 000{kind}0000"


def test_report_capabilities(unit: EmulatedUnit) -> None:
    a, *_ = initiators(unit)
    # CRH, SIP_C, ATP_C; PTPL_C only with stable storage. TMV, ALLOW COMMANDS 011b, every type.
    supports = "1d" if unit.path else "1c"
    assert a.fetch("5e02 0000000000 ffff 00").hex() == f"0008{supports}b0ea010000"
    if unit.path:
        assert a.out(REGISTER, sa_key=1, flags=0x01) == GOOD
        assert a.fetch("5e02 0000000000 ffff 00").hex() == "00081db1ea010000"
        assert a.out(REGISTER, key=1, sa_key=1) == GOOD
        assert a.fetch("5e02 0000000000 ffff 00").hex() == "00081db0ea010000"


def test_read_full_status(ram: EmulatedUnit) -> None:
    a = Initiator(ram.nexus(name(0x10), 3))
    b = Initiator(ram.nexus(TransportId.parse("iqn.2024-01.org.example:b,i,0x800000000001")))
    a.out(REGISTER, sa_key=K1)
    b.out(REGISTER, sa_key=2)
    b.out(RESERVE, key=2, kind=5)
    assert a.fetch("5e03 0000000000 ffff 00").hex(" ", 4) == (
        "00000002 00000078 "
        # a: not the holder, through port 3, SAS
        "01020304 05060708 00000000 00000000 00000003 00000018 "
        "06000000 50014050 00000010 00000000 00000000 00000000 "
        # b: holder of type 5, through port 1, iSCSI initiator port
        "00000000 00000002 00000000 01050000 00000001 00000030 "
        "4500002c 69716e2e 32303234 2d30312e 6f72672e 6578616d 706c653a 622c692c "
        "30783830 30303030 30303030 30310000"
    )


def test_read_full_status_of_all_registrants(abc: list[Initiator]) -> None:
    a, _b, c = abc
    for key, one in enumerate(abc, 1):
        one.out(REGISTER, sa_key=key)
    a.out(RESERVE, key=1, kind=8)
    data = c.fetch("5e03 0000000000 ffff 00")
    assert len(data) == 8 + 3 * 48
    assert [data[at + 12 : at + 14].hex() for at in range(8, len(data), 48)] == ["0108", "0108", "0108"]


def test_read_full_status_merges_all_target_ports(ram: EmulatedUnit) -> None:
    one, two = (Initiator(ram.nexus(name(0), port)) for port in (1, 2))
    one.out(REGISTER, sa_key=1, flags=0x04)
    data = one.fetch("5e03 0000000000 ffff 00")
    assert len(data) == 8 + 48
    assert data[8 + 12] == 0x02
    assert one.keys() == [1, 1]
    # Once they differ each is told of by itself.
    two.out(REGISTER, key=1, sa_key=2)
    data = one.fetch("5e03 0000000000 ffff 00")
    assert [data[at + 12] for at in range(8, len(data), 48)] == [0x00, 0x00]


def test_read_full_status_of_a_holder_through_one_of_the_ports(ram: EmulatedUnit) -> None:
    one, two = (Initiator(ram.nexus(name(0), port)) for port in (1, 2))
    one.out(REGISTER, sa_key=1, flags=0x04)
    two.out(RESERVE, key=1, kind=1)
    data = one.fetch("5e03 0000000000 ffff 00")
    assert [data[at + 12 : at + 20].hex() for at in range(8, len(data), 48)] == ["0000000000000001", "0101000000000002"]


def test_prgeneration_does_not_count_reading(abc: list[Initiator]) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=1)
    for action in range(4):
        a.fetch(f"5e{action:02x} 0000000000 ffff 00")
    assert a.generation() == 1

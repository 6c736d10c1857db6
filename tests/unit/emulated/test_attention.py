"""Unit attention conditions (SAM-5 5.14; SPC-4 7.5.10 for UA_INTLCK_CTRL)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.emulated.attention import PendingAttentions
from pyproxy.scsi.command import Command
from pyproxy.scsi.sense import Sense
from tests.unit.emulated.initiator import (
    CLEAR,
    CONFLICT,
    GOOD,
    IGNORE,
    PREEMPT,
    REGISTER,
    RESERVE,
    Initiator,
    name,
    said,
)

TUR = "00 00 00 00 00 00"
REQUEST_SENSE = "03 00 0000 fc 00"


def control(initiator: Initiator, *, byte_2: int = 0, byte_4: int = 0, byte_5: int = 0x40) -> str:
    """MODE SELECT of the Control mode page."""
    page = bytes([0x0A, 0x0A, byte_2, 0x10, byte_4, byte_5, 0, 0, 0xFF, 0xFF, 0, 0])
    return initiator.says("15 10 0000 10 00", bytes(4) + page)


def test_a_new_nexus_learns_of_the_power_on(ram: EmulatedUnit) -> None:
    nexus = ram.nexus(name(0))
    assert said(nexus.execute(Command(bytes(6)))) == "02 06/29/01"
    assert said(nexus.execute(Command(bytes(6)))) == GOOD
    assert ram.nexus(name(0)) is nexus
    quiet = EmulatedUnit(1 << 20, power_on_attention=False)
    assert said(quiet.nexus(name(0)).execute(Command(bytes(6)))) == GOOD
    quiet.close()


@pytest.mark.parametrize("cdb", ["12 00 00 0024 00", "a0 00 00 000000 00000010 00 00"])
def test_commands_that_neither_report_nor_clear(abc: list[Initiator], ram: EmulatedUnit, cdb: str) -> None:
    ram.power_cycle()
    assert abc[0].says(cdb, data_in=36) == GOOD
    assert abc[0].says(TUR) == "02 06/29/01"


def test_request_sense_returns_it_as_data_and_clears_it(abc: list[Initiator], ram: EmulatedUnit) -> None:
    a, *_ = abc
    ram.power_cycle()
    assert a.fetch(REQUEST_SENSE).hex() == "70000600000000" + "0a" + "00000000" + "2901" + "00000000"
    assert a.fetch("03 01 0000 fc 00").hex() == "7200000000000000"
    assert a.fetch(REQUEST_SENSE).hex() == "70000000000000" + "0a" + "00" * 10
    assert a.says(TUR) == GOOD


def test_request_sense_in_descriptor_format(abc: list[Initiator], ram: EmulatedUnit) -> None:
    ram.power_cycle()
    assert abc[0].fetch("03 01 0000 fc 00").hex() == "7206290100000000"


@pytest.mark.parametrize(
    "cdb",
    [
        "5f 00 00 0000 00000018 00",
        "5e 00 0000000000 0008 00",
        "28 00 ffffffff 00 0001 00",
        "ff 00 00 00 00 00",
        "5f 1f 00 0000 00000018 00",
        "16 00 00 0000 00",
    ],
)
def test_comes_before_everything_else(abc: list[Initiator], ram: EmulatedUnit, cdb: str) -> None:
    ram.power_cycle()
    assert abc[0].says(cdb, data_in=512) == "02 06/29/01"
    assert abc[0].generation() == 0


def test_comes_before_a_conflict(abc: list[Initiator]) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(RESERVE, key=1, kind=1)
    b.out(PREEMPT, key=2, sa_key=1, kind=1)
    assert a.write() == "02 06/2a/05"
    assert a.write() == CONFLICT


def test_several_are_reported_one_by_one(abc: list[Initiator]) -> None:
    a, b, c = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    c.out(REGISTER, sa_key=3)
    a.out(RESERVE, key=1, kind=5)
    a.out(REGISTER, key=1)
    b.out(IGNORE, sa_key=2)
    assert b.drain() == []
    c.nexus.lose()
    assert c.drain() == ["06/29/07", "06/2a/04"]


def test_the_same_condition_is_pending_once(abc: list[Initiator]) -> None:
    a, b, _ = abc
    names = name(1).encode()
    for _ in range(3):
        assert a.out(REGISTER, sa_key=1, flags=0x08, more=len(names).to_bytes(4) + names) == GOOD
        assert a.out(CLEAR, key=1) == GOOD
    assert b.drain() == ["06/2a/03"]


def test_mode_select_tells_the_other_nexuses(abc: list[Initiator]) -> None:
    a, b, c = abc
    assert control(a, byte_2=0x04) == GOOD
    assert (a.drain(), b.drain(), c.drain()) == ([], ["06/2a/01"], ["06/2a/01"])
    assert control(b, byte_2=0x04) == GOOD
    assert a.drain() == []


def test_d_sense_chooses_the_format(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.send("28 00 ffffffff 00 0001 00", data_in=512).sense[0] & 0x7F == 0x70
    control(a, byte_2=0x04)
    assert a.send("28 00 ffffffff 00 0001 00", data_in=512).sense[0] == 0x72


def test_interlocked_attentions_stay_until_request_sense(abc: list[Initiator], ram: EmulatedUnit) -> None:
    a, b, _ = abc
    assert control(a, byte_4=0x20) == GOOD
    assert b.says(TUR) == "02 06/2a/01"
    assert b.says(TUR) == "02 06/2a/01"
    assert b.fetch(REQUEST_SENSE)[12:14].hex() == "2a01"
    assert b.says(TUR) == GOOD
    b.out(REGISTER, sa_key=2)
    b.out(RESERVE, key=2, kind=3)
    assert a.write() == CONFLICT
    assert a.write() == CONFLICT


def test_a_conflict_leaves_an_attention_when_asked_to(abc: list[Initiator]) -> None:
    a, b, _ = abc
    assert control(a, byte_4=0x30) == GOOD
    b.fetch(REQUEST_SENSE)
    b.out(REGISTER, sa_key=2)
    b.out(RESERVE, key=2, kind=3)
    assert a.write() == CONFLICT
    assert a.write() == "02 06/2c/09"
    assert a.fetch(REQUEST_SENSE)[12:14].hex() == "2c09"
    assert a.write() == CONFLICT


def test_ua_intlck_reserved_value(abc: list[Initiator]) -> None:
    assert control(abc[0], byte_4=0x10) == "02 05/26/00"


def test_reset_tells_everyone_and_keeps_what_was_pending(abc: list[Initiator], ram: EmulatedUnit) -> None:
    a, b, c = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(3, key=1)
    c.nexus.logical_unit_reset()
    assert (a.drain(), b.drain(), c.drain()) == (["06/29/03"], ["06/29/03", "06/2a/03"], ["06/29/03"])
    ram.power_cycle()
    assert b.drain() == ["06/29/01"]


def test_the_queue_is_bounded() -> None:
    pending = PendingAttentions()
    for number in range(100):
        pending.establish(Sense(6, 0x3F, number))
    assert len(pending) == 16
    assert pending.first() == Sense(6, 0x3F, 84)

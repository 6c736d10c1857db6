"""What threads without the GIL read in a nexus' gate about writes and aborted commands."""

from __future__ import annotations

import pytest

from _fastpath.gate import GATE_TASK_ABORTED, GATE_WRITE_THROUGH
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.emulated.nexus import EmulatedNexus
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import SasTransportId

KEY = bytes.fromhex("00000000 00c0ffee")


def nexus(unit: EmulatedUnit, number: int) -> EmulatedNexus:
    return unit.nexus(SasTransportId(bytes.fromhex(f"500140500000000{number}")))


@pytest.fixture
def unit() -> EmulatedUnit:
    return EmulatedUnit(1 << 20, power_on_attention=False)


def test_without_a_write_cache_every_write_is_durable(unit: EmulatedUnit) -> None:
    one = nexus(unit, 1)
    unit.refresh(one)
    assert one.gate.flags & GATE_WRITE_THROUGH
    caching = bytes.fromhex("00000000 0812 04") + bytes(17)
    assert one.execute(Command(bytes.fromhex("151000001800"), data_out=caching)).good
    assert not one.gate.flags & GATE_WRITE_THROUGH


def test_the_gate_tells_how_commands_aborted_by_another_nexus_end(unit: EmulatedUnit) -> None:
    victim, other = nexus(unit, 1), nexus(unit, 2)
    for each in (victim, other):
        assert each.execute(Command(bytes.fromhex("5f060000000000001800"), data_out=bytes(8) + KEY + bytes(8))).good
    assert victim.execute(Command(bytes.fromhex("5f010100000000001800"), data_out=KEY + bytes(16))).good
    victim.abort_task_set()
    assert not victim.gate.flags & GATE_TASK_ABORTED
    assert other.execute(Command(bytes.fromhex("5f050100000000001800"), data_out=KEY + KEY + bytes(8))).good
    assert victim.gate.flags & GATE_TASK_ABORTED  # TAS is 1
    victim.abort_task_set()
    assert not victim.gate.flags & GATE_TASK_ABORTED

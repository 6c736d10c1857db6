"""The background polls of a host: each unit by itself, changed at run time, never in the way of a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pyproxy import config
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.host import Host
from pyproxy.daemon.poller import Poller
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.transport_id import SasTransportId

PORTS = [SasTransportId(bytes([0x50, 1, 0x40, 0x50, 0, 0, 0, number])) for number in range(3)]
KEY = (0xC0FFEE).to_bytes(8)
FENCE = (0xFE).to_bytes(8)


class Gate:
    """A nexus whose commands wait while it is shut."""

    def __init__(self, unit: EmulatedUnit, port: SasTransportId) -> None:
        self.device = unit.nexus(port)
        self.name = self.device.name
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()
        self.reads = 0

    def execute(self, command: Command) -> Result:
        if command.cdb[:2] == b"\x5e\x00":
            self.reads += 1
        if not self.open.is_set():
            self.waiting.set()
            assert self.open.wait(20)
        return self.device.execute(command)

    def execute_batch(self, commands: object) -> list[Result]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Rig:
    """Guest web with LUN 0 and 1, each on a unit of its own, and a fencing node."""

    def __init__(self, host: Host, gates: list[Gate], fences: list[Callable[[str, bytes], Result]]) -> None:
        self.host = host
        self.gates = gates
        self.fences = fences
        self.poller = Poller(host, 0)


def sender(unit: EmulatedUnit) -> Callable[[str, bytes], Result]:
    nexus = unit.nexus(PORTS[2])
    return lambda cdb, data: nexus.execute(Command(bytes.fromhex(cdb), data_out=data))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        units = [
            stack.enter_context(closing(EmulatedUnit(1 << 20, serial=f"u{lun}", power_on_attention=False)))
            for lun in range(2)
        ]
        gates = [Gate(unit, PORTS[0]) for unit in units]
        text = f'[daemon]\nstate_dir = "{tmp_path}/state"\n[[guest]]\nname = "web"\n' + "".join(
            f'[[guest.unit]]\nlun = {lun}\ndevice = "/dev/{lun}"\n' for lun in range(2)
        )
        backings = {lun: Backing(gates[lun], PORTS[0], 1, lambda: None) for lun in range(2)}
        host = Host(config.parse(text, "test", {}), open_backing=lambda _c, _g, section: backings[section.lun])
        stack.enter_context(closing(host))
        host.open_all()
        made = Rig(host, gates, [sender(unit) for unit in units])
        stack.callback(lambda: [gate.open.set() for gate in gates])
        stack.callback(made.poller.stop)
        yield made


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fence(rig: Rig, lun: int) -> None:
    """The guest holds Write Exclusive; a fencing node preempts it, and a program on our path eats the attention."""
    guest = rig.host.unit("web", lun)
    assert guest.execute(Command(bytes.fromhex("5f000000000000001800"), data_out=bytes(8) + KEY + bytes(8))).good
    assert guest.execute(Command(bytes.fromhex("5f010100000000001800"), data_out=KEY + bytes(16))).good
    assert rig.fences[lun]("5f000000000000001800", bytes(8) + FENCE + bytes(8)).good
    assert rig.fences[lun]("5f040100000000001800", FENCE + KEY + bytes(8)).good
    eaten = rig.gates[lun].device.execute(Command(bytes(6)))
    assert (eaten.status, eaten.sense[12:14]) == (2, b"\x2a\x05")


def test_a_fence_nobody_announced_is_noticed(rig: Rig) -> None:
    fence(rig, 0)
    assert rig.host.unit("web", 0).state.key == 0xC0FFEE
    rig.poller.start()
    time.sleep(0.05)
    assert rig.host.unit("web", 0).state.key == 0xC0FFEE  # off
    rig.poller.seconds = 0.02
    until(lambda: rig.host.unit("web", 0).state.key == 0)
    told = rig.host.unit("web", 0).execute(Command(bytes(6)))
    assert (told.status, told.sense[12:14]) == (2, b"\x2a\x05")
    rig.poller.seconds = 0
    until(lambda: not rig.poller._tasks.running)
    count = rig.gates[0].reads
    time.sleep(0.1)
    assert rig.gates[0].reads == count


def test_a_stuck_unit_holds_up_neither_another_nor_the_stop(rig: Rig) -> None:
    fence(rig, 1)
    rig.gates[0].open.clear()
    rig.poller.seconds = 0.02
    rig.poller.start()
    assert rig.gates[0].waiting.wait(10)
    until(lambda: rig.host.unit("web", 1).state.key == 0)
    began = time.monotonic()
    stuck = rig.poller.stop(0.1)
    assert time.monotonic() - began < 2
    assert stuck == {("web", 0)}
    rig.host.close(leave=stuck)
    reads = rig.gates[0].reads
    rig.gates[0].open.set()
    until(lambda: not rig.poller._tasks.running)
    assert rig.gates[0].reads == reads  # what was under way ended, nothing more was sent


def test_one_poll_of_a_unit_at_a_time(rig: Rig) -> None:
    rig.gates[0].open.clear()
    rig.poller.seconds = 0.01
    rig.poller.start()
    assert rig.gates[0].waiting.wait(10)
    before = rig.gates[0].reads
    others = rig.gates[1].reads
    until(lambda: rig.gates[1].reads > others + 5)
    assert rig.gates[0].reads == before


def test_stopped_before_it_began(rig: Rig) -> None:
    assert rig.poller.stop() == frozenset()

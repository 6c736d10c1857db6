"""Requests through a server: whose unit, on which descriptor, through the snooper; and what is refused, told once."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import time
from pathlib import Path

import pytest

from pyproxy.connected import Peer
from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.frontend.pr_helper.message import Request
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.sense import RESERVATIONS_RELEASED
from tests.unit.pr_helper.exchange import CLOSED, Answer, Client, open_descriptors, parameters, prin, prout
from tests.unit.pr_helper.scene import MIB, OTHER, US, FakeNode, Scene

POWER_ON = bytes.fromhex("700006000000000a000000002901 00000000")


def sense(key: int, asc: int, ascq: int) -> bytes:
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0])


@pytest.fixture
def device(guest: Scene):
    descriptor = os.open(guest.device_file(), os.O_RDWR)
    guest.guest_unit.device.execute(Command(bytes(6)))
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def client(guest: Scene):
    with Client(guest.path) as connected:
        yield connected


def test_a_guest_registers_reserves_and_reads_back(guest, device, client):
    assert client.greeting == b"\x00\x00\x00\x00"
    assert client.ask(prout(6, 24), device, parameters(0, 0x1234)) == Answer(0)
    assert client.ask(prin(0, 16), device).data == bytes.fromhex("00000001 00000008 0000000000001234")
    assert client.ask(prout(1, 24, 5), device, parameters(0x1234)) == Answer(0)
    assert client.ask(prin(1, 24), device).data == bytes.fromhex(
        "00000001 00000010 0000000000001234 00000000 00 05 0000"
    )
    assert guest.guest_unit.state.key == 0x1234
    assert guest.guest_unit.state.type == 5


def test_out_is_recorded_before_it_is_sent_and_done_before_it_is_answered(guest, device, client):
    intents = []
    real = guest.guest_unit.device.execute

    class Watching:
        name = "watching"

        def execute(self, command):
            if command.cdb[0] == 0x5F:
                intents.extend(guest.store.open_intents("g", guest.guest_unit.snooper.identity_name))
            return real(command)

    descriptor = os.open(guest.device_file(Watching()), os.O_RDWR)
    assert client.ask(prout(6, 24), descriptor, parameters(0, 0x1234)) == Answer(0)
    os.close(descriptor)
    assert [(one.cdb, one.parameter_list) for one in intents] == [(prout(6, 24)[:10], parameters(0, 0x1234))]
    assert guest.store.open_intents("g", guest.guest_unit.snooper.identity_name) == []


def test_what_cannot_migrate_is_refused(device, client):
    moved = client.ask(prout(7, 24), device, parameters(0x1234, 0x5678))
    assert (moved.status, moved.sense[2], moved.sense[12:14]) == (2, 5, b"\x24\x00")
    everywhere = client.ask(prout(6, 24), device, parameters(0, 0x1234, 0x04))
    assert (everywhere.status, everywhere.sense[2], everywhere.sense[12:14]) == (2, 5, b"\x26\x00")


def test_a_waiting_unit_attention_comes_first_and_once(guest, device, client):
    guest.guest_unit.snooper.attentions.add(RESERVATIONS_RELEASED)
    assert client.ask(prin(0, 64), device) == Answer(2, sense(0x6, 0x2A, 0x04))
    assert client.ask(prin(0, 64), device).status == 0


def test_a_unit_attention_of_the_device_reaches_guest_and_snooper(guest, device, client):
    other = guest.unit.nexus(OTHER)
    other.execute(Command(bytes(6)))
    assert client.ask(prout(6, 24), device, parameters(0, 0x1234)) == Answer(0)
    assert other.execute(Command(prout(6, 24)[:10], parameters(0, 0x9999))).good
    assert other.execute(Command(prout(3, 24)[:10], parameters(0x9999))).good
    assert client.ask(prin(0, 64), device) == Answer(2, sense(0x6, 0x2A, 0x03))
    assert "unit-attention-2a-03" in guest.guest_unit.state.suspect


def test_a_unit_attention_that_came_while_the_unit_was_identified_reaches_both(guest, client):
    """A device may report one on INQUIRY although the standard says no."""

    waiting = [Result(2, sense(0x6, 0x2A, 0x05))]

    class Reports:
        name = "reports"

        def execute(self, command):
            if command.cdb[0] == 0x12 and waiting:
                return waiting.pop()
            return guest.guest_unit.device.execute(command)

    guest.guest_unit.device.execute(Command(bytes(6)))
    descriptor = os.open(guest.device_file(Reports()), os.O_RDWR)
    assert client.ask(prin(0, 64), descriptor) == Answer(2, sense(0x6, 0x2A, 0x05))
    assert "unit-attention-2a-05" in guest.guest_unit.state.suspect
    os.close(descriptor)


def test_two_nodes_of_one_unit_are_one(guest, device, client):
    second = os.open(guest.device_file(), os.O_RDWR)
    assert client.ask(prout(6, 24), device, parameters(0, 0x1234)) == Answer(0)
    assert client.ask(prin(0, 16), second).data[8:] == bytes.fromhex("0000000000001234")
    os.close(second)
    assert len({identity for _, identity, _ in guest.resolved}) == 1
    assert {address for _, _, address in guest.resolved} == {"1:0:0:0", "2:0:0:0"}


def test_anothers_unit_is_refused_and_told_once(guest, client, caplog):
    foreign = EmulatedUnit(MIB, serial="foreign")
    descriptor = os.open(guest.device_file(foreign.nexus(US)), os.O_RDWR)
    for _ in range(3):
        assert client.ask(prout(6, 24), descriptor, parameters(0, 0x1234)) == Answer(2, sense(0x5, 0x25, 0x00))
    assert client.ask(prin(0, 64), descriptor) == Answer(2, sense(0x5, 0x25, 0x00))
    os.close(descriptor)
    told = [record for record in caplog.records if "is no unit of this guest" in record.getMessage()]
    assert len(told) == 1
    foreign.close()


def test_a_device_that_was_replaced_is_identified_again(guest, device, client):
    assert client.ask(prin(0, 64), device).status == 0
    node = guest.nodes[os.fstat(device).st_ino]
    foreign = EmulatedUnit(MIB, serial="foreign")
    guest.nodes[os.fstat(device).st_ino] = FakeNode(
        foreign.nexus(US), node.number, node.address, node.lasting, node.is_block
    )
    # The kernel's device is still the same as far as anyone can tell: only a command that changes something looks.
    assert client.ask(prout(6, 24), device, parameters(0, 0x1234)) == Answer(2, sense(0x5, 0x25, 0x00))
    assert client.ask(prin(0, 64), device) == Answer(2, sense(0x5, 0x25, 0x00))
    foreign.close()


def test_a_device_that_was_detached_is_identified_again(guest, device, client):
    assert client.ask(prin(0, 64), device).status == 0
    node = guest.nodes[os.fstat(device).st_ino]
    os.truncate(node.lasting, 0)  # what sysfs says of a device that is gone: nothing to read
    foreign = EmulatedUnit(MIB, serial="foreign")
    again = guest.directory / "again"
    again.write_text("0\n", encoding="ascii")
    guest.nodes[os.fstat(device).st_ino] = FakeNode(foreign.nexus(US), node.number, node.address, again)
    assert client.ask(prin(0, 64), device) == Answer(2, sense(0x5, 0x25, 0x00))
    foreign.close()


class Failing:
    """A device that answers INQUIRY and fails everything else, or INQUIRY too."""

    name = "failing"

    def __init__(self, device, outcome, inquiry=None):
        self._device, self._outcome, self._inquiry = device, outcome, inquiry

    def execute(self, command):
        outcome = self._inquiry if command.cdb[0] == 0x12 else self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return self._device.execute(command) if outcome is None else outcome


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (TransportError(errno.EPERM, "refused by the filter"), Answer(2, sense(0xB, 0x00, 0x06))),
        (TransportError(errno.EDOM, "full"), Answer(0x28)),
        (TransportError(errno.EINTR, "interrupted", fate_unknown=True), Answer(2, sense(0xB, 0x00, 0x06))),
        (Result(0, host_status=0x07), Answer(2, sense(0xB, 0x00, 0x06))),
        (Result(0, host_status=0x0E), Answer(2, sense(0xB, 0x29, 0x07))),
        (Result(0x18), Answer(0x18)),
        (Result(0x08), Answer(0x08)),
        (RuntimeError("a fault"), Answer(2, sense(0x4, 0x44, 0x00))),
    ],
)
@pytest.mark.parametrize("is_out", [False, True])
def test_failures_of_the_device_are_answered(guest, client, outcome, answer, is_out):
    descriptor = os.open(guest.device_file(Failing(guest.guest_unit.device, outcome)), os.O_RDWR)
    if is_out:
        assert client.ask(prout(6, 24), descriptor, parameters(0, 0x1234)) == answer
    else:
        assert client.ask(prin(0, 64), descriptor) == answer
    os.close(descriptor)


@pytest.mark.parametrize(
    ("inquiry", "answer"),
    [
        (TransportError(errno.ENODEV, "gone"), Answer(2, sense(0xB, 0x00, 0x06))),
        (Result(0, host_status=0x0E), Answer(2, sense(0xB, 0x29, 0x07))),
        (Result(2, sense(0x2, 0x04, 0x01)), Answer(2, sense(0x2, 0x04, 0x01))),
        (Result(0, data=bytes(8)), Answer(2, sense(0x5, 0x25, 0x00))),
    ],
)
def test_a_device_that_cannot_be_identified(guest, client, inquiry, answer):
    descriptor = os.open(guest.device_file(Failing(guest.guest_unit.device, None, inquiry)), os.O_RDWR)
    assert client.ask(prin(0, 64), descriptor) == answer
    os.close(descriptor)


def test_a_unit_that_cannot_be_served_now(guest, device, client, monkeypatch, caplog):
    def broken(*_):
        raise OSError("the store is locked")

    monkeypatch.setattr(guest.server._service, "_resolve", broken)
    assert client.ask(prin(0, 64), device) == Answer(2, sense(0x2, 0x04, 0x00))
    assert "cannot be served now: the store is locked" in caplog.text


@pytest.fixture
def wrong_descriptors(tmp_path: Path):
    (tmp_path / "regular").touch()
    reading, writing = os.pipe()
    left, right = socket.socketpair()
    opened = {
        "regular": os.open(tmp_path / "regular", os.O_RDWR),
        "directory": os.open(tmp_path, os.O_RDONLY),
        "pipe": reading,
        "pipe-writing": writing,
        "socket": left.fileno(),
        "null": os.open("/dev/null", os.O_RDWR),
        "path": os.open("/dev/null", os.O_PATH),
        "eventfd": os.eventfd(0),
    }
    yield opened
    for name, descriptor in opened.items():
        if name != "socket":
            os.close(descriptor)
    left.close()
    right.close()


def test_wrong_descriptors_are_answered_told_once_and_harm_nobody(guest, device, wrong_descriptors, caplog):
    caplog.set_level(logging.WARNING)
    for name, descriptor in wrong_descriptors.items():
        with Client(guest.path) as client:
            for _ in range(2):
                assert client.ask(prin(0, 64), descriptor) == Answer(2, sense(0xB, 0x00, 0x06)), name
            out = client.ask(prout(6, 24), descriptor, parameters(0, 0x1234))
            refused = name in ("directory", "pipe", "pipe-writing", "path")
            assert out == Answer(2, sense(0x5, 0x20, 0x00) if refused else sense(0xB, 0x00, 0x06)), name
    with Client(guest.path) as client:
        assert client.ask(prin(0, 64), device).status == 0
    told = [record.getMessage() for record in caplog.records if "complaints" in record.name]
    assert len(told) == 2
    assert "is a regular file, not a SCSI device node" in told[0]
    assert "needs a descriptor opened for reading and writing" in told[1]


def test_a_read_only_node_is_good_enough_for_in(guest):
    descriptor = os.open(guest.device_file(), os.O_RDONLY)
    guest.guest_unit.device.execute(Command(bytes(6)))
    with Client(guest.path) as client:
        assert client.ask(prin(0, 64), descriptor).status == 0
        assert client.ask(prout(6, 24), descriptor, parameters(0, 0x1234)) == Answer(2, sense(0x5, 0x20, 0x00))
    os.close(descriptor)
    assert guest.guest_unit.state.key == 0


def test_no_descriptor_is_left_open(guest, device, wrong_descriptors):
    def everything() -> None:
        with Client(guest.path) as client:
            client.ask(prin(0, 64), device)
            client.ask(prout(6, 24), device, parameters(0, 0x1234))
            for descriptor in wrong_descriptors.values():
                client.ask(prin(0, 64), descriptor)
            client.send(prin(0, 64), (device, device, device, device))
            assert client.answer() == CLOSED
        with Client(guest.path) as client:
            client.send(prout(6, 24)[:9], (device,))

    everything()
    gc.collect()  # what earlier tests left must not be closed in between
    before = settled(open_descriptors)
    for _ in range(20):
        everything()
    assert settled(open_descriptors) == before


def settled(count) -> int:
    """The value of ``count`` once it no longer changes."""
    last, stable = -1, 0
    deadline = time.monotonic() + 10
    while stable < 5 and time.monotonic() < deadline:
        now = count()
        stable = stable + 1 if now == last else 0
        last = now
        time.sleep(0.01)
    return last


def test_the_service_never_raises(guest):
    peer = Peer(1, 0, 0)
    served = guest.server._service.execute(Request(prin(0, 64), 987654), peer)
    assert served.reply.status == 2
    served = guest.server._service.execute(Request(prout(0, 24), 987654, parameters()), peer)
    assert served.reply.status == 2

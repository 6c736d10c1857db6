"""Lanes on real devices: what the target did, what is reported about reservations, and that nobody can tell the paths.

                    ┌── GuestUnit ── SgDevice ─────────────── LaneRunner ──┐
the same batches ───┤                                                      ├── engine ── node ── LIO, scsi_debug
                    └── GuestUnit ── SgDevice without its lanes ───────────┘
"""

import os
import struct
from dataclasses import replace

import pytest

from _fastpath import lanes
from pyproxy.device.sg import SgDevice
from pyproxy.reservation.events import EventKind
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.command import Command
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.vm.guest.sg_support import TEST_UNIT_READY, drain, read_cdb, write_cdb
from tests.vm.rig import scsi_debug as scsi_debug_module
from tests.vm.rig.nodes import settle

LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
READY = Command(TEST_UNIT_READY)
READ, WRITE = Command(read_cdb(0, 1), data_in=512), Command(write_cdb(0, 1), data_out=bytes(512))
READ_KEYS = Command(bytes.fromhex("5E 00 00 00 00 00 00 20 00 00"), data_in=8192)
REGISTER = Command(bytes.fromhex("5F 06 00 00 00 00 00 00 18 00"), data_out=struct.pack(">QQ8x", 0, 0xA1))
RESERVE_6, RELEASE_6 = Command(bytes.fromhex("160000000000")), Command(bytes.fromhex("170000000000"))
SUPPORTED_OPCODES = Command(bytes.fromhex("A3 0C 00 00 00 00 00 00 10 00 00 00"), data_in=4096)
INQUIRY = Command(bytes.fromhex("12 00 00 00 24 00"), data_in=36)
FORMAT_UNIT = Command(bytes.fromhex("04 00 00 00 00 00"))


@pytest.fixture(params=["sg", "sd", "bsg"])
def node(request):
    """Which of a unit's nodes is opened; each has an engine of its own."""
    # udev reads a disk that was closed, and receives the unit attentions that are waited for here.
    settle()
    return request.param


@pytest.fixture
def store(tmp_path):
    with SqliteStore(tmp_path / "state.db") as opened:
        yield opened


class WithoutLanes:
    """A device as the generic path sees it."""

    def __init__(self, device):
        self.name = device.name
        self.execute = device.execute
        self.execute_batch = device.execute_batch
        self.close = device.close


def guest_on(device, store, name="g", *, migrate_pr=True):
    """A guest's unit on the device, and the list of what its snooper is told."""
    snooper = Snooper(name, 0, LUN, store, migrate_pr=migrate_pr)
    told = []
    observe = snooper.observe

    def note(event):
        told.append(event)
        observe(event)

    snooper.observe = note
    return GuestUnit(name, 0, device, snooper), told


def test_reservation_commands_are_left_out(lio, node):
    unit = lio(2)
    nexus = unit.nexuses[0]
    with SgDevice.open(getattr(nexus, node)) as device:
        outcomes, events = device.execute_lanes([WRITE, READ_KEYS, REGISTER, READ])
        assert (outcomes[0].status, outcomes[1], outcomes[2], outcomes[3].data) == (0, None, None, bytes(512))
        assert events == []
        assert unit.registered == {}
        assert device.execute_lanes([READ_KEYS, REGISTER]) == ([None, None], [])
    assert unit.registered == {}


def test_conflict_is_reported_for_the_commands_it_hit(lio, node, store):
    holder, other = lio(2).nexuses
    assert holder.direct.persistent_reserve_out(0, sa_key=0xA1).good
    assert holder.direct.persistent_reserve_out(1, key=0xA1, type_=1).good
    with SgDevice.open(getattr(other, node)) as device:
        outcomes, events = device.execute_lanes([READ, WRITE, READY, WRITE])
        assert [outcome.status for outcome in outcomes] == [0x00, 0x18, 0x00, 0x18]
        assert events == [(1, lanes.EVENT_CONFLICT, 0, 0), (3, lanes.EVENT_CONFLICT, 0, 0)]
        guest, told = guest_on(device, store)
        assert [result.status for result in guest.execute_batch([WRITE, READ])] == [0x18, 0x00]
        assert [(event.kind, event.opcode) for event in told] == [(EventKind.CONFLICT, 0x2A)]


def test_preempted_guest_is_told_once_and_tracked(lio, node, store):
    holder, other = lio(2).nexuses
    assert holder.direct.persistent_reserve_out(0, sa_key=0xA1).good
    with SgDevice.open(getattr(other, node)) as device:
        guest, told = guest_on(device, store)
        assert guest.execute(replace(REGISTER, data_out=struct.pack(">QQ8x", 0, 0xB2))).good
        guest.resync()
        assert guest.state.fresh
        assert guest.state.key == 0xB2
        assert holder.direct.persistent_reserve_out(1, key=0xA1, type_=5).good
        assert holder.direct.persistent_reserve_out(4, key=0xA1, sa_key=0xB2, type_=5).good
        results = guest.execute_batch([READ] * 8)
        attentions = [result.decoded_sense.code for result in results if result.status == 0x02]
        assert attentions == [(0x06, 0x2A, 0x05)]
        kinds = [(event.kind, event.asc, event.ascq) for event in told if event.kind is not EventKind.CONFLICT]
        assert kinds == [(EventKind.UNIT_ATTENTION, 0x2A, 0x05)]
        assert "unit-attention-2a-05" in guest.state.suspect
        assert not guest.resync().registered


def test_spc2_reservation_is_followed(lio, node, store):
    unit = lio(2)
    nexus = unit.nexuses[0]
    with SgDevice.open(getattr(nexus, node)) as device:
        guest, told = guest_on(device, store)
        assert [result.status for result in guest.execute_batch([RESERVE_6, READY])] == [0, 0]
        assert unit.spc2_holder == nexus.initiator
        assert guest.state.spc2_reserved
        assert unit.nexuses[1].direct.read().status == 0x18
        assert [result.status for result in guest.execute_batch([READY, RELEASE_6])] == [0, 0]
        assert unit.spc2_holder is None
        assert not guest.state.spc2_reserved
    assert [event.kind for event in told] == [EventKind.SPC2_RESERVED, EventKind.SPC2_RELEASED]


def test_attention_of_scsi_debug_is_reported(scsi_debug, node, store):
    (nodes,) = scsi_debug(dev_size_mb=64, delay=0)
    with SgDevice.open(getattr(nodes, node)) as device:
        drain(nodes)
        scsi_debug_module.set_parameter("virtual_gb", 1)
        outcomes, events = device.execute_lanes([READY] * 8)
        # CAPACITY DATA HAS CHANGED; scsi_debug may report it to several commands that it executes at once.
        hit = [index for index, outcome in enumerate(outcomes) if outcome.status == 0x02]
        assert hit
        assert events == [(index, lanes.EVENT_UNIT_ATTENTION, 0x2A, 0x09) for index in hit]
        scsi_debug_module.set_parameter("virtual_gb", 2)
        guest, told = guest_on(device, store)
        statuses = [result.status for result in guest.execute_batch([READ] * 8)]
    hits = statuses.count(0x02)
    assert hits
    assert [(event.kind, event.asc, event.ascq) for event in told] == [(EventKind.UNIT_ATTENTION, 0x2A, 0x09)] * hits


@pytest.mark.parametrize("migrate_pr", [True, False])
@pytest.mark.parametrize("target", ["lio", "scsi_debug"])
def test_mixed_batch_ends_alike_on_both_paths(request, target, node, store, migrate_pr):
    if target == "lio":
        nodes = request.getfixturevalue("lio")(2).nexuses[0].nodes
    else:
        (nodes,) = request.getfixturevalue("scsi_debug")(dev_size_mb=64, delay=0)
        drain(nodes)
    blocks = os.urandom(512 * 24)
    writes = [Command(write_cdb(lba, 1), data_out=blocks[512 * lba : 512 * (lba + 1)]) for lba in range(24)]

    def mixed(buffers):
        """64 commands: data both ways, every lane, errors of the target's and of the policy's."""
        batch = writes + [Command(read_cdb(64 + lba, 1), data_in=[buffers[lba]]) for lba in range(24)]
        batch += [READ, INQUIRY, Command(INQUIRY.cdb[:4] + b"\xff\0", data_in=255), SUPPORTED_OPCODES]
        batch += [Command(read_cdb(0x00FFFFFF, 1), data_in=512), FORMAT_UNIT, Command(b"\x28\0", data_in=512)]
        batch += [REGISTER, READ_KEYS, replace(REGISTER, data_out=struct.pack(">QQ8x", 0xA1, 0))]
        batch += [READY] * 4 + [RESERVE_6, RELEASE_6]
        assert len(batch) == 64
        return batch

    shown = []
    # One command at a time: a target may execute RELEASE before the RESERVE that was submitted with it.
    with SgDevice.open(getattr(nodes, node), threads=1, slots=1) as opened:
        for lba, each in enumerate(writes):
            assert opened.execute(replace(each, cdb=write_cdb(64 + lba, 1))).good
        for name, device in (("lanes", opened), ("generic", WithoutLanes(opened))):
            guest, told = guest_on(device, store, name, migrate_pr=migrate_pr)
            buffers = [bytearray(512) for _ in range(24)]
            batch = mixed(buffers)
            results = [replace(result, duration_ms=0) for result in guest.execute_batch(batch)]
            assert b"".join(buffers) == blocks
            # Behind PRGENERATION, which counts the registrations of both.
            keys = batch.index(READ_KEYS)
            results[keys] = replace(results[keys], data=results[keys].data[4:])
            shown.append((results, told, guest.state))
    assert shown[0][:2] == shown[1][:2]
    assert shown[0][2].suspect == shown[1][2].suspect
    statuses = [result.status for result in shown[0][0]]
    assert statuses[:50] == [0] * 50
    assert statuses[52:55] == [0x02] * 3
    if target == "lio":
        assert statuses[55:] == [0] * 9
        assert [event.kind for event in shown[0][1]] == [EventKind.SPC2_RESERVED, EventKind.SPC2_RELEASED]

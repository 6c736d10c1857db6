"""A guest's commands through virtqueues to real devices: data, sense, unit attentions, reservations of others."""

import os
from pathlib import Path

import pytest

from _fastpath import lanes
from _fastpath.sg_port import SgPort
from pyproxy.policy import verdicts
from tests.unit.plane.scene import (
    BAD_TARGET,
    CHECK,
    CONFLICT,
    GOOD,
    NEXT,
    OK,
    TEST_UNIT_READY,
    WRITE,
    RawRing,
    Scene,
    descriptor,
    header,
    read_10,
    until,
    write_10,
)
from tests.vm.guest.sg_support import debug_disk, drain, medium_by_sg_dd  # noqa: F401 (a fixture)

KEY = bytes.fromhex("00000000 00c0ffee")


@pytest.fixture(params=["scsi_debug", "lio"])
def nodes(request):
    if request.param == "lio":
        return request.getfixturevalue("lio")(2).nexuses[0].nodes
    return request.getfixturevalue("debug_disk")


@pytest.fixture(params=["sg", "sd"])
def scene(request, nodes):
    descriptor = os.open(getattr(nodes, request.param), os.O_RDWR | os.O_NONBLOCK)
    port = SgPort(descriptor, 4, label=str(nodes.sg))
    os.close(descriptor)
    drain(nodes)
    with Scene(attach=False, poll_us=20) as made:
        made.controller.attach(0, 0, port, verdicts=verdicts())
        yield made
    port.close()


def test_data_written_by_a_guest_are_what_others_read(scene, nodes, tmp_path):
    data = os.urandom(65536)
    assert scene.execute(write_10(64, 128), data_out=data)[:2] == (OK, GOOD)
    assert medium_by_sg_dd(nodes, 64, 128, tmp_path) == data
    assert scene.execute(read_10(64, 128), data_in=65536) == (OK, GOOD, b"", data, 0)


def test_many_commands_at_once(scene):
    span = 16384
    scene.queue.run(span // 8, depth=64, opcode=0x2A, blocks=8, span=span, sequential=True, verify=True)
    scene.queue.run(4000, depth=64, opcode=0x28, blocks=8, span=span, verify=True)
    assert scene.controller.counts()["port"] == span // 8 + 4000
    assert scene.controller.counts()["python"] == 0


def test_data_in_many_small_pieces(scene):
    """Pieces that no host adapter takes as they are, at odd addresses: the guest cannot tell."""
    scene.controller.stop_queue(2)
    scene.controller.start_queue(2, **scene.queue.start_arguments())
    ring = RawRing(scene)
    data = os.urandom(4096)
    ring.put(ring.scratch, header(write_10(32, 8)) + data)
    pieces = [51, *(20 + 37 * (n % 3) for n in range(200))]
    chain, at = [], ring.scratch
    left = 51 + 4096
    for wanted in pieces:
        length = min(wanted, left)
        if length == 0:
            break
        chain.append((at, length, 0))
        at += length
        left -= length
    chain.append((ring.scratch + 0x4001, 108, WRITE))
    table = b"".join(
        descriptor(address, length, flags | (NEXT if n + 1 < len(chain) else 0), n + 1)
        for n, (address, length, flags) in enumerate(chain)
    )
    ring.put(ring.scratch + 0x6000, table)
    ring.table(0, descriptor(ring.scratch + 0x6000, len(table), 4))
    ring.offer(0)
    assert ring.next_used() == (0, 108)
    assert ring.get(ring.scratch + 0x4001, 12) == bytes(12)
    ring.put(ring.scratch, header(read_10(32, 8)))
    ring.table(0, descriptor(ring.scratch, 51, NEXT, 1), descriptor(ring.scratch + 0x8003, 108 + 4096, WRITE))
    ring.offer(0)
    assert ring.next_used() == (0, 108 + 4096)
    assert ring.get(ring.scratch + 0x8003 + 108, 4096) == data


def test_sense_comes_back_as_the_device_gave_it(scene):
    response, status, sense, _, _ = scene.execute(read_10(0xFFFFFFF0, 8), data_in=4096)
    assert (response, status) == (OK, CHECK)
    assert sense[2] & 0xF == 5
    assert sense[12:14] == b"\x21\x00"


def test_a_reservation_of_another_nexus_is_a_conflict_and_an_event(lio):
    unit = lio(2)
    own, other = (nexus.nodes for nexus in unit.nexuses[:2])
    for nodes in (own, other):
        drain(nodes)
    handle = os.open(own.sd, os.O_RDWR | os.O_NONBLOCK)
    port = SgPort(handle, 2)
    os.close(handle)
    with Scene(attach=False) as scene, Scene(attach=False) as holder:
        far = os.open(other.sg, os.O_RDWR | os.O_NONBLOCK)
        second = SgPort(far, 1)
        os.close(far)
        scene.controller.attach(0, 0, port, verdicts=verdicts())
        everything = verdicts(rawio=True)
        for opcode in (0x5E, 0x5F):
            everything.straight(opcode)
        holder.controller.attach(0, 0, second, verdicts=everything)
        assert holder.execute(bytes.fromhex("5f060000000000001800"), data_out=bytes(8) + KEY + bytes(8))[:2] == (0, 0)
        assert holder.execute(bytes.fromhex("5f010100000000001800"), data_out=KEY + bytes(16))[:2] == (0, 0)
        assert scene.execute(read_10(0, 1), data_in=512)[:2] == (OK, GOOD)
        assert scene.execute(write_10(0, 1), data_out=bytes(512))[:3] == (OK, CONFLICT, b"")
        until(lambda: bool(scene.handler.events), "the conflict is told")
        assert scene.handler.events[0][3] == lanes.EVENT_CONFLICT
        assert holder.execute(bytes.fromhex("5f030000000000001800"), data_out=KEY + bytes(16))[:2] == (0, 0)
    port.close()
    second.close()


def test_a_deleted_device_is_a_bad_target(scsi_debug):
    (nodes,) = scsi_debug(dev_size_mb=8, delay=0)
    drain(nodes)
    handle = os.open(nodes.sg, os.O_RDWR | os.O_NONBLOCK)
    port = SgPort(handle, 2)
    os.close(handle)
    with Scene(attach=False) as scene:
        scene.controller.attach(0, 0, port, verdicts=verdicts())
        assert scene.execute(TEST_UNIT_READY)[:2] == (OK, GOOD)
        (Path("/sys/bus/scsi/devices") / nodes.address / "delete").write_text("1")
        assert scene.execute(TEST_UNIT_READY)[0] == BAD_TARGET
    port.close()

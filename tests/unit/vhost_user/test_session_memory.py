"""The session's tables of memory, dirty log and inflight region, and what resets undo."""

from __future__ import annotations

import pytest

from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.message import (
    InflightArea,
    LogArea,
    MemoryRegion,
    Request,
    VringDescriptor,
    VringState,
)
from pyproxy.frontend.vhost_user.session import CloseReason
from pyproxy.frontend.vhost_user.state import RingPhase
from pyproxy.frontend.vhost_user.transitions import inflight_size
from tests.unit.vhost_user.talk import (
    DONE,
    FAILED,
    FEATURES,
    LOG_ALL,
    RAM,
    address_of,
    talk,
)

# --- memory ---


def test_memory_slots():
    second = MemoryRegion(1 << 32, 0x20_0000, 1 << 46, 0x1000)
    with talk() as front:
        front.negotiate()
        front.says(Request.ADD_MEM_REG, wire.encode_single_region(RAM), 1)
        front.says(Request.ADD_MEM_REG, wire.encode_single_region(second), 1)
        assert front.controller.memory.regions == [
            (0, 0x1000_0000, 0x7F00_0000_0000, 0),
            (1 << 32, 0x20_0000, 1 << 46, 0x1000),
        ]
        front.start(2)
        # One stray descriptor with the removal is tolerated, as libvhost-user does.
        front.says(Request.REM_MEM_REG, wire.encode_single_region(second), 1)
        assert front.controller.memory.regions == [(0, 0x1000_0000, 0x7F00_0000_0000, 0)]
        assert front.say(Request.REM_MEM_REG, wire.encode_single_region(second), ack=True).reply.payload == FAILED
        assert front.say(Request.REM_MEM_REG, wire.encode_single_region(RAM), ack=True).reply.payload == FAILED
        front.says(Request.GET_VRING_BASE, VringState(2, 0).encode())
        front.says(Request.REM_MEM_REG, wire.encode_single_region(RAM))
        assert front.controller.memory is None


def test_a_new_table_replaces_the_old_one():
    other = MemoryRegion(0, 0x2000_0000, 0x7E00_0000_0000, 0)
    with talk() as front:
        front.running()
        front.says(Request.SET_MEM_TABLE, wire.encode_memory_table([other]), 1)
        assert front.controller.memory.regions == [(0, 0x2000_0000, 0x7E00_0000_0000, 0)]


@pytest.mark.parametrize(
    "regions",
    [
        [],
        [RAM, RAM],
        [MemoryRegion(0, 0, 0, 0)],
        [MemoryRegion((1 << 64) - 1, 2, 0, 0)],
        [MemoryRegion(0, 0x2000, 0, 0), MemoryRegion(0x1000, 0x2000, 0x10000, 0)],
    ],
)
def test_tables_that_are_refused(regions):
    with talk() as front:
        front.running()
        before = front.controller.memory
        step = front.say(Request.SET_MEM_TABLE, wire.encode_memory_table(regions), len(regions), ack=True)
        assert step.reply.payload == FAILED
        assert front.controller.memory is before


# --- log, inflight, reset ---


def test_the_log_as_qemu_begins_and_ends_it():
    with talk() as front:
        front.running()
        assert front.says(Request.SET_LOG_BASE, LogArea(8192, 0).encode(), 1) == DONE
        assert front.controller.log.size == 8192
        step = front.say(Request.SET_FEATURES, wire.encode_u64(FEATURES | LOG_ALL), ack=True)
        assert step.reply.payload == DONE
        step = front.say(Request.SET_VRING_ADDR, address_of(2, log=0x122000).encode(), ack=True)
        assert step.reply.payload == DONE
        assert front.controller.names()[-3:] == ["set_log", "set_features", "set_used_log"]
        assert front.says(Request.SET_LOG_BASE, LogArea(12288, 0).encode(), 1) == DONE
        front.says(Request.SET_FEATURES, wire.encode_u64(FEATURES))
        front.says(Request.SET_VRING_ADDR, address_of(2).encode())
        assert front.controller.calls[-1] == ("set_used_log", 2, None)


def test_a_ring_started_with_logging_on():
    with talk() as front:
        front.negotiate(FEATURES | LOG_ALL)
        front.share()
        front.says(Request.SET_VRING_NUM, VringState(2, 128).encode())
        front.says(Request.SET_VRING_ADDR, address_of(2, log=0x122000).encode())
        front.kick(2)
        assert front.controller.calls[-1][2]["used_log_address"] == 0x122000


@pytest.mark.parametrize("size", [0, (1 << 31) + 1, (1 << 64) - 1])
def test_log_sizes(size):
    with talk() as front:
        front.negotiate()
        step = front.say(Request.SET_LOG_BASE, LogArea(size, 0).encode(), 1, ack=True)
        assert step.close.reason is CloseReason.REFUSED


@pytest.mark.parametrize(
    ("queues", "queue_size", "expected"), [(3, 128, 0x18C0), (4, 128, 0x2100), (1, 1, 64), (2, 3, 128)]
)
def test_inflight_sizes(queues, queue_size, expected):
    """Seen from QEMU with libvhost-user: 3 and 4 rings of 128; each ring's part is a multiple of 64 bytes."""
    assert inflight_size(queues, queue_size) == expected


def test_the_inflight_region():
    with talk() as front:
        front.negotiate()
        answer = front.says(Request.GET_INFLIGHT_FD, InflightArea(0, 0, 4, 128).encode())
        assert InflightArea.decode(answer) == InflightArea(0x2100, 0, 4, 128)
        front.says(Request.SET_INFLIGHT_FD, answer, 1)
        assert front.controller.calls[-1] == ("set_inflight", 0, 0x2100, 4, 128)
        for wrong in (
            InflightArea(0x2100 - 1, 0, 4, 128),
            InflightArea(1 << 40, 0, 5, 128),
            InflightArea(1 << 40, 0, 0, 128),
            InflightArea(1 << 40, 0, 4, 0),
            InflightArea(1 << 40, 0, 4, 1025),
        ):
            step = front.say(Request.SET_INFLIGHT_FD, wrong.encode(), 1, ack=True)
            assert step.reply.payload == FAILED
        front.says(Request.RESET_DEVICE)
        assert front.controller.names()[-1] == "drop_inflight"
        front.says(Request.RESET_DEVICE)
        assert front.controller.names().count("drop_inflight") == 1
        front.says(Request.SET_INFLIGHT_FD, answer, 1)
        front.end()
        assert front.controller.names()[-1] == "drop_inflight"


def test_reset_stops_and_disables_and_keeps_the_rest():
    with talk() as front:
        front.running()
        front.says(Request.SET_VRING_CALL, VringDescriptor(1, True).encode(), 1)
        front.kick(3)
        front.says(Request.RESET_DEVICE)
        assert front.controller.names()[-2:] == ["stop_queue", "set_enabled"]
        assert front.controller.memory is not None
        rings = front.session.state.rings
        assert {ring.phase for ring in rings} == {RingPhase.STOPPED}
        assert not any(ring.enabled for ring in rings)
        assert rings[1].call >= 0
        assert rings[2].base == 0
        assert rings[3].kick == -1


def test_reset_owner_disables_rings():
    with talk() as front:
        front.running()
        front.says(Request.RESET_OWNER)
        assert front.controller.calls[-1] == ("set_enabled", 2, False)
        assert list(front.controller.started) == [2]

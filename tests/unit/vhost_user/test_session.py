"""The session as a table: every request in every phase, what is acknowledged, what ends it."""

from __future__ import annotations

import pytest

from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.message import (
    LogArea,
    MemoryRegion,
    Request,
    VringAddress,
    VringDescriptor,
    VringState,
)
from pyproxy.frontend.vhost_user.session import CloseReason, Session
from pyproxy.frontend.vhost_user.state import RingPhase
from pyproxy.frontend.vhost_user.transitions import ANSWERED, RINGS, RULES
from tests.unit.vhost_user.talk import (
    DONE,
    EXAMPLES,
    FAILED,
    FEATURES,
    LOG_ALL,
    OFFERED_PROTOCOL,
    RAM,
    Talk,
    address_of,
    talk,
)

QEMU_REALIZE = [
    (1, "", 0, "02 00 00 7c 01 00 00 00"),
    (15, "", 0, "0b b0 00 00 00 00 00 00"),
    (16, "0bb0000000000000", 0, None),
    (17, "", 0, "04 00 00 00 00 00 00 00"),
    (36, "", 0, "00 02 00 00 00 00 00 00"),
    (3, "", 0, None),
    (1, "", 0, "02 00 00 7c 01 00 00 00"),
    (13, "0000000000000000", 1, None),
    (14, "0000000000000000", 1, None),
    (13, "0100000000000000", 1, None),
    (14, "0100000000000000", 1, None),
    (13, "0200000000000000", 1, None),
    (14, "0200000000000000", 1, None),
    (13, "0300000000000000", 1, None),
    (14, "0300000000000000", 1, None),
    (34, "", 0, None),
    (34, "", 0, None),
]
"""QEMU 7.2 with vhost-user-scsi-pci,num_queues=2, as it was recorded: request, payload, descriptors, answer."""

QEMU_START = [
    (
        31,
        "000000000000000000000000000000000400800000000000",
        0,
        "00210000 00000000 00000000 00000000 0400 8000 00000000",
    ),
    (32, "002100000000000000000000000000000400800000000000", 1, None),
    (2, "0000004001000000", 0, None),
    (37, "00000000000000000000000000000000000000100000000000f0ff53757f00000000000000000000", 1, None),
    (8, "0200000080000000", 0, None),
    (10, "0200000000000000", 0, None),
    (9, "020000000000000000c0fd63757f000000d0fd63757f000000c8fd63757f000000e0fd0f00000000", 0, None),
    (12, "0200000000000000", 1, None),
    (18, "0000000001000000", 0, None),
    (18, "0100000001000000", 0, None),
    (18, "0200000001000000", 0, None),
    (18, "0300000001000000", 0, None),
    (13, "0000000000000000", 1, None),
    (13, "0100000000000000", 1, None),
    (13, "0200000000000000", 1, None),
    (13, "0300000000000000", 1, None),
]
"""SeaBIOS sets up ring 2 alone; the others are enabled and given a call descriptor all the same."""

QEMU_STOP = [
    (18, "0000000000000000", 0, None),
    (18, "0100000000000000", 0, None),
    (18, "0200000000000000", 0, None),
    (18, "0300000000000000", 0, None),
    (11, "0200000000000000", 0, "02 00 00 00 2a 00 00 00"),
]


def play(front: Talk, recording) -> None:
    for request, payload, descriptors, answer in recording:
        got = front.says(request, bytes.fromhex(payload), descriptors)
        assert got == (None if answer is None else bytes.fromhex(answer)), Request(request).name


def test_what_qemu_says():
    with talk() as front:
        play(front, QEMU_REALIZE)
        assert front.controller.calls == []
        play(front, QEMU_START)
        assert front.controller.names() == [
            "get_inflight",
            "set_inflight",
            "set_features",
            "set_memory",
            "start_queue",
            *["set_enabled"] * 4,
            "set_call",
        ]
        assert front.controller.calls[-1] == ("set_call", 2, True)
        front.controller.base = 42
        play(front, QEMU_STOP)
        assert front.controller.started == {}
        # The second start: memory is not sent again, as it is unchanged.
        front.controller.calls.clear()
        play(front, [said for said in QEMU_START if said[0] != Request.ADD_MEM_REG])
        assert front.controller.names()[3] == "start_queue"
        play(front, QEMU_STOP)


def test_the_ring_starts_as_it_was_set_up():
    with talk() as front:
        front.negotiate()
        front.share()
        front.says(Request.SET_VRING_CALL, VringDescriptor(2, True).encode(), 1)
        front.says(Request.SET_VRING_ERR, VringDescriptor(2, True).encode(), 1)
        front.start(2)
        assert front.controller.calls[-1] == (
            "start_queue",
            2,
            {
                "size": 128,
                "descriptor_address": 0x7F0000120000,
                "available_address": 0x7F0000121000,
                "used_address": 0x7F0000122000,
                "used_log_address": None,
                "base": 7,
            },
            ("kick", "call", "error"),
        )


def test_every_order_of_setting_up_starts_the_ring_once():
    """A kick that comes first waits for the rest."""
    steps = {
        "kick": lambda front: front.kick(2),
        "size": lambda front: front.says(Request.SET_VRING_NUM, VringState(2, 128).encode()),
        "address": lambda front: front.says(Request.SET_VRING_ADDR, address_of(2).encode()),
        "memory": lambda front: front.share(),
        "features": lambda front: front.says(Request.SET_FEATURES, wire.encode_u64(FEATURES)),
    }
    names = list(steps)
    for first in range(len(names)):
        order = names[first:] + names[:first]
        for turned in (order, order[::-1]):
            with talk() as front:
                for name in turned[:-1]:
                    steps[name](front)
                    assert "start_queue" not in front.controller.names(), turned
                steps[turned[-1]](front)
                assert front.controller.names().count("start_queue") == 1


def test_enabled_and_started_are_independent():
    with talk() as front:
        front.negotiate()
        front.share()
        front.says(Request.SET_VRING_ENABLE, VringState(2, 1).encode())
        front.start(2)
        assert front.controller.names()[-2:] == ["set_enabled", "start_queue"]
        front.says(Request.SET_VRING_ENABLE, VringState(2, 0).encode())
        assert front.controller.calls[-1] == ("set_enabled", 2, False)
        front.says(Request.SET_VRING_ENABLE, VringState(2, 0).encode())
        assert front.controller.names().count("set_enabled") == 2
        front.says(Request.GET_VRING_BASE, VringState(2, 0).encode())
        front.start(2)
        assert front.controller.calls[-1][0] == "start_queue"


def test_without_protocol_features_rings_are_enabled_at_once():
    with talk() as front:
        front.says(Request.SET_FEATURES, wire.encode_u64(1 << 32))
        assert front.controller.calls == [("set_features", 1 << 32), *[("set_enabled", n, True) for n in range(4)]]
        step = front.say(Request.SET_VRING_ENABLE, VringState(2, 1).encode())
        assert step.close.reason is CloseReason.REFUSED


def test_get_vring_base_answers_where_the_data_plane_stopped():
    with talk() as front:
        front.running()
        front.controller.base = 0x1234
        assert front.says(Request.GET_VRING_BASE, VringState(2, 99).encode()) == bytes.fromhex("02000000 34120000")
        assert front.controller.names()[-1] == "stop_queue"
        # It is stopped: asked again it is where it was, and starts again from there with a new kick alone.
        assert front.says(Request.GET_VRING_BASE, VringState(2, 0).encode()) == bytes.fromhex("02000000 34120000")
        assert front.controller.names().count("stop_queue") == 1
        front.kick(2)
        assert front.controller.calls[-1][2]["base"] == 0x1234
        # Kick and call are gone with the stop, the error descriptor is not.
        assert front.controller.calls[-1][3] == ("kick",)


def test_the_error_descriptor_survives_a_stop():
    with talk() as front:
        front.says(Request.SET_VRING_ERR, VringDescriptor(2, True).encode(), 1)
        front.running()
        front.says(Request.GET_VRING_BASE, VringState(2, 0).encode())
        front.kick(2)
        assert front.controller.calls[-1][3] == ("kick", "error")


def test_get_vring_base_of_a_ring_that_never_started():
    with talk() as front:
        front.negotiate()
        assert front.says(Request.GET_VRING_BASE, VringState(3, 0).encode()) == bytes.fromhex("03000000 00000000")
        front.kick(3)
        front.says(Request.SET_VRING_BASE, VringState(3, 5).encode())
        assert front.says(Request.GET_VRING_BASE, VringState(3, 0).encode()) == bytes.fromhex("03000000 05000000")
        front.configure(3)
        front.share()
        assert "start_queue" not in front.controller.names()


EXPECTED = {
    Request.SET_VRING_NUM: ("yes", "yes", "no"),
    Request.SET_VRING_BASE: ("yes", "yes", "no"),
    Request.SET_VRING_ADDR: ("yes", "yes", "yes"),
    Request.SET_VRING_KICK: ("yes", "yes", "no"),
    Request.SET_VRING_CALL: ("yes", "yes", "yes"),
    Request.SET_VRING_ERR: ("yes", "yes", "yes"),
    Request.SET_VRING_ENABLE: ("yes", "yes", "yes"),
    Request.GET_VRING_BASE: ("yes", "yes", "yes"),
    Request.SET_FEATURES: ("yes", "yes", "yes"),
    Request.SET_MEM_TABLE: ("yes", "yes", "yes"),
    Request.ADD_MEM_REG: ("yes", "yes", "yes"),
    Request.REM_MEM_REG: ("no", "no", "no"),
    Request.SET_INFLIGHT_FD: ("yes", "yes", "no"),
    Request.GET_INFLIGHT_FD: ("yes", "yes", "no"),
}
"""Stopped, waiting, started. What is not here is possible in each. (REM_MEM_REG names memory that was not shared.)"""


@pytest.mark.parametrize("request_", list(EXAMPLES))
@pytest.mark.parametrize("phase", list(RingPhase))
def test_every_request_in_every_phase(request_, phase):
    payload, descriptors = EXAMPLES[request_]
    with talk() as front:
        front.negotiate()
        if phase is RingPhase.STARTED:
            front.share()
        if phase is not RingPhase.STOPPED:
            front.start(2)
        if request_ is Request.REM_MEM_REG:
            payload = wire.encode_single_region(MemoryRegion(1 << 40, 0x1000, 1 << 41, 0))
        assert front.session.state.rings[2].phase is phase
        before = front.session.state
        step = front.say(request_, payload, descriptors, ack=True)
        granted = EXPECTED.get(request_, ("yes",) * 3)[list(RingPhase).index(phase)]
        if granted == "yes":
            assert step.close is None
            if request_ not in ANSWERED:
                assert step.reply.payload == DONE
        elif request_ in ANSWERED:
            assert step.close.reason is CloseReason.REFUSED
        else:
            assert step.reply.payload == FAILED
            assert front.session.state == before


def test_the_tables_are_whole():
    assert set(EXAMPLES) == set(RULES)
    for request in RINGS:
        assert set(RINGS[request]) == set(RingPhase)
    assert {request for request in RULES if request.name.startswith("SET_VRING") or "BASE" in request.name} - {
        Request.SET_LOG_BASE
    } == set(RINGS)
    # Need "M" and "S" of the reference are served, nothing else is.
    assert {int(request) for request in RULES} == {*range(1, 19), 31, 32, 34, 36, 37, 38}


# --- acknowledgements ---


def test_nothing_is_acknowledged_unless_negotiated_and_asked_for():
    with talk() as front:
        assert front.say(Request.SET_OWNER, ack=True).reply is None
        front.negotiate()
        assert front.say(Request.SET_OWNER).reply is None
        assert front.say(Request.SET_OWNER, ack=True).reply.payload == DONE


def test_protocol_features_are_acknowledged_once_they_are_in_force():
    with talk() as front:
        step = front.say(Request.SET_PROTOCOL_FEATURES, wire.encode_u64(OFFERED_PROTOCOL), ack=True)
        assert step.reply.payload == DONE


def test_own_answers_are_no_acknowledgements():
    with talk() as front:
        front.negotiate()
        step = front.say(Request.GET_VRING_BASE, VringState(1, 0).encode(), ack=True)
        assert step.reply.payload == VringState(1, 0).encode()
        step = front.say(Request.SET_LOG_BASE, LogArea(8192, 0).encode(), 1, ack=False)
        assert step.reply.payload == DONE


def test_what_fails_is_told_where_the_front_end_listens():
    with talk() as front:
        front.negotiate()
        front.controller.fail["map_memory"] = OSError(12, "Cannot allocate memory")
        payload = wire.encode_memory_table([RAM])
        step = front.say(Request.SET_MEM_TABLE, payload, 1, ack=True)
        assert step.reply.payload == FAILED
        assert "Cannot allocate memory" in step.ignored
        assert not front.session.state.memory.regions
        step = front.say(Request.SET_MEM_TABLE, payload, 1)
        assert step.close.reason is CloseReason.FAILED
        assert step.close.sentence == "SET_MEM_TABLE: [Errno 12] Cannot allocate memory"


@pytest.mark.parametrize(
    ("request_", "failing", "needs"),
    [
        (Request.SET_FEATURES, "set_features", False),
        (Request.SET_MEM_TABLE, "map_memory", False),
        (Request.ADD_MEM_REG, "map_memory", False),
        (Request.SET_LOG_BASE, "set_log", True),
        (Request.GET_INFLIGHT_FD, "get_inflight", True),
        (Request.SET_INFLIGHT_FD, "set_inflight", False),
        (Request.SET_VRING_ENABLE, "set_enabled", False),
    ],
)
def test_a_failing_data_plane(request_, failing, needs):
    """The session stays as it was; where the request has an answer of its own there is no way to say no."""
    with talk() as front:
        front.negotiate()
        before = front.session.state
        front.controller.fail[failing] = ValueError("not like that")
        payload, descriptors = EXAMPLES[request_]
        step = front.say(request_, payload, descriptors, ack=True)
        assert front.session.state == before
        if needs:
            assert step.close.reason is CloseReason.FAILED
        else:
            assert step.reply.payload == FAILED
        front.controller.fail.clear()


@pytest.mark.parametrize("failing", ["set_call", "set_used_log"])
def test_a_failing_swap(failing):
    with talk() as front:
        front.running()
        front.controller.fail[failing] = ValueError("not like that")
        if failing == "set_call":
            step = front.say(Request.SET_VRING_CALL, VringDescriptor(2, True).encode(), 1, ack=True)
        else:
            step = front.say(Request.SET_VRING_ADDR, address_of(2, log=0x1000).encode(), ack=True)
        assert step.reply.payload == FAILED
        assert front.session.state.rings[2].used_log is None


def test_a_ring_that_cannot_be_started_ends_the_session():
    with talk() as front:
        front.negotiate()
        front.share()
        front.says(Request.SET_VRING_CALL, VringDescriptor(2, True).encode(), 1)
        front.configure(2)
        front.controller.fail["start_queue"] = ValueError("the used ring is not in memory")
        step = front.say(Request.SET_VRING_KICK, VringDescriptor(2, True).encode(), 1, ack=True)
        assert step.close.sentence == "SET_VRING_KICK: the used ring is not in memory"


def test_half_of_a_change_ends_the_session_and_is_undone():
    with talk() as front:
        front.negotiate()
        for index in (2, 3):
            front.says(Request.SET_VRING_CALL, VringDescriptor(index, True).encode(), 1)
            front.configure(index)
            front.kick(index)
        real = front.controller.start_queue

        def start(index: int, **ring) -> None:
            if index == 3:
                raise ValueError("no")
            real(index, **ring)

        front.controller.start_queue = start
        step = front.say(Request.SET_MEM_TABLE, wire.encode_memory_table([RAM]), 1, ack=True)
        assert step.close.reason is CloseReason.FAILED
        assert list(front.controller.started) == [2]
        # ``talk`` sees to it that ring 2 is stopped, memory dropped and every descriptor closed.


def test_memory_without_a_running_ring_ends_the_session():
    """The data plane uses the new memory already and has broken the ring."""
    with talk() as front:
        front.running()
        front.controller.fail["set_memory"] = ValueError("ring 2 is not in the new memory")
        step = front.say(Request.SET_MEM_TABLE, wire.encode_memory_table([RAM]), 1, ack=True)
        assert step.close.sentence == "SET_MEM_TABLE: ring 2 is not in the new memory"
        front.controller.fail.clear()


def test_half_of_a_reset():
    with talk() as front:
        front.running()
        front.controller.fail["set_enabled"] = ValueError("no")
        step = front.say(Request.RESET_DEVICE, ack=True)
        assert step.close.reason is CloseReason.FAILED
        front.controller.fail.clear()


# --- what is refused, what is a violation ---


@pytest.mark.parametrize("bit", [33, 34, 35, 38, 40])
def test_features_that_change_the_rings_are_refused(bit):
    with talk() as front:
        step = front.say(Request.SET_FEATURES, wire.encode_u64(FEATURES | 1 << bit))
        assert step.close.reason is CloseReason.REFUSED
        assert f"{1 << bit:#x}" in step.close.sentence


@pytest.mark.parametrize("features", [0x5_4000_000C & ~(1 << 34), 0x1_7000_0006, 0x1_4000_0004, 1 << 30 | 1 << 24])
def test_features_that_were_not_offered_and_change_nothing_are_tolerated(features):
    """Seen from QEMU and Linux: SCSI_CHANGE and T10_PI are not filtered by what we offer."""
    with talk() as front:
        front.says(Request.SET_FEATURES, wire.encode_u64(features))
        assert front.controller.features == features


def test_features_do_not_change_under_running_rings_but_for_the_log():
    with talk() as front:
        front.running()
        front.says(Request.SET_FEATURES, wire.encode_u64(FEATURES | LOG_ALL))
        front.says(Request.SET_FEATURES, wire.encode_u64(FEATURES))
        step = front.say(Request.SET_FEATURES, wire.encode_u64(FEATURES | 1 << 29), ack=True)
        assert step.reply.payload == FAILED
        assert front.controller.features == FEATURES


@pytest.mark.parametrize("bit", [2, 5, 8, 9, 10, 11, 14, 16, 17, 18, 19, 20, 23, 63])
def test_protocol_features_that_were_not_offered_are_refused(bit):
    with talk() as front:
        step = front.say(Request.SET_PROTOCOL_FEATURES, wire.encode_u64(OFFERED_PROTOCOL | 1 << bit))
        assert step.close.reason is CloseReason.REFUSED


@pytest.mark.parametrize("request_", [6, 17, 31, 32, 34, 36, 37, 38])
def test_requests_of_features_that_were_not_negotiated(request_):
    payload, descriptors = EXAMPLES[Request(request_)]
    with talk() as front:
        step = front.say(request_, payload, descriptors, ack=True)
        assert step.close.reason is CloseReason.NOT_NEGOTIATED


@pytest.mark.parametrize(
    "request_", [0, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 33, 35, *range(39, 48), 1 << 31]
)
def test_requests_that_belong_to_nothing_offered(request_):
    with talk() as front:
        step = front.say(request_, bytes(8), 1, ack=True)
        assert (step.reply, step.close) == (None, None)
        assert step.ignored.endswith("belongs to nothing that was offered")
        front.negotiate()
        assert front.say(request_, bytes(8), 1, ack=True).reply.payload == FAILED
        assert front.say(request_, bytes(8), 1).reply is None


@pytest.mark.parametrize("request_", list(EXAMPLES))
def test_sizes_are_checked(request_):
    payload, descriptors = EXAMPLES[request_]
    for wrong in (payload + b"\0", payload[:-1], bytes(268)):
        if len(wrong) == len(payload):
            continue
        with talk() as front:
            front.negotiate()
            step = front.say(request_, wrong, descriptors, ack=True)
            assert step.close.reason is CloseReason.MALFORMED, wrong


@pytest.mark.parametrize("request_", list(EXAMPLES))
def test_descriptors_are_counted_where_they_matter_and_closed_where_not(request_):
    payload, descriptors = EXAMPLES[request_]
    for wrong in range(4):
        with talk() as front:
            front.negotiate()
            step = front.say(request_, payload, wrong, ack=True)
            if RULES[request_].count is not None and wrong != descriptors:
                assert step.close.reason is CloseReason.DESCRIPTORS
            else:
                assert step.close is None or step.close.reason is CloseReason.REFUSED


def test_descriptors_and_nofd_exclude_each_other():
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        with talk() as front:
            front.says(request, VringDescriptor(1, False).encode())
            step = front.say(request, VringDescriptor(1, False).encode(), 1)
            assert step.close.reason is CloseReason.DESCRIPTORS


def test_a_ring_without_a_kick_descriptor_is_polled():
    with talk() as front:
        front.negotiate()
        front.share()
        front.configure(2)
        front.says(Request.SET_VRING_KICK, VringDescriptor(2, False).encode())
        assert front.controller.calls[-1][3] == ()


@pytest.mark.parametrize("index", [4, 255, 0xFFFF_FFFF])
@pytest.mark.parametrize("request_", list(RINGS))
def test_rings_that_are_not_there(request_, index):
    if request_ in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        payload, descriptors = wire.encode_u64(index & 0xFF), 1
        if index > 0xFF:
            return
    elif request_ is Request.SET_VRING_ADDR:
        payload, descriptors = VringAddress(index, 0, 0, 0, 0, 0).encode(), 0
    else:
        payload, descriptors = VringState(index, 1).encode(), 0
    with talk() as front:
        front.negotiate()
        step = front.say(request_, payload, descriptors)
        assert step.close.reason is CloseReason.REFUSED
        assert f"ring {index}, there are 4" in step.close.sentence


@pytest.mark.parametrize("size", [0, 3, 100, 2048, 0xFFFF_FFFF])
def test_ring_sizes(size):
    with talk() as front:
        step = front.say(Request.SET_VRING_NUM, VringState(2, size).encode())
        assert step.close.reason is CloseReason.REFUSED


def test_ring_indexes_are_16_bits():
    with talk() as front:
        front.says(Request.SET_VRING_BASE, VringState(2, 0xFFFF).encode())
        # What a packed ring would have.
        assert front.say(Request.SET_VRING_BASE, VringState(2, 0x80008000).encode()).close is not None


def test_enabling_is_0_or_1():
    with talk() as front:
        front.negotiate()
        assert front.say(Request.SET_VRING_ENABLE, VringState(2, 2).encode()).close.reason is CloseReason.REFUSED


def test_a_started_ring_does_not_move():
    with talk() as front:
        front.running()
        front.says(Request.SET_VRING_ADDR, address_of(2, log=0x5000).encode())
        assert front.controller.calls[-1] == ("set_used_log", 2, 0x5000)
        front.says(Request.SET_VRING_ADDR, address_of(2).encode())
        assert front.controller.calls[-1] == ("set_used_log", 2, None)
        step = front.say(Request.SET_VRING_ADDR, address_of(2, moved=0x1000).encode(), ack=True)
        assert step.reply.payload == FAILED


# --- the end ---


def test_the_end_undoes_everything_in_order():
    with talk() as front:
        front.running()
        front.says(Request.SET_LOG_BASE, LogArea(8192, 0).encode(), 1)
        front.controller.calls.clear()
        front.end()
        assert front.controller.names() == ["stop_queue", "set_enabled", "set_log", "set_memory"]
        front.controller.calls.clear()
        front.end()
        assert front.controller.calls == []


def test_after_the_end_nothing_is_taken():
    session = Session(3)
    session.stop()
    with pytest.raises(ValueError, match="SET_OWNER while the session waits for something else"):
        session.receive(wire.Message(Request.SET_OWNER))
    with pytest.raises(ValueError, match="no action is outstanding"):
        session.done(None)


@pytest.mark.parametrize("rings", [0, 2, 257])
def test_numbers_of_rings(rings):
    with pytest.raises(ValueError, match="expected 3"):
        Session(rings)


def test_reasons():
    assert {reason for reason in CloseReason if reason.ordinary} == {CloseReason.END_OF_STREAM, CloseReason.STOPPING}

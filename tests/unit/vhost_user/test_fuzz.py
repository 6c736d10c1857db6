"""Any messages in any order, any bytes in any pieces: the session ends or goes on, and no descriptor is lost."""

from __future__ import annotations

import gc
import os
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.controller import Controller
from pyproxy.connected import peer_of
from pyproxy.frontend.complaints import Complaints
from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.connection import Connection
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.message import (
    Header,
    InflightArea,
    LogArea,
    MemoryRegion,
    Message,
    Request,
    VringAddress,
    VringDescriptor,
    VringState,
)
from pyproxy.frontend.vhost_user.transitions import ANSWERED, RULES, inflight_size
from tests.unit.vhost_user.recording_plane import RecordingController
from tests.unit.vhost_user.talk import EXAMPLES, FEATURES, LOG_ALL, OFFERED_PROTOCOL, Talk, open_descriptors

RINGS = 4
FAILING = ("start_queue", "set_memory", "map_memory", "set_log", "set_call", "set_enabled", "set_features")


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_to_collect() -> None:
    """A descriptor that an earlier test left to the collector must not go between two counts."""
    gc.collect()


small = st.integers(0, RINGS) | st.sampled_from([255, 0xFFFF_FFFF])
pages = st.integers(0, 8).map(lambda page: page * 0x1000)
places = pages | st.sampled_from([1 << 63, (1 << 64) - 0x1000])
regions = st.builds(MemoryRegion, places, pages, places, pages)
addresses = st.builds(VringAddress, small, st.integers(0, 3), places, places, places, places)

PAYLOADS = {
    Request.SET_FEATURES: st.sampled_from([0, FEATURES, FEATURES | LOG_ALL, 1 << 32, FEATURES | 1 << 34]).map(
        wire.encode_u64
    ),
    Request.SET_PROTOCOL_FEATURES: st.sampled_from([0, OFFERED_PROTOCOL, 8, OFFERED_PROTOCOL | 1 << 9]).map(
        wire.encode_u64
    ),
    Request.SET_MEM_TABLE: st.lists(regions, max_size=3).map(wire.encode_memory_table),
    Request.ADD_MEM_REG: regions.map(wire.encode_single_region),
    Request.REM_MEM_REG: regions.map(wire.encode_single_region),
    Request.SET_LOG_BASE: st.builds(LogArea, st.sampled_from([0, 4096, 1 << 40]), pages).map(LogArea.encode),
    Request.SET_VRING_NUM: st.builds(VringState, small, st.sampled_from([0, 1, 64, 100, 4096])).map(VringState.encode),
    Request.SET_VRING_BASE: st.builds(VringState, small, st.sampled_from([0, 65535, 65536])).map(VringState.encode),
    Request.GET_VRING_BASE: st.builds(VringState, small, small).map(VringState.encode),
    Request.SET_VRING_ENABLE: st.builds(VringState, small, st.integers(0, 2)).map(VringState.encode),
    Request.SET_VRING_ADDR: addresses.map(VringAddress.encode),
    Request.SET_VRING_KICK: st.builds(VringDescriptor, st.integers(0, 5), st.booleans()).map(VringDescriptor.encode),
    Request.SET_VRING_CALL: st.builds(VringDescriptor, st.integers(0, 5), st.booleans()).map(VringDescriptor.encode),
    Request.SET_VRING_ERR: st.builds(VringDescriptor, st.integers(0, 5), st.booleans()).map(VringDescriptor.encode),
    Request.GET_INFLIGHT_FD: st.builds(InflightArea, pages, pages, st.integers(0, 5), st.integers(0, 200)).map(
        InflightArea.encode
    ),
    Request.SET_INFLIGHT_FD: st.builds(InflightArea, pages, pages, st.integers(0, 5), st.integers(0, 200)).map(
        InflightArea.encode
    ),
}


@st.composite
def saying(draw: st.DrawFn) -> tuple[int, bytes, int, bool]:
    """A request with a payload and descriptors that often fit."""
    request = draw(st.sampled_from(list(EXAMPLES)) | st.integers(0, 50))
    likely, descriptors = EXAMPLES.get(request, (b"", 0))
    payload = draw(st.just(likely) | PAYLOADS.get(request, st.just(likely)) | st.binary(max_size=50))
    count = draw(st.just(descriptors) | st.integers(0, 3))
    return int(request), payload, count, draw(st.booleans())


@settings(max_examples=400, deadline=None)
@given(st.lists(saying(), max_size=40), st.sampled_from([None, *FAILING]), st.integers(0, 30), st.booleans())
def test_any_messages(said, failing, when, negotiated):
    before = open_descriptors()
    front = Talk(RINGS)
    if negotiated:
        front.running()
    for number, (request, payload, descriptors, ack) in enumerate(said):
        front.controller.fail = {failing: ValueError("made to fail")} if failing and number >= when else {}
        state = front.session.state
        step = front.say(request, payload, descriptors, ack=ack)
        if step.close is not None:
            assert step.reply is None
            break
        acknowledges = bool(state.protocol & 8 or front.session.state.protocol & 8)
        if step.reply is not None:
            assert request in ANSWERED or (ack and acknowledges)
        elif ack and state.protocol & 8:
            # Whoever asks gets an answer, or the end.
            assert front.session.state.protocol & 8 == 0
    front.controller.fail = {}
    front.end()
    assert front.controller.started == {}
    assert front.controller.memory is None
    assert front.controller.log is None
    assert not any(front.controller.enabled.values())
    assert open_descriptors() == before


def serve(pieces: list[tuple[bytes, int]]) -> bytes:
    """Send bytes with descriptors to a connection, hang up, and return all it answered."""
    ours, theirs = socket.socketpair()
    controller = RecordingController()
    connection = Connection(theirs, peer_of(theirs), "fuzz", RINGS, controller.plane(), Complaints())
    ours.settimeout(60)
    thread = threading.Thread(target=connection.run)
    thread.start()
    answers = b""
    try:
        for data, count in pieces:
            descriptors = [os.eventfd(0) for _ in range(count)]
            try:
                socket.send_fds(ours, [data], descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        ours.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        while True:
            received, _, _, _ = ours.recvmsg(65536, 1024)
            if not received:
                break
            answers += received
    except ConnectionResetError:
        pass
    thread.join(60)
    assert not thread.is_alive()
    ours.close()
    assert controller.started == {}
    assert controller.memory is None
    return answers


headers = st.builds(
    Header,
    st.sampled_from(list(Request)) | st.integers(0, 2**32 - 1),
    st.sampled_from([1, 9]) | st.integers(0, 2**32 - 1),
    st.integers(0, 48) | st.integers(0, 2**32 - 1),
).map(Header.encode)
whole = saying().map(lambda said: Message(said[0], said[1], (), said[3]).encode())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(whole | headers | st.binary(min_size=1, max_size=60), st.integers(0, 12)), max_size=12))
def test_any_bytes(pieces):
    before = open_descriptors()
    answers = serve(pieces)
    # Answers are whole messages with the flags of one.
    while answers:
        header = Header.decode(answers[:12])
        assert header.flags == 5
        assert len(answers) >= 12 + header.size
        answers = answers[12 + header.size :]
    assert open_descriptors() == before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_good_stream_in_any_pieces(data):
    """The same answers, however the stream is cut."""
    stream = b"".join(
        Message(request, *rest).encode()
        for request, *rest in (
            (Request.GET_FEATURES,),
            (Request.SET_PROTOCOL_FEATURES, wire.encode_u64(OFFERED_PROTOCOL)),
            (Request.SET_FEATURES, wire.encode_u64(FEATURES), (), True),
            (Request.GET_QUEUE_NUM,),
            (Request.GET_VRING_BASE, VringState(1, 0).encode()),
        )
    )
    pieces = []
    while stream:
        size = data.draw(st.integers(1, 20))
        pieces.append((stream[:size], 0))
        stream = stream[size:]
    answers = serve(pieces)
    assert answers.hex() == (
        "01000000050000000800000002 00007c01000000"
        "020000000500000008000000 0000000000000000"
        "110000000500000008000000 0400000000000000"
        "0b0000000500000008000000 0100000000000000"
    ).replace(" ", "")


MEMORY = 1 << 20
USER = 0x7F00_0000_0000
ram = st.builds(
    MemoryRegion, st.sampled_from([0, MEMORY, 1 << 32]), st.just(MEMORY), st.sampled_from([USER, USER * 2]), st.just(0)
)
aligned = st.sampled_from([USER + page * 0x4000 for page in range(16)])
ring_index = st.integers(0, RINGS - 1)
REAL_PAYLOADS = {
    Request.SET_MEM_TABLE: st.lists(ram, min_size=1, max_size=2).map(wire.encode_memory_table),
    Request.ADD_MEM_REG: ram.map(wire.encode_single_region),
    Request.REM_MEM_REG: ram.map(wire.encode_single_region),
    Request.SET_VRING_ADDR: st.builds(
        VringAddress, ring_index, st.integers(0, 1), aligned, aligned, aligned, st.just(0x8000)
    ).map(VringAddress.encode),
    Request.SET_VRING_NUM: st.builds(VringState, ring_index, st.sampled_from([1, 64, 256])).map(VringState.encode),
    Request.SET_VRING_BASE: st.builds(VringState, ring_index, st.sampled_from([0, 65535])).map(VringState.encode),
    Request.GET_VRING_BASE: st.builds(VringState, ring_index, st.just(0)).map(VringState.encode),
    Request.SET_VRING_ENABLE: st.builds(VringState, ring_index, st.integers(0, 1)).map(VringState.encode),
    Request.SET_VRING_KICK: ring_index.map(lambda index: VringDescriptor(index, True).encode()),
    Request.SET_VRING_CALL: st.builds(VringDescriptor, ring_index, st.booleans()).map(VringDescriptor.encode),
    Request.SET_VRING_ERR: st.builds(VringDescriptor, ring_index, st.booleans()).map(VringDescriptor.encode),
    Request.SET_FEATURES: st.sampled_from([FEATURES, FEATURES | LOG_ALL]).map(wire.encode_u64),
    Request.SET_LOG_BASE: st.just(LogArea(4096, 0).encode()),
    Request.GET_INFLIGHT_FD: st.just(InflightArea(0, 0, RINGS, 256).encode()),
    Request.SET_INFLIGHT_FD: st.just(InflightArea(inflight_size(RINGS, 256), 0, RINGS, 256).encode()),
    Request.RESET_DEVICE: st.just(b""),
}
OFTEN = (Request.SET_VRING_ADDR, Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.GET_VRING_BASE)


@st.composite
def shaped(draw: st.DrawFn) -> tuple[Request, bytes, int, bool]:
    """A request that is well formed, whether it can be granted or not."""
    request = draw(st.sampled_from([*REAL_PAYLOADS, *(OFTEN * 3)]))
    payload = draw(REAL_PAYLOADS[request])
    rule = RULES[request]
    count = 0 if rule.count is None else rule.count(rule.decode(payload))
    return request, payload, count, draw(st.sampled_from([True] * 9 + [False]))


class NoHandler:
    """Guest memory is all zeros, so no command ever comes; a ring may break."""

    def execute(self, *_: object) -> tuple[int, int, bytes, bytes, int]:
        return 9, 0, b"", b"", 0

    def control(self, _: bytes) -> bytes:
        return b""

    def inspect(self, *_: object) -> None:
        pass

    def queue_broken(self, *_: object) -> None:
        pass


def memory_file() -> int:
    descriptor = os.memfd_create("fuzz")
    os.ftruncate(descriptor, MEMORY)
    return descriptor


def test_any_messages_to_the_fast_path():
    """One data plane through all of it: each session has to leave it as it found it."""
    with Controller(NoHandler(), RINGS) as controller:
        before = open_descriptors()

        @settings(max_examples=250, deadline=None)
        @given(st.lists(shaped(), max_size=30))
        def run(said):
            front = Talk(RINGS, DataPlane.of(controller), memory_file)
            front.negotiate()
            front.says(Request.SET_MEM_TABLE, wire.encode_memory_table([MemoryRegion(0, MEMORY, USER, 0)]), 1)
            for index in range(RINGS):
                front.says(Request.SET_VRING_NUM, VringState(index, 64).encode())
            for request, payload, descriptors, ack in said:
                if front.say(request, payload, descriptors, ack=ack).close is not None:
                    break
            front.end()
            assert open_descriptors() == before

        run()
        assert controller.counts()["handler_failures"] == 0

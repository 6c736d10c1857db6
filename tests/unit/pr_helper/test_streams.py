"""Random bytes and descriptors over a real socket: the server closes by the rules and serves the next client."""

from __future__ import annotations

import contextlib
import os
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyproxy.frontend.pr_helper.session import State
from pyproxy.scsi.command import Command
from tests.unit.pr_helper.exchange import Client, prin, prout

PIECES = st.lists(
    st.tuples(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.sampled_from([prin(0, 64), prin(2, 8), prin(3, 8193), prout(6, 24), prout(3, 0), bytes(24)]),
        ),
        st.sampled_from([0, 0, 1, 1, 1, 2, 3]),
    ),
    max_size=8,
)


class Model:
    """The protocol's rules over again, as simply as they can be put; one descriptor per request or the end."""

    def __init__(self) -> None:
        self.closed = False
        self.answers = 0

    def run(self, stream: bytes, descriptors: list[int]) -> None:
        """``descriptors[i]`` came with byte i of the stream, which then ends."""
        at = 0
        while not self.closed:
            cdb = stream[at : at + 16]
            came = sum(descriptors[at : at + len(cdb)])
            whole = len(cdb) == 16 and came == 1 and cdb[0] in (0x5E, 0x5F)
            length = int.from_bytes(cdb[7:9], "big") if len(cdb) >= 9 else 0
            at += 16
            if whole and cdb[0] == 0x5F and length <= 8192:
                whole = at + length <= len(stream)
                at += length
            if not whole or length > 8192:
                self.closed = True
            else:
                self.answers += 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, st.booleans())
def test_any_stream(guest, pieces, straight):
    device = os.open(guest.device_file() if not straight else "/dev/null", os.O_RDWR)
    guest.guest_unit.device.execute(Command(bytes(6)))
    model = Model()
    stream = b"".join(data for data, _ in pieces)
    descriptors = [0] * len(stream)
    at = 0
    for data, count in pieces:
        descriptors[at] = count
        at += len(data)
    model.run(stream, descriptors)
    with Client(guest.path) as client:
        for data, count in pieces:
            client.send(data, (device,) * count)
        client.half_close()
        answers = 0
        while not client.answer().closed:
            answers += 1
        assert answers == model.answers
    with Client(guest.path) as client:
        assert client.ask(prin(0, 64), device).status in (0, 2)
    os.close(device)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=7), max_size=6))
def test_any_beginning(guest, pieces):
    stream = b"".join(pieces)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(os.fspath(guest.path))
        assert client.recv(4) == bytes(4)
        try:
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            # Only a wrong feature word or a request without a descriptor closes before the stream's end.
            assert stream[:4] != bytes(4) or len(stream) >= 20
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_every_state_is_named():
    assert {state.value for state in State} == {"features", "request", "parameters", "executing", "closed"}

"""The path without Python, as far as a machine without SCSI devices shows it: what it takes and what it hands back."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from _fastpath.pr_socket import MAX_STRAIGHT_UNITS, StraightPath, Switch
from tests.unit.pr_helper.exchange import open_descriptors, prin, prout

ENOTTY = 25
NULL = Path("/dev/null").stat().st_rdev


class Line:
    """A StraightPath with the client's end of its socket and /dev/null admitted."""

    def __init__(self, tmp_path) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.theirs.settimeout(20)
        self.switch = Switch()
        self.path = StraightPath(self.ours.fileno(), self.switch, 1000)
        self.lasting = tmp_path / "type"
        self.lasting.write_text("0\n", encoding="ascii")
        self.watch = os.open(self.lasting, os.O_RDONLY)
        self.waiting = bytearray(1)
        self.null = os.open("/dev/null", os.O_RDWR)

    def admit(self, owner: object = "owner") -> None:
        self.path.admit(NULL, False, self.watch, self.waiting, True, owner)

    def send(self, data: bytes, *descriptors: int) -> None:
        if descriptors:
            socket.send_fds(self.theirs, [data], list(descriptors))
        else:
            self.theirs.sendall(data)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        os.close(self.watch)
        os.close(self.null)


@pytest.fixture
def line(tmp_path):
    made = Line(tmp_path)
    yield made
    made.close()


def handed_back(line) -> tuple[bytes, int]:
    """What was received and how many descriptors with it, which are closed."""
    received = line.path.serve()
    assert len(received) == 2
    data, descriptors = received
    for descriptor in descriptors:
        os.close(descriptor)
    return data, len(descriptors)


def test_a_command_that_is_not_good_comes_back_executed(line):
    line.admit("the unit")
    line.send(prin(0, 64), line.null)
    owner, cdb, result = line.path.serve()
    # The kernel has no SG_IO on /dev/null.
    assert (owner, cdb, result) == ("the unit", prin(0, 64), (0, b"", 0, 0, 64, ENOTTY))


def test_what_is_not_admitted_comes_back_untouched(line):
    line.send(prin(0, 64), line.null)
    assert handed_back(line) == (prin(0, 64), 1)


@pytest.mark.parametrize("opcode", [0x00, 0x5D, 0x5F, 0xFF])
def test_only_persistent_reserve_in_goes_straight(line, opcode):
    line.admit()
    line.send(bytes([opcode]) + prin(0, 64)[1:], line.null)
    assert handed_back(line) == (bytes([opcode]) + prin(0, 64)[1:], 1)


@pytest.mark.parametrize("count", [0, 2, 3, 10])
def test_wrong_numbers_of_descriptors_come_back(line, count):
    line.admit()
    before = open_descriptors()
    line.send(prin(0, 64), *[line.null] * count)
    assert handed_back(line) == (prin(0, 64), min(count, 2))
    assert open_descriptors() == before


@pytest.mark.parametrize("size", range(1, 16))
def test_a_part_of_a_request_comes_back(line, size):
    line.admit()
    line.send(prin(0, 64)[:size], line.null)
    assert handed_back(line) == (prin(0, 64)[:size], 1)


def test_an_over_long_request_comes_back(line):
    line.admit()
    line.send(prin(0, 8193), line.null)
    assert handed_back(line) == (prin(0, 8193), 1)


def test_end_of_stream_comes_back_as_no_bytes(line):
    line.theirs.shutdown(socket.SHUT_WR)
    assert line.path.serve() == (b"", ())


def test_a_waiting_unit_attention_stops_the_passage(line):
    line.admit()
    line.waiting[0] = 1
    line.send(prin(0, 64), line.null)
    assert handed_back(line) == (prin(0, 64), 1)
    line.waiting[0] = 0
    line.send(prin(0, 64), line.null)
    assert len(line.path.serve()) == 3


def test_a_device_that_is_gone_stops_the_passage(line):
    line.admit()
    os.truncate(line.lasting, 0)
    line.send(prin(0, 64), line.null)
    assert handed_back(line) == (prin(0, 64), 1)


def test_another_device_or_kind_of_node_does_not_pass(line, tmp_path):
    line.path.admit(NULL, True, line.watch, line.waiting, True, "block")
    line.path.admit(NULL + 1, False, line.watch, line.waiting, True, "other")
    line.send(prin(0, 64), line.null)
    assert handed_back(line) == (prin(0, 64), 1)
    for other in (os.open("/dev/zero", os.O_RDONLY), os.open(line.lasting, os.O_RDONLY)):
        line.send(prin(0, 64), other)
        assert handed_back(line) == (prin(0, 64), 1)
        os.close(other)


def test_forgetting_reaches_a_thread_that_waits(line):
    line.admit()
    got = []
    thread = threading.Thread(target=lambda: got.append(handed_back(line)))
    thread.start()
    line.switch.forget()
    line.send(prin(0, 64), line.null)
    thread.join(20)
    assert got == [(prin(0, 64), 1)]
    line.admit()
    assert line.path.units in (1, 2)  # the thread may have begun before or after the switch
    line.send(prin(0, 64), line.null)
    line.path.serve()


def test_what_was_admitted_before_forgetting_is_forgotten(line):
    line.admit()
    line.switch.forget()
    line.send(prin(0, 64), line.null)
    assert handed_back(line) == (prin(0, 64), 1)
    assert line.path.units == 0


def test_stopping_hands_everything_back(line):
    line.admit()
    line.switch.stop()
    line.send(prin(0, 64), line.null)
    assert handed_back(line) == (prin(0, 64), 1)


def test_there_is_room_for_every_device_by_forgetting(line):
    for number in range(MAX_STRAIGHT_UNITS):
        line.path.admit(NULL + 1 + number, False, line.watch, line.waiting, True, number)
    assert line.path.units == MAX_STRAIGHT_UNITS
    line.admit()
    assert line.path.units == 1
    line.send(prin(0, 64), line.null)
    assert line.path.serve()[0] == "owner"


def test_the_waiting_flag_is_one_byte(line):
    with pytest.raises(ValueError, match="has 2 bytes"):
        line.path.admit(NULL, False, line.watch, bytearray(2), True, None)


def test_a_client_that_is_gone_raises(line):
    line.admit()
    line.ours.shutdown(socket.SHUT_RDWR)
    assert line.path.serve() == (b"", ())


def test_pipelined_requests_keep_their_descriptors(line):
    line.admit()
    line.send(prin(0, 64), line.null)
    line.send(prout(0, 0), line.null)
    line.send(prin(1, 64), line.null)
    assert line.path.serve()[1] == prin(0, 64)
    assert handed_back(line) == (prout(0, 0), 1)
    assert line.path.serve()[1] == prin(1, 64)

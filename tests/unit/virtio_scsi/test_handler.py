"""What a controller answers itself, and how a unit's results become responses."""

from __future__ import annotations

import errno

import pytest

from _fastpath import lanes
from pyproxy.device.base import TransportError
from pyproxy.frontend.virtio_scsi.domain import Domain
from pyproxy.frontend.virtio_scsi.handler import ControllerHandler
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.frontend.virtio_scsi.response import Response, response_of, response_to_error
from pyproxy.reservation.state import Suspicion
from pyproxy.scsi.command import Command, Result
from tests.unit.vhost_user.scene import scene

INQUIRY = bytes.fromhex("12 00 00 00 60 00")
TEST_UNIT_READY = bytes(6)
REPORT_LUNS = bytes.fromhex("a0 00 00 00 00 00 00 00 01 00 00 00")
PR_OUT_REGISTER = bytes.fromhex("5f 06 00 00 00 00 00 00 18 00")
WELL_KNOWN = (0, 0xC101)


def report(select: int, allocation: int = 256) -> bytes:
    return bytes([0xA0, 0, select, 0, 0, 0]) + allocation.to_bytes(4) + bytes(2)


class NoPlane:
    """The handler alone, called as the data plane would."""

    def __init__(self, handler, rings: int) -> None:
        self.handler = handler

    def close(self) -> None:
        pass


class Erring:
    """A device whose commands end as they are told to."""

    name = "erring"

    def __init__(self, outcome) -> None:
        self.outcome = outcome

    def execute(self, command: Command) -> Result:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def guest(tmp_path):
    with scene(tmp_path, ((0, 0), (0, 5), (3, 300)), make=NoPlane) as made:
        for target, lun in ((0, 0), (0, 5), (3, 300)):
            made.handler.execute(target, lun, TEST_UNIT_READY, b"", 0)
        yield made


def test_a_command_of_a_unit(guest):
    response, status, sense, data, residual = guest.handler.execute(0, 0, INQUIRY, b"", 96)
    assert (response, status, sense, len(data) + residual) == (0, 0, b"", 96)
    assert data[8:15] == b"PYPROXY"


def test_the_cdb_may_be_the_whole_field(guest):
    assert guest.handler.execute(0, 0, INQUIRY.ljust(32, b"\0"), b"", 96)[3][8:15] == b"PYPROXY"
    written = guest.handler.execute(
        0, 0, bytes.fromhex("2a 00 00 00 00 00 00 00 01 00").ljust(32, b"\0"), bytes(512), 0
    )
    assert written == (0, 0, b"", b"", 0)


def test_a_check_condition_is_a_response_that_is_ok(guest):
    response, status, sense, data, residual = guest.handler.execute(0, 0, b"\x04".ljust(6, b"\0"), b"", 0)
    assert (response, status, sense[2], sense[12:14].hex(), data, residual) == (0, 2, 5, "2000", b"", 0)


def test_a_conflict_is_a_status_not_a_nexus_failure(guest):
    other = guest.emulated[Address(0, 0)].nexus(type(guest.unit().device.initiator)(bytes.fromhex("5001405000000002")))
    other.execute(Command(TEST_UNIT_READY))
    key = (0).to_bytes(8) + (7).to_bytes(8) + bytes(8)
    assert other.execute(Command(PR_OUT_REGISTER, data_out=key)).good
    reserve = bytes.fromhex("5f 01 01 00 00 00 00 00 18 00")
    assert other.execute(Command(reserve, data_out=(7).to_bytes(8) + bytes(16))).good
    write = bytes.fromhex("2a 00 00 00 00 00 00 00 01 00")
    assert guest.handler.execute(0, 0, write, bytes(512), 0)[:2] == (0, 0x18)


def test_both_directions_at_once(guest):
    assert guest.handler.execute(0, 0, INQUIRY, b"x", 96) == (Response.FAILURE, 0, b"", b"", 1)


def test_no_such_target(guest):
    assert guest.handler.execute(1, 0, INQUIRY, b"", 96) == (Response.BAD_TARGET, 0, b"", b"", 96)


def test_no_such_lun(guest):
    response, status, sense, data, residual = guest.handler.execute(0, 9, INQUIRY, b"", 96)
    assert (response, status, sense, data[0], residual) == (0, 0, b"", 0x7F, 60)
    response, status, sense, _, residual = guest.handler.execute(0, 9, bytes.fromhex("12 01 83 00 60 00"), b"", 96)
    assert (response, status, sense[12:14].hex(), residual) == (0, 2, "2400", 96)
    for cdb in (TEST_UNIT_READY, bytes.fromhex("28 00 00 00 00 00 00 00 01 00"), PR_OUT_REGISTER):
        response, status, sense, _, _ = guest.handler.execute(0, 9, cdb, b"", 0)
        assert (response, status, sense[2], sense[12:14].hex()) == (0, 2, 5, "2500")
    _, status, _, data, _ = guest.handler.execute(0, 9, bytes.fromhex("03 01 00 00 fc 00"), b"", 252)
    assert (status, data[:4].hex()) == (0, "72052500")


def test_report_luns(guest):
    assert guest.handler.execute(0, 0, REPORT_LUNS, b"", 256)[3].hex() == (
        "000000100000000000000000000000000005000000000000"
    )
    assert guest.handler.execute(3, 300, REPORT_LUNS, b"", 256)[3].hex() == "0000000800000000412c000000000000"
    assert guest.handler.execute(0, 0, report(1), b"", 256)[3].hex() == "0000000800000000c101000000000000"
    assert guest.handler.execute(0, 9, report(2), b"", 256)[3].hex() == (
        "0000001800000000c10100000000000000000000000000000005000000000000"
    )
    # The length stays what it is when the list is cut.
    assert guest.handler.execute(0, 0, report(0, 16), b"", 16)[3:] == (bytes.fromhex("0000001000000000" + 16 * "0"), 0)
    for wrong in (report(3), report(0, 15)):
        assert guest.handler.execute(0, 0, wrong, b"", 256)[2][12:14].hex() == "2400"


def test_the_well_known_unit(guest):
    def ask(cdb, room=96):
        return guest.handler.execute(*WELL_KNOWN, cdb, b"", room)

    assert ask(REPORT_LUNS, 256)[3].hex() == "000000100000000000000000000000000005000000000000"
    assert ask(INQUIRY)[3][0] == 0x1E
    assert ask(TEST_UNIT_READY, 0)[:2] == (0, 0)
    assert ask(bytes.fromhex("03 00 00 00 12 00"))[3].hex() == "700000000000000a" + 20 * "0"
    assert ask(bytes.fromhex("28 00 00 00 00 00 00 00 01 00"))[2][12:14].hex() == "2000"


def test_a_controller_without_units():
    handler = ControllerHandler("empty", Domain())
    assert handler.execute(0, 0, INQUIRY, b"", 96)[0] == Response.BAD_TARGET
    assert handler.execute(*WELL_KNOWN, REPORT_LUNS, b"", 256)[3].hex() == "0000000000000000"


@pytest.mark.parametrize("cdb", [b"", b"\x12", bytes(5), bytes.fromhex("a0 00 00 00 00 00"), b"\x7f" + bytes(5)])
@pytest.mark.parametrize("place", [(0, 0), (0, 9), WELL_KNOWN])
def test_cdbs_that_are_cut(guest, cdb, place):
    response, status, sense, _, _ = guest.handler.execute(*place, cdb, b"", 0)
    assert (response, status, sense[12:14].hex()) == (0, 2, "2400")


def test_a_change_of_the_luns_is_told_once(guest):
    guest.handler.inventory_changed(0)
    assert guest.handler.execute(0, 0, TEST_UNIT_READY, b"", 0)[2][12:14].hex() == "3f0e"
    assert guest.handler.execute(0, 0, TEST_UNIT_READY, b"", 0)[1] == 0
    # REPORT LUNS clears it for all units of the target (SPC-4 6.33).
    guest.handler.execute(0, 5, REPORT_LUNS, b"", 256)
    assert guest.handler.execute(0, 5, TEST_UNIT_READY, b"", 0)[1] == 0
    assert guest.handler.execute(3, 300, TEST_UNIT_READY, b"", 0)[1] == 0


def test_events_reach_the_snooper(guest):
    unit = guest.unit()
    unit.resync()
    assert not unit.state.suspect
    guest.handler.inspect(0, 0, TEST_UNIT_READY, lanes.EVENT_UNIT_ATTENTION, 0x2A, 0x03)
    assert unit.state.suspect
    guest.handler.inspect(7, 7, TEST_UNIT_READY, lanes.EVENT_UNIT_ATTENTION, 0x2A, 0x03)
    guest.handler.inspect(-1, -1, b"", lanes.EVENT_OVERFLOW, 0, 0)
    for each in guest.domain.all_units:
        assert Suspicion.EVENTS_LOST in each.state.suspect


def test_a_broken_queue_is_told(guest, caplog):
    guest.handler.queue_broken(2, "head 700 is beyond its size")
    assert guest.broken == [(2, "head 700 is beyond its size")]
    assert "guest g: queue 2 is not served any more: head 700 is beyond its size" in caplog.text


def test_a_handler_that_fails_answers(guest, monkeypatch, caplog):
    unit = guest.unit()
    monkeypatch.setattr(unit, "device", Erring(RuntimeError("bug")))
    assert guest.handler.execute(0, 0, INQUIRY, b"", 96) == (Response.FAILURE, 0, b"", b"", 96)
    assert "failed inside pyproxy" in caplog.text


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (Result(0, b"", b"abc", residual=93), (0, 0, b"", b"abc", 93)),
        (Result(0, b"", b"x" * 200, residual=-8), (0, 0, b"", b"x" * 96, 0)),
        (Result(0, residual=500), (0, 0, b"", b"", 96)),
        (Result(2, b"\x70" * 252, residual=96), (0, 2, b"\x70" * 96, b"", 96)),
        (Result(8, residual=96), (0, 8, b"", b"", 96)),
        (Result(0, b"\x70", b"abc", host_status=0x01), (3, 0, b"", b"", 96)),
        (TransportError(errno.ENODEV, "gone"), (3, 0, b"", b"", 96)),
        (TransportError(errno.ENOMEM, "no memory"), (5, 0, b"", b"", 96)),
        (TransportError(errno.EINVAL, "too long"), (9, 0, b"", b"", 96)),
        (TransportError(errno.EIO, "lost", fate_unknown=True), (6, 0, b"", b"", 96)),
    ],
)
def test_outcomes(guest, monkeypatch, outcome, answer):
    monkeypatch.setattr(guest.unit(), "device", Erring(outcome))
    assert guest.handler.execute(0, 0, INQUIRY, b"", 96) == answer


@pytest.mark.parametrize(
    ("host_status", "response"),
    [
        (0x00, 0),
        (0x01, 3),
        (0x02, 5),
        (0x03, 2),
        (0x04, 3),
        (0x05, 2),
        (0x07, 9),
        (0x08, 4),
        (0x0E, 6),
        (0x0F, 6),
        (0x10, 7),
        (0x11, 8),
        (0x14, 6),
        (0x77, 9),
    ],
)
def test_host_statuses(host_status, response):
    """What QEMU's own device answers for them, but for NO_CONNECT."""
    assert response_of(Result(0, host_status=host_status)) == response


@pytest.mark.parametrize("opcode", [0x16, 0x17, 0x1B, 0x56, 0x57, 0x5F, 0x89])
def test_what_must_not_be_repeated_is_not_answered_as_if_it_could(opcode):
    lost = TransportError(errno.EIO, "lost", fate_unknown=True)
    assert response_to_error(bytes([opcode]), lost) == Response.ABORTED
    assert response_to_error(b"\x2a", lost) == Response.TRANSPORT_FAILURE


def test_resets_that_reach_the_device(tmp_path):
    reset: list[str] = []

    def really(unit) -> bool:
        reset.append(unit.snooper.name)
        return True

    with scene(tmp_path, make=NoPlane) as made:
        made.handler.execute(0, 0, TEST_UNIT_READY, b"", 0)
        handler = ControllerHandler("guest g", made.domain, reset=really)
        request = bytes.fromhex("00000000 05000000 0100400000000000 0000000000000000")
        assert handler.control(request) == b"\0"
        assert len(reset) == 1
        # The device itself reports it.
        assert made.handler.execute(0, 0, TEST_UNIT_READY, b"", 0)[1] == 0
        assert handler.control(request[:12]) == b""
        assert handler.control(b"") == b""


def test_domains(guest):
    domain = guest.domain
    assert domain.targets == (0, 3)
    assert domain.luns(0) == (0, 5)
    assert domain.luns(1) == ()
    unit = domain.remove(Address(0, 5))
    assert domain.unit(Address(0, 5)) is None
    with pytest.raises(KeyError):
        domain.remove(Address(0, 5))
    with pytest.raises(ValueError, match="there is a logical unit at target 0, LUN 0 already"):
        domain.add(Address(0, 0), unit)
    with pytest.raises(ValueError, match="expected 0 to 255"):
        domain.add(Address(256, 0), unit)
    domain.add(Address(0, 5), unit)

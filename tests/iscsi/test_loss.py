"""Sessions that are lost: what was in flight, who is told, and which nexus comes back."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from _fastpath.sgio import Batch
from pyproxy.device.base import TransportError
from tests.iscsi.commands import REGISTER, TEST_UNIT_READY, attention, keys, pr_out, write
from tests.iscsi.conftest import Open, eventually
from tests.rig.iscsi_proxy import ASYNC_MESSAGE, DATA_IN, LOGIN, SCSI_COMMAND, SCSI_RESPONSE, IscsiProxy
from tests.rig.tgt import TgtTarget

WAYS = pytest.mark.parametrize("way", ["reset", "finish"])


@WAYS
def test_what_is_in_flight_ends_with_an_unknown_fate(proxy: IscsiProxy, open_device: Open, way: str) -> None:
    told: list[str] = []
    device = open_device(portal=proxy.portal, on_nexus_lost=told.append)
    proxy.keep_back = lambda pdu: pdu.opcode == SCSI_RESPONSE

    def ready_sent() -> int:
        return sum(pdu.opcode == SCSI_COMMAND and pdu.cdb[0] == 0x00 for pdu in list(proxy.sent))

    before = ready_sent()
    errors: list[TransportError] = []

    def execute() -> None:
        with pytest.raises(TransportError) as raised:
            device.execute_batch([TEST_UNIT_READY] * 5)
        errors.append(raised.value)

    thread = threading.Thread(target=execute)
    thread.start()
    eventually(lambda: ready_sent() == before + 5, "five commands in flight")
    getattr(proxy, way)()
    thread.join()
    (error,) = errors
    assert error.fate_unknown
    assert [getattr(one, "errno", None) for one in error.outcomes] == [errno.ECONNRESET] * 5
    assert all(getattr(one, "fate_unknown", False) for one in error.outcomes)
    eventually(lambda: told, "word of the lost nexus")
    assert "the I_T nexus was lost: the connection was closed" in told[0]
    # Nothing of it is sent again.
    proxy.keep_back = lambda _: False
    eventually(lambda: device.counts[0] == 2, "another login")
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"
    assert ready_sent() == before + 6


@WAYS
def test_idle_loss_is_noticed_told_and_mended(proxy: IscsiProxy, open_device: Open, way: str) -> None:
    told: list[str] = []
    device = open_device(portal=proxy.portal, on_nexus_lost=told.append)
    getattr(proxy, way)()
    eventually(lambda: device.counts[:2] == (2, 1), "another login without any command")
    assert len(told) == 1


def test_same_nexus_comes_back(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal)
    for number in (2, 3):
        proxy.reset()
        eventually(lambda number=number: device.counts[0] == number, "another login")
    logins = [pdu for pdu in proxy.sent if pdu.opcode == LOGIN]
    assert len(logins) >= 3
    assert {pdu.isid for pdu in logins} == {device.initiator.isid}
    assert all(b"InitiatorName=" + device.initiator.name.encode() in pdu.rest for pdu in logins[:1] + logins[-1:])


def test_word_comes_before_the_new_session(proxy: IscsiProxy, open_device: Open) -> None:
    """Whoever tracks the nexus knows that it is suspect before any command goes out on the next one."""
    logins_then: list[int] = []
    device = open_device(
        portal=proxy.portal, on_nexus_lost=lambda _: logins_then.append(proxy.opcodes_sent().count(LOGIN))
    )
    before = proxy.opcodes_sent().count(LOGIN)
    proxy.reset()
    eventually(lambda: device.counts[0] == 2, "another login")
    assert logins_then == [before]


def test_listener_that_fails_stops_nothing(proxy: IscsiProxy, open_device: Open) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("no")

    device = open_device(portal=proxy.portal, on_nexus_lost=fail)
    proxy.reset()
    eventually(lambda: device.counts[0] == 2, "another login")


def test_commands_wait_for_the_next_session(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal, reconnect_seconds=60)
    proxy.refusing = True
    proxy.reset()
    eventually(lambda: device.counts[1] == 1, "the loss")
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(device.execute(TEST_UNIT_READY)))
    thread.start()
    time.sleep(0.3)
    assert results == []
    proxy.refusing = False
    thread.join()
    assert attention(results[0]) == "29/00"  # type: ignore[arg-type]


def test_commands_do_not_wait_for_ever(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal, reconnect_seconds=0)
    proxy.refusing = True
    proxy.reset()
    eventually(lambda: device.counts[1] == 1, "the loss")
    with pytest.raises(TransportError, match="could not be made again yet") as raised:
        device.execute(TEST_UNIT_READY)
    assert (raised.value.errno, raised.value.fate_unknown) == (errno.EHOSTUNREACH, False)
    with pytest.raises(TransportError) as raised:
        device.execute_batch([TEST_UNIT_READY] * 3)
    assert not raised.value.fate_unknown
    port = device.port()
    batch = Batch(2)
    batch.add(bytes(6))
    batch.add(bytes(6))
    with pytest.raises(OSError, match="No route to host"):
        port.run(batch)
    assert [(batch.result(n)[6], batch.fate_unknown(n)) for n in range(2)] == [(errno.EHOSTUNREACH, False)] * 2
    proxy.refusing = False
    eventually(lambda: device.counts[0] == 2, "another login")
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"


def test_port_waits_for_the_next_session(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal, reconnect_seconds=60)
    port = device.port()
    proxy.refusing = True
    proxy.reset()
    eventually(lambda: device.counts[1] == 1, "the loss")
    batch = Batch(1)
    batch.add(bytes(6))
    thread = threading.Thread(target=port.run, args=(batch,))
    thread.start()
    proxy.refusing = False
    thread.join()
    assert batch.result(0)[0] == 0x02


def test_killed_target(target: TgtTarget, open_device: Open) -> None:
    """tgt forgets registrations with its memory: the nexus is back, the key is not."""
    told: list[str] = []
    device = open_device(on_nexus_lost=told.append)
    assert device.execute(pr_out(REGISTER, sa_key=0x77)).good
    target.restart()
    eventually(lambda: told, "word of the lost nexus")
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"
    assert keys(device) == []


def test_relogin_orphans_registrations_on_tgt(proxy: IscsiProxy, open_device: Open) -> None:
    """Why the listener must doubt everything: tgt lists the key still, but it is no longer this nexus's."""
    device = open_device(portal=proxy.portal)
    assert device.execute(pr_out(REGISTER, sa_key=0x77)).good
    proxy.reset()
    eventually(lambda: device.counts[0] == 2, "another login")
    while not device.execute(TEST_UNIT_READY).good:
        pass
    assert keys(device) == [0x77]
    assert device.execute(pr_out(REGISTER, key=0x77, sa_key=0x78)).conflict


def test_target_that_asks_for_logout(proxy: IscsiProxy, open_device: Open) -> None:
    """Async event 1: log out within so many seconds (RFC 7143 11.9.1). The nexus is lost and made again."""
    told: list[str] = []
    device = open_device(portal=proxy.portal, on_nexus_lost=told.append)
    last = next(pdu for pdu in reversed(proxy.received) if pdu.opcode == SCSI_RESPONSE).header
    stat_sn = (int.from_bytes(last[24:28]) + 1).to_bytes(4)
    header = bytes([ASYNC_MESSAGE, 0x80]) + bytes(14) + b"\xff" * 4 + bytes(4) + stat_sn + last[28:36]
    proxy.inject(header + bytes.fromhex("01 00 0000 0000 0003 00000000"))
    eventually(lambda: device.counts[0] == 2, "another login")
    assert len(told) == 1
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"


def test_garbage_from_the_target(proxy: IscsiProxy, open_device: Open) -> None:
    """A PDU longer than any that was agreed on ends the session; what follows it cannot be found."""
    device = open_device(portal=proxy.portal)
    proxy.inject(bytes([SCSI_RESPONSE, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF]) + bytes(40))
    eventually(lambda: device.counts[0] == 2, "another login")
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"


def test_data_in_beyond_the_buffer(proxy: IscsiProxy, open_device: Open) -> None:
    """A target that sends more than it was asked for is not believed: the session ends, nothing is overwritten."""
    device = open_device(portal=proxy.portal, reconnect_seconds=0)
    room = bytearray(512)
    guard = bytes(room)
    batch = Batch(1)
    batch.add(bytes.fromhex("28 00 00000000 00 0001 00"), 1, memoryview(room)[:256])
    proxy.keep_back = lambda pdu: pdu.opcode in (DATA_IN, SCSI_RESPONSE)
    before = len(proxy.received)
    thread = threading.Thread(target=device.engine.run, args=(batch,))
    thread.start()
    eventually(lambda: DATA_IN in {pdu.opcode for pdu in proxy.received[before:]}, "Data-In")
    honest = next(pdu for pdu in reversed(proxy.received) if pdu.opcode == DATA_IN).header
    proxy.inject(honest[:5] + (512).to_bytes(3) + honest[8:], b"\xee" * 512)
    thread.join()
    assert batch.result(0)[6] == errno.ECONNRESET
    assert batch.fate_unknown(0)
    assert bytes(room[256:]) == guard[256:]


def test_another_unit_behind_the_same_lun(
    target: TgtTarget, open_device: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """The guest's disk is not replaced behind its back."""
    device = open_device(reconnect_seconds=0)
    assert device.execute(write(0, b"\x11" * 512)).good
    target.restart(scsi_id="another")
    eventually(lambda: "another logical unit answers than before" in caplog.text, "the refusal")
    with pytest.raises(TransportError):
        device.execute(write(0, b"\x22" * 512))
    assert target.backing.read_bytes()[:512] == b"\x11" * 512


def test_close_while_there_is_no_session(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal, reconnect_seconds=3600)
    proxy.refusing = True
    proxy.reset()
    eventually(lambda: device.counts[1] == 1, "the loss")
    errors: list[TransportError] = []

    def execute() -> None:
        with pytest.raises(TransportError) as raised:
            device.execute(TEST_UNIT_READY)
        errors.append(raised.value)

    thread = threading.Thread(target=execute)
    thread.start()
    time.sleep(0.2)
    began = time.monotonic()
    device.close()
    thread.join()
    assert time.monotonic() - began < 30
    assert [error.fate_unknown for error in errors] == [False]
    with pytest.raises(TransportError, match="closed"):
        device.execute(TEST_UNIT_READY)

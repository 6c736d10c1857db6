"""Commands that run out of time, targets that fall silent."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from _fastpath.sgio import DIRECTION_IN, DIRECTION_OUT, Batch
from pyproxy.device.base import TransportError
from pyproxy.scsi.command import Command, Result
from tests.iscsi.commands import BLOCK, TEST_UNIT_READY, attention, read, write
from tests.iscsi.conftest import SLOW, Open, eventually
from tests.rig.iscsi_proxy import (
    DATA_IN,
    NOP_IN,
    NOP_OUT,
    SCSI_RESPONSE,
    TASK_MANAGEMENT,
    TASK_MANAGEMENT_RESPONSE,
    IscsiProxy,
    Pdu,
)
from tests.rig.tgt import TgtTarget

ROOT = Path(__file__).parents[2]


def test_command_of_a_stopped_target_ends_in_time(target: TgtTarget, open_device: Open) -> None:
    device = open_device(abort_seconds=1, reconnect_seconds=0)
    target.pause()
    try:
        began = time.monotonic()
        with pytest.raises(TransportError) as raised:
            device.execute(Command(bytes(6), timeout_ms=300))
        took = time.monotonic() - began
    finally:
        target.resume()
    assert raised.value.errno == errno.ETIMEDOUT
    assert raised.value.fate_unknown
    assert "the device may have executed it" in str(raised.value)
    assert 0.3 <= took < 30
    assert device.counts[1:3] == (1, 1), "one command aborted, which nobody answered: the session was given up"


def test_stopped_target_that_goes_on(target: TgtTarget, open_device: Open) -> None:
    """The command whose time is over is not answered by a target that comes back later; the next one is."""
    device = open_device(abort_seconds=1, reconnect_seconds=60)
    target.pause()
    with pytest.raises(TransportError):
        device.execute(Command(bytes(6), timeout_ms=300))
    target.resume()
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00", "a new session"
    assert device.execute(TEST_UNIT_READY).good


def test_aborted_command_leaves_the_session_alone(proxy: IscsiProxy, open_device: Open) -> None:
    """The target answers ABORT TASK: the command ends, its neighbours and the nexus do not notice."""
    device = open_device(portal=proxy.portal, abort_seconds=60)
    proxy.keep_back = lambda pdu: pdu.opcode in (SCSI_RESPONSE, DATA_IN)
    with pytest.raises(TransportError) as raised:
        device.execute(read(0, 1, timeout_ms=200))
    proxy.keep_back = lambda _: False
    assert (raised.value.errno, raised.value.fate_unknown) == (errno.ETIMEDOUT, True)
    assert proxy.opcodes_sent().count(TASK_MANAGEMENT) == 1
    assert device.execute(TEST_UNIT_READY).good
    assert device.counts == (1, 0, 1, 0)


def test_write_that_is_aborted_while_its_data_wait(proxy: IscsiProxy, open_device: Open) -> None:
    """The library frees what it still sends from, so such a command ends with its session."""
    device = open_device(portal=proxy.portal, abort_seconds=1, reconnect_seconds=60)
    proxy.fall_silent()
    filled = pattern_of(8 << 20)
    with pytest.raises(TransportError) as raised:
        device.execute(write(0, filled, timeout_ms=300))
    proxy.speak()
    assert (raised.value.errno, raised.value.fate_unknown) == (errno.ETIMEDOUT, True)
    eventually(lambda: device.counts[0] == 2, "another login")
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"
    assert device.execute(write(0, filled)).good


def pattern_of(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


def last_received(proxy: IscsiProxy, opcode: int) -> Pdu:
    """What the target sent last of that kind, which it may be about to send."""
    eventually(lambda: opcode in [pdu.opcode for pdu in list(proxy.received)], f"PDU {opcode:#x}")
    return next(pdu for pdu in reversed(proxy.received) if pdu.opcode == opcode)


def test_answer_while_the_abort_is_on_the_way(proxy: IscsiProxy, open_device: Open) -> None:
    """The command's own answer comes after ABORT TASK was sent: it counts, and the slot is used again."""
    device = open_device(portal=proxy.portal, abort_seconds=60, depth=1)
    kept = threading.Event()
    proxy.received.clear()
    proxy.keep_back = lambda pdu: (
        pdu.opcode == TASK_MANAGEMENT_RESPONSE or (pdu.opcode == SCSI_RESPONSE and not kept.is_set())
    )
    outcomes: list[object] = []

    def execute() -> None:
        try:
            outcomes.append(device.execute(Command(bytes(6), timeout_ms=200)))
        except TransportError as error:
            outcomes.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    eventually(lambda: TASK_MANAGEMENT in proxy.opcodes_sent(), "ABORT TASK")
    withheld = last_received(proxy, SCSI_RESPONSE)
    kept.set()
    proxy.inject(withheld.header, withheld.rest)
    thread.join()
    (outcome,) = outcomes
    assert isinstance(outcome, Result)
    assert outcome.good
    # The one slot stays taken until ABORT TASK is answered.
    answer = last_received(proxy, TASK_MANAGEMENT_RESPONSE)
    proxy.keep_back = lambda _: False
    proxy.inject(answer.header, answer.rest)
    assert device.execute(TEST_UNIT_READY).good
    assert device.counts == (1, 0, 1, 0)


def test_late_data_of_an_aborted_read_go_nowhere(proxy: IscsiProxy, open_device: Open) -> None:
    """Data-In that arrives after the command ended must not be written to buffers that are no longer its own."""
    device = open_device(portal=proxy.portal, abort_seconds=60)
    assert device.execute(write(0, b"\xaa" * BLOCK)).good
    proxy.keep_back = lambda pdu: pdu.opcode == DATA_IN
    room = bytearray(b"\x55" * BLOCK)
    batch = Batch(1)
    batch.add(read(0, 1).cdb, DIRECTION_IN, room, 200)
    device.engine.run(batch)
    assert batch.result(0)[6] == errno.ETIMEDOUT
    late = last_received(proxy, DATA_IN)
    proxy.keep_back = lambda _: False
    proxy.inject(late.header, late.rest)
    assert device.execute(TEST_UNIT_READY).good
    assert bytes(room) == b"\x55" * BLOCK
    assert device.execute(read(0, 1)).data == b"\xaa" * BLOCK


def test_timeout_of_the_port(target: TgtTarget, open_device: Open) -> None:
    device = open_device(abort_seconds=1, reconnect_seconds=0)
    port = device.port()
    batch = Batch(2)
    batch.add(bytes(6), timeout_ms=300)
    batch.add(write(0, bytes(BLOCK)).cdb, DIRECTION_OUT, bytes(BLOCK), 60_000)
    target.pause()
    try:
        port.run(batch)
    finally:
        target.resume()
    assert [batch.result(n)[6] for n in range(2)] == [errno.ETIMEDOUT, errno.ECONNRESET]
    assert [batch.fate_unknown(n) for n in range(2)] == [True, True]


def test_idle_session_is_kept_alive(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal, nop_interval=1, nop_timeout=60)
    eventually(lambda: proxy.opcodes_sent().count(NOP_OUT) >= 2, "two NOP-Out of an idle session")
    assert NOP_IN in {pdu.opcode for pdu in proxy.received}
    assert device.counts[:2] == (1, 0)


def test_silent_target_is_taken_for_dead(proxy: IscsiProxy, open_device: Open) -> None:
    """Nothing resets the connection, nothing is in flight: NOP-Out alone finds out."""
    told: list[str] = []
    device = open_device(portal=proxy.portal, nop_interval=1, nop_timeout=1, on_nexus_lost=told.append)
    proxy.refusing = True
    proxy.fall_silent()
    eventually(lambda: told, "the end of patience")
    assert "the target was silent" in told[0]
    assert device.counts[1] == 1
    proxy.refusing = False
    proxy.speak()
    eventually(lambda: device.counts[0] == 2, "another login")


def test_busy_target_is_not_taken_for_dead(target: TgtTarget, open_device: Open) -> None:
    """A target that is slower than NOP-Out allows but answers before the commands' time is over is lost all the same
    only where it was told so: with NOP-Out off, it is not.
    """
    device = open_device(nop_interval=0)
    target.pause()
    outcomes: list[Result] = []
    thread = threading.Thread(target=lambda: outcomes.append(device.execute(TEST_UNIT_READY)))
    thread.start()
    time.sleep(2.5)
    target.resume()
    thread.join()
    assert [result.good for result in outcomes] == [True]
    assert device.counts[:2] == (1, 0)


def test_target_that_asks_is_answered(proxy: IscsiProxy, target: TgtTarget, open_device: Open) -> None:
    """Targets ping idle initiators, too, and drop those that do not answer."""
    device = open_device(portal=proxy.portal, nop_interval=0)
    # NOP-In with a target transfer tag wants a NOP-Out that repeats it (RFC 7143 11.19).
    last = next(pdu for pdu in reversed(proxy.received) if pdu.opcode == SCSI_RESPONSE).header
    header = bytes([NOP_IN, 0x80]) + bytes(14) + b"\xff" * 4 + bytes.fromhex("12345678")
    stat_sn = (int.from_bytes(last[24:28]) + 1).to_bytes(4)
    proxy.inject(header + stat_sn + last[28:36] + bytes(12))
    eventually(lambda: NOP_OUT in proxy.opcodes_sent(), "an answer to NOP-In")
    (answer,) = [pdu for pdu in proxy.sent if pdu.opcode == NOP_OUT]
    assert answer.header[20:24] == bytes.fromhex("12345678")
    assert device.execute(TEST_UNIT_READY).good


def test_others_run_while_a_command_waits(target: TgtTarget, open_device: Open) -> None:
    """The GIL is not held: this thread counts while the other one waits for a target that stands still."""
    device = open_device(abort_seconds=60)
    target.pause()
    thread = threading.Thread(target=device.execute, args=(TEST_UNIT_READY,))
    thread.start()
    eventually(lambda: device.counts[3] == 1, "a command in flight")
    for _ in range(1000):
        assert device.counts[3] == 1
    target.resume()
    thread.join()
    assert device.counts[:2] == (1, 0)


_FORKS = """
import os, sys
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiSettings
from pyproxy.scsi.command import Command
device = IscsiDevice.open(
    IscsiSettings(url=sys.argv[1], initiator="iqn.2026-01.org.example:forks"), host="h", guest="g", lun=0
)
child = os.fork()
if child == 0:
    try:
        device.execute(Command(bytes(6)))
    except RuntimeError as error:
        print(error, flush=True)
    device.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
while not device.execute(Command(bytes(6))).good:
    pass
print(device.counts[:2])
device.close()
"""


def test_forked_child_leaves_the_session_alone(target: TgtTarget) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, target.url], capture_output=True, text=True, check=True, timeout=SLOW, cwd=ROOT
    )
    assert "opened before a fork" in done.stdout
    assert done.stdout.endswith("(1, 0)\n")


def test_device_that_is_never_closed_does_not_hold_up_the_end(target: TgtTarget) -> None:
    code = _FORKS.partition("child =")[0] + "print('end')"
    done = subprocess.run(
        [sys.executable, "-c", code, target.url], capture_output=True, text=True, check=True, timeout=SLOW, cwd=ROOT
    )
    assert done.stdout == "end\n"

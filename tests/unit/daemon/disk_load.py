"""A guest at work on a disk: reads, writes and PERSISTENT RESERVE OUTs through virtqueues, each checked."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from pyproxy.driver.scsi import Answer, ScsiDriver, Ticket
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.frontend.virtio_scsi.response import Response

REGION = 4096
REGIONS = 256
BLOCKS = REGION // 512
FAILED_ONCE = {Response.RESET, Response.BUSY, Response.TRANSPORT_FAILURE, Response.ABORTED}
"""What a guest's driver repeats, or hands on as an error that its file system repeats."""


def content(region: int, version: int) -> bytes:
    """What version ``version`` of a region is; 0 is a disk that nobody has written to."""
    return random.Random((region << 32) | version).randbytes(REGION) if version else bytes(REGION)


def _cdb(opcode: int, region: int) -> bytes:
    return bytes([opcode, 0, *(region * BLOCKS).to_bytes(4), 0, 0, BLOCKS, 0])


@dataclass
class _Sent:
    ticket: Ticket
    kind: str
    region: int = 0
    version: int = 0


@dataclass
class DiskLoad:
    """Keeps ``depth`` commands under way on one unit. AssertionError where a read finds what was never written last."""

    driver: ScsiDriver
    draw: random.Random
    address: Address = field(default_factory=lambda: Address(0, 0))
    depth: int = 24
    aptpl: bool = False
    answers: Counter[str] = field(default_factory=Counter)
    key: int = 0
    """Of the last PERSISTENT RESERVE OUT that ended with GOOD."""
    tried: int = 0
    """PERSISTENT RESERVE OUTs that were sent."""
    _possible: dict[int, set[int]] = field(default_factory=dict)
    """Region -> versions that it may have: more than one where a write ended in an error."""
    _versions: int = 0
    _sent: list[_Sent] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Send and check for so long; what is under way stays there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while len(self._sent) < self.depth:
                self._send()
            if not self._reap():
                self._sent[0].ticket.queue.wait(0.01)

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until everything is answered; each once, or the ring's counts would not agree."""
        deadline = time.monotonic() + seconds
        while self._sent:
            if not self._reap():
                assert time.monotonic() < deadline, f"{len(self._sent)} commands are not answered"
                self._sent[0].ticket.queue.wait(0.05)
        assert self.driver.pending == 0

    def check_all(self) -> None:
        """Read the whole disk; every region is what it was last made."""
        for region in range(REGIONS):
            answer = self.past_attentions(_cdb(0x28, region), data_in=REGION)
            assert answer.status == 0
            assert self._is_possible(region, answer.data)

    def past_attentions(self, cdb: bytes, data_in: int) -> Answer:
        """Run one command on the unit; again where it met a unit attention."""
        return self.driver.execute_past_attentions(cdb, data_in=data_in, address=self.address)

    def _send(self) -> None:
        kind = self.draw.choices(("write", "read", "ready", "claim"), (10, 8, 2, 1))[0]
        if kind == "claim" and any(one.kind == "claim" for one in self._sent):
            kind = "ready"  # one at a time, so that what they come to has an order
        busy = {one.region for one in self._sent if one.kind in ("read", "write")}
        region = self.draw.choice([number for number in range(REGIONS) if number not in busy])
        queue = self.draw.randrange(len(self.driver.queues) - 2)
        version = 0
        if kind == "write":
            self._versions += 1
            version = self._versions
            cdb, out, into = _cdb(0x2A, region), content(region, version), 0
        elif kind == "read":
            cdb, out, into = _cdb(0x28, region), b"", REGION
        elif kind == "claim":
            self.tried += 1
            version = self.draw.getrandbits(63) | 1
            cdb = bytes.fromhex("5f060000000000001800")
            out, into = bytes(8) + version.to_bytes(8) + bytes([0, 0, 0, 0, self.aptpl, 0, 0, 0]), 0
        else:
            cdb, out, into = bytes(6), b"", 0
        ticket = self.driver.submit(cdb, out, into, address=self.address, queue=queue)
        self._sent.append(_Sent(ticket, kind, region, version))

    def _reap(self) -> bool:
        """Check what has come back; whether anything had."""
        for queue in {one.ticket.queue for one in self._sent}:
            self.driver.collect(queue)
        back = [one for one in self._sent if one.ticket.written is not None]
        self._sent = [one for one in self._sent if one.ticket.written is None]
        for one in back:
            self._check(one, self.driver.wait(one.ticket))
        return bool(back)

    def _check(self, one: _Sent, answer: Answer) -> None:
        good = answer.response == Response.OK and answer.status == 0
        attention = answer.is_unit_attention
        self.answers[f"{one.kind} {'good' if good else 'attention' if attention else 'failed'}"] += 1
        assert good or attention or answer.response in FAILED_ONCE, (one.kind, answer)
        if one.kind == "write" and not attention:
            before = self._possible.get(one.region, {0})
            self._possible[one.region] = {one.version} if good else before | {one.version}
        elif one.kind == "read" and good:
            assert self._is_possible(one.region, answer.data), f"region {one.region}"
        elif one.kind == "claim" and good:
            self.key = one.version

    def _is_possible(self, region: int, data: bytes) -> bool:
        return any(data == content(region, version) for version in self._possible.get(region, {0}))

"""IscsiDevice on LIO's iSCSI target, which names nexuses, keeps their registrations, and pings idle initiators.

IscsiDevice ── libiscsi ── TCP ── iscsi_target_mod ── LIO
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError, read_identity
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiSettings
from pyproxy.reservation.classify import Decision
from pyproxy.scsi.command import Command
from pyproxy.scsi.pr_in import FullStatus
from tests.iscsi.commands import BLOCK, CONFLICT, REGISTER, TEST_UNIT_READY, attention, keys, pr_out, read, write
from tests.iscsi.conftest import eventually
from tests.iscsi.hosts import GuestHost, reservation
from tests.iscsi.storm import rage
from tests.vm.rig.iscsi_target import IscsiTarget, create_target
from tests.vm.rig.takeover import Watch

K = 0x1122334455667788
NAMES = [f"iqn.2026-01.org.example:host-{number}" for number in (1, 2, 3)]


@pytest.fixture
def target() -> Iterator[IscsiTarget]:
    Path("/var/target/pr").mkdir(parents=True, exist_ok=True)  # LIO writes there at every REGISTER
    made = create_target(NAMES)
    yield made
    made.remove()


@pytest.fixture
def device(target: IscsiTarget) -> Iterator[IscsiDevice]:
    opened = open_device(target)
    yield opened
    opened.close()


def open_device(target: IscsiTarget, number: int = 3, **settings: int | bool) -> IscsiDevice:
    chosen = IscsiSettings(url=target.url, initiator=NAMES[number - 1], **settings)
    device = IscsiDevice.open(chosen, host=f"host-{number}", guest="db", lun=0)
    while not device.execute(TEST_UNIT_READY).good:
        pass
    return device


def test_full_status_names_the_nexus(device: IscsiDevice) -> None:
    assert device.execute(pr_out(REGISTER, sa_key=K)).good
    answer = device.execute(Command(bytes.fromhex("5e03 0000000000 1000 00"), data_in=0x1000))
    assert answer.good
    (registration,) = FullStatus.decode(answer.data).descriptors
    assert registration.transport_id == device.initiator
    assert registration.rtpi == device.rtpi is not None
    assert registration.key == K


@pytest.mark.parametrize("header_digest", [False, True], ids=["plain", "header-digest"])
def test_data(target: IscsiTarget, header_digest: bool) -> None:
    device = open_device(target, header_digest=header_digest, depth=64)
    try:
        data = [bytes([number]) * (BLOCK * 64) for number in range(100)]
        where = [number * 64 for number in range(100)]
        written = device.execute_batch([write(lba, part) for lba, part in zip(where, data, strict=True)])
        assert all(result.good and result.residual == 0 for result in written)
        assert [result.data for result in device.execute_batch([read(lba, 64) for lba in where])] == data
        overflow = device.execute(Command(read(0, 4).cdb, data_in=BLOCK))
        assert (len(overflow.data), overflow.residual) in ((BLOCK, -3 * BLOCK), (0, BLOCK))
    finally:
        device.close()


def test_identity(device: IscsiDevice, target: IscsiTarget) -> None:
    other = open_device(target, 1)
    try:
        assert read_identity(device).unique
        assert read_identity(device).matches(read_identity(other))
    finally:
        other.close()


def test_registration_survives_the_loss_of_the_session(device: IscsiDevice) -> None:
    """The name is listed on the target, and the nexus that comes back is the same by name and ISID."""
    assert device.execute(pr_out(REGISTER, sa_key=K)).good
    for number in (2, 3):
        device.disconnect()
        eventually(lambda number=number: device.counts[0] == number, "another login")
        while attention(device.execute(TEST_UNIT_READY)) is not None:
            pass
        assert keys(device) == [K]
        assert device.execute(pr_out(REGISTER, key=K, sa_key=K)).good


def test_second_session_of_the_same_name_and_isid_evicts_the_first(target: IscsiTarget) -> None:
    """Session reinstatement (RFC 7143 6.3.5): the one that was there is lost, says so, and does the same in turn."""
    told: list[str] = []
    settings = IscsiSettings(url=target.url, initiator=NAMES[0], reconnect_seconds=60)
    first = IscsiDevice.open(settings, host="host-1", guest="db", lun=0, on_nexus_lost=told.append)
    second = IscsiDevice.open(settings, host="host-1", guest="db", lun=0)
    eventually(lambda: told, "the loss of the first session")
    second.close()

    def ready() -> bool:
        with contextlib.suppress(TransportError):
            return first.execute(TEST_UNIT_READY).good
        return False

    eventually(ready, "the first session")
    first.close()


def test_storm(target: IscsiTarget) -> None:
    """No command's data are another's, however often the session is lost under them."""
    device = open_device(target, depth=7, reconnect_seconds=60)
    try:
        storm = rage(device, [device.disconnect], 8)
        assert storm.odd == []
        assert storm.counts["answered"] > 0
        assert storm.counts["answered through the port"] > 0
    finally:
        device.close()


def test_idle_session_answers_the_targets_nop_in(target: IscsiTarget) -> None:
    """LIO drops initiators that leave a NOP-In unanswered; ours sends none of its own here."""
    for name in NAMES:
        attributes = target.group / "acls" / name / "attrib"
        for attribute in ("nopin_timeout", "nopin_response_timeout"):
            with (attributes / attribute).open("w", encoding="ascii") as stream:
                stream.write("3")
    device = open_device(target, nop_interval=0)
    try:
        time.sleep(12)
        assert device.counts[:2] == (1, 0)
        assert device.execute(TEST_UNIT_READY).good
    finally:
        device.close()


@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("dead", [False, True], ids=["source-alive", "source-dead"])
def test_takeover(target: IscsiTarget, tmp_path: Path, kind: int, dead: bool) -> None:
    outsider = open_device(target)
    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, kind)
        destination.settle()
        document = source.checkpoint()
        if dead:
            source.close()

        def look() -> None:
            assert outsider.execute(write(9, b"\xee" * BLOCK)).status == CONFLICT

        report = destination.restore(document, source=None if dead else source, dead=dead, watch=Watch(look))
        assert report.decision is Decision.TAKEN_OVER, report.sentence
        assert report.procedure == ("P2" if dead else "P3" if kind in (7, 8) else "P1")
        assert keys(outsider) == [K]
        assert reservation(outsider) == (0 if kind in (7, 8) else K, kind)
        assert destination.write(b"\x0b" * BLOCK).good
        source.settle()
        assert source.write(b"\x05" * BLOCK).status == CONFLICT
        assert not source.unit.resync().registered
    outsider.close()


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_takeover_that_loses_a_session(target: IscsiTarget, tmp_path: Path, side: str, after: int) -> None:
    """The commands of the takeover go on with the next session of the same nexus."""
    outsider = open_device(target)
    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, 5)
        destination.settle()
        document = source.checkpoint()
        losing = source if side == "source" else destination
        watch = Watch()

        def look() -> None:
            assert outsider.execute(write(9, b"\xee" * BLOCK)).status == CONFLICT
            if len(watch.changes) == after and losing.device is not None and losing.device.counts[1] == 0:
                losing.device.disconnect()

        watch.look = look
        report = destination.restore(document, source=source, watch=watch)
        assert losing.device is not None
        assert losing.device.counts[1] == 1
        assert report.decision is Decision.TAKEN_OVER, report.sentence
        destination.settle()
        source.settle()
        assert (destination.write().good, source.write().status) == (True, CONFLICT)
        assert (keys(outsider), reservation(outsider)) == ([K], (K, 5))
    outsider.close()

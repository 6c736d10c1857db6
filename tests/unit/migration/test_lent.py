"""A nexus is lent for the commands of a takeover alone, each of which is executed once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.migration.checkpoint import Checkpoint
from pyproxy.migration.lent import Lender
from pyproxy.migration.messages import Execute, PathFacts
from pyproxy.migration.peer import PeerRefusedError
from pyproxy.reservation.facts import Nexus
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.sqlite import SqliteStore

K = 0x1122334455667788
MIGRATION = "0" * 32


@dataclass
class Lent:
    """The unit that is lent; what a takeover does not need of it is not there."""

    port: EmulatedNexus
    lun: int = 0
    nexus: Nexus | None = None
    lock: AbstractContextManager[object] = field(default_factory=contextlib.nullcontext)

    @property
    def facts(self) -> PathFacts:
        raise NotImplementedError

    def blocker(self) -> str | None:
        raise NotImplementedError

    def capture(self) -> Checkpoint:
        raise NotImplementedError

    def load(self) -> None:
        raise NotImplementedError

    def heard(self, *attentions: Sense) -> None:
        raise NotImplementedError


@pytest.fixture
def unit() -> Iterator[EmulatedUnit]:
    with contextlib.closing(EmulatedUnit(1 << 16, serial="lent", power_on_attention=False)) as made:
        yield made


@pytest.fixture
def lent(unit: EmulatedUnit) -> Lent:
    return Lent(unit.nexus(TransportId.parse("naa.5000000000000001")))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "store.db") as made:
        yield made


def asked(sequence: int, cdb: bytes, data_out: bytes = b"", data_in: int = 0) -> Execute:
    return Execute(
        migration=MIGRATION,
        guest="web1",
        epoch=1,
        lun=0,
        sequence=sequence,
        cdb=cdb.hex(),
        data_out=data_out.hex(),
        data_in=data_in,
    )


def register(sequence: int, key: int, sa_key: int) -> Execute:
    return asked(sequence, PrOut(0, 0, 0, 24).encode(), ParameterList(key, sa_key).encode())


def test_a_change_is_made_once_also_across_a_restart(lent: Lent, unit: EmulatedUnit, store: SqliteStore) -> None:
    first = Lender(store, MIGRATION).execute(lent, register(7, 0, K))
    generation = unit.reservations.generation
    assert first.status == 0
    lender = Lender(store, MIGRATION)
    for _ in range(2):
        assert lender.execute(lent, register(7, 0, K)) == first
    assert unit.reservations.generation == generation


def test_a_change_whose_answer_was_lost_with_the_process(lent: Lent, unit: EmulatedUnit, store: SqliteStore) -> None:
    request = register(7, 0, K)

    class Killed(BaseException):
        pass

    class Dying:
        name = "dying"

        def execute(self, command: Command) -> Result:
            lent_port.execute(command)
            raise Killed

    lent_port, lent.port = lent.port, Dying()  # type: ignore[assignment]
    with pytest.raises(Killed):
        Lender(store, MIGRATION).execute(lent, request)
    lent.port = lent_port
    generation = unit.reservations.generation
    answer = Lender(store, MIGRATION).execute(lent, request)
    assert answer.error is not None
    assert answer.fate_unknown, "whoever asked has to read the unit"
    assert unit.reservations.generation == generation


def test_a_takeover_of_the_unit_here_does_not_hold_up_one_elsewhere(lent: Lent, store: SqliteStore) -> None:
    """Where two guests of one unit change places, each host's takeover waits for the other host's lender."""
    lent.lock = threading.Lock()
    answers: list[int | None] = []
    lender = Lender(store, MIGRATION)
    asking = threading.Thread(target=lambda: answers.append(lender.execute(lent, register(7, 0, K)).status))
    with lent.lock:
        asking.start()
        asking.join(30)
        assert answers == [0]


def test_late_copies_are_refused(lent: Lent, unit: EmulatedUnit, store: SqliteStore) -> None:
    lender = Lender(store, MIGRATION)
    lender.execute(lent, register(100_000, 0, K))
    lender.execute(lent, asked(100_001, bytes(6)))
    for sequence in (99_999, 100_000):
        with pytest.raises(PeerRefusedError, match="comes after a later one"):
            lender.execute(lent, register(sequence, K, 0))
    with pytest.raises(PeerRefusedError, match="was used for another"):
        Lender(store, MIGRATION).execute(lent, register(100_000, K, 0))
    with pytest.raises(PeerRefusedError, match="comes after a later one"):
        Lender(store, MIGRATION).execute(lent, register(3, K, 0))
    assert unit.reservations.key_of(lent.port.identity) == K


@pytest.mark.parametrize(
    "request_",
    [
        asked(0, bytes.fromhex("28000000000000000100"), data_in=512),
        asked(0, bytes.fromhex("2a000000000000000100"), bytes(512)),
        asked(0, bytes.fromhex("5f010100000000001800"), ParameterList(K, 0).encode()),
        asked(0, bytes.fromhex("5f020100000000001800"), ParameterList(K, 0).encode()),
        asked(0, bytes.fromhex("5f030000000000001800"), ParameterList(K, 0).encode()),
        asked(0, bytes.fromhex("5f060000000000001800"), ParameterList(0, K).encode()),
        asked(0, bytes.fromhex("5f070000000000001800"), bytes(24)),
        asked(0, PrOut(0, 0, 0, 24).encode(), ParameterList(0, K, all_tg_pt=True).encode()),
        asked(0, PrOut(0, 0, 0, 28).encode(), ParameterList(0, K).encode() + bytes(4)),
        asked(0, PrOut(0, 0, 0, 24).encode(), ParameterList(0, K).encode(), data_in=4),
        asked(0, bytes.fromhex("5e0000000000000010")),
        asked(0, bytes.fromhex("120000002400"), bytes(4)),
        asked(0, bytes.fromhex("0400000000000000")),
    ],
)
def test_what_no_takeover_sends(lent: Lent, unit: EmulatedUnit, store: SqliteStore, request_: Execute) -> None:
    with pytest.raises(PeerRefusedError) as caught:
        Lender(store, MIGRATION).execute(lent, request_)
    assert caught.value.reason == "not-allowed"
    assert unit.reservations.generation == 0


def test_a_transport_that_fails_is_told(lent: Lent, store: SqliteStore) -> None:
    class Broken:
        name = "broken"

        def execute(self, command: Command) -> Result:
            raise TransportError(5, "the path is down", fate_unknown=False)

    lent.port = Broken()  # type: ignore[assignment]
    answer = Lender(store, MIGRATION).execute(lent, asked(0, bytes(6)))
    assert (answer.error, answer.fate_unknown) == ("the path is down", False)

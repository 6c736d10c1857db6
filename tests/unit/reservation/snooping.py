"""Snoopers with a known state, and commands run through them against scripted devices."""

from __future__ import annotations

from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, decode_state, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from tests.unit.reservation.script import Answer, ScriptedDevice

K, N, F = 0x1111, 0x2222, 0x9999
A, B = "5001405000000001", "5001405000000002"
US = SasTransportId(bytes.fromhex(A))
LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, ABORT, IGNORE, MOVE, REPLACE = range(9)
WE = PrType(1)


def make(
    store: SqliteStore, state: NexusState | None = None, *, migrate_pr: bool = True, known: bool = True
) -> Snooper:
    """A snooper with fresh state; ``known``: it knows its own TransportID."""
    if state is not None:
        store.save_nexus("g", LUN, encode_state(state), epoch=0)
    snooper = Snooper("g", 0, LUN, store, migrate_pr=migrate_pr, initiator=US if known else None, rtpi=1)
    snooper._nexus._suspicions.clear()
    snooper._nexus_verified = True
    return snooper


def stored(store: SqliteStore) -> NexusState:
    record = store.load_nexus("g", LUN)
    assert record is not None
    return decode_state(record.state)


def run(snooper: Snooper, command: Command, *lines: tuple[str, Answer]) -> Result:
    device = ScriptedDevice(*lines)
    result = snooper.handle(command, device)
    assert device.finished, device.lines
    return result


HOLDING = NexusState(key=K, type=WE, aptpl=False)
REGISTERED = NexusState(key=K, aptpl=False)


def break_store(store: SqliteStore) -> None:
    """From now on the database file may not grow: writes fail as on a full disk."""
    assert store._connection is not None
    store._connection.execute("PRAGMA query_only = ON")


def mend_store(store: SqliteStore) -> None:
    assert store._connection is not None
    store._connection.execute("PRAGMA query_only = OFF")


def make_fresh(state: NexusState) -> NexusState:
    return NexusState(
        key=state.key, type=state.type, aptpl=state.aptpl, transport_id=US, rtpi=1, generation=state.generation
    )

"""What following a guest's reservations costs: PERSISTENT RESERVE commands, and the commands that are none.

Everything runs on the emulated unit in memory, so that the device costs next to nothing and the proxy shows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.conftest import Bench
from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit

KEY = bytes.fromhex("1122334455667788")
READ_KEYS = Command(bytes.fromhex("5E 00 00 00 00 00 00 10 00 00"), data_in=4096)
REGISTER = Command(bytes.fromhex("5F 00 00 00 00 00 00 00 18 00"), data_out=KEY + KEY + bytes(8))
FIRST_REGISTER = Command(bytes.fromhex("5F 06 00 00 00 00 00 00 18 00"), data_out=bytes(8) + KEY + bytes(8))
TEST_UNIT_READY = Command(bytes(6))
READ_4K = Command(bytes.fromhex("28 00 00 00 00 00 00 00 08 00"), data_in=4096)
WRITE_4K = Command(bytes.fromhex("2A 00 00 00 00 00 00 00 08 00"), data_out=bytes(4096))


@dataclass
class Rig:
    """One emulated unit with a nexus reached directly, through a guest that migrates, and through one that does not."""

    direct: EmulatedNexus
    following: GuestUnit
    verbatim: GuestUnit
    path: Path


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    unit = EmulatedUnit(1 << 20)
    with SqliteStore(tmp_path / "state.sqlite") as store:

        def guest(name: str, address: bytes, *, migrate_pr: bool) -> GuestUnit:
            initiator = SasTransportId(address)
            nexus = unit.nexus(initiator)
            snooper = Snooper(name, 0, "naa.6001405", store, migrate_pr=migrate_pr, initiator=initiator, rtpi=1)
            return GuestUnit(name, 0, nexus, snooper)

        direct = unit.nexus(SasTransportId(bytes.fromhex("5001405000000001")))
        following = guest("following", bytes.fromhex("5001405000000002"), migrate_pr=True)
        verbatim = guest("verbatim", bytes.fromhex("5001405000000003"), migrate_pr=False)
        for execute in (direct.execute, following.execute, verbatim.execute):
            settle(execute)
        for each in (following, verbatim):
            each.resync()
            assert each.state.fresh
        yield Rig(direct, following, verbatim, tmp_path)
    unit.close()


def settle(execute: Callable[[Command], object]) -> None:
    """Let power-on unit attentions go by, then register, so that every measured command does the same."""
    for _ in range(4):
        execute(TEST_UNIT_READY)
    execute(FIRST_REGISTER)


def loop(execute: Callable[[Command], object], command: Command, calls: int) -> Callable[[], None]:
    assert getattr(execute(command), "good", False), f"{command} must end GOOD before it is measured"

    def run() -> None:
        for _ in range(calls):
            execute(command)

    return run


@pytest.mark.parametrize(("name", "command"), [("READ KEYS", READ_KEYS)])
def test_pr_in(bench: Bench, rig: Rig, name: str, command: Command) -> None:
    calls = 20 if bench.quick else 200
    bench.compare(
        f"{name} snooped, floor: straight to the emulated unit",
        loop(rig.following.execute, command, calls),
        loop(rig.direct.execute, command, calls),
        others={"migrate_pr off": loop(rig.verbatim.execute, command, calls)},
        operations=calls,
        unit="us per command",
        per=1000.0,
        rounds=31,
    )


def test_register(bench: Bench, rig: Rig) -> None:
    """REGISTER is durable twice: intent before, result after. The floor adds two bare commits to the direct command."""
    calls = 2 if bench.quick else 20
    bare = sqlite3.connect(rig.path / "bare.sqlite", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, body BLOB)")

    def commit() -> None:
        bare.execute("INSERT OR REPLACE INTO row VALUES (1, ?)", (bytes(64),))

    def floor() -> None:
        for _ in range(calls):
            commit()
            rig.direct.execute(REGISTER)
            commit()

    bench.compare(
        "REGISTER snooped, floor: straight plus two bare SQLite commits",
        loop(rig.following.execute, REGISTER, calls),
        floor,
        others={
            "straight to the emulated unit": loop(rig.direct.execute, REGISTER, calls),
            "migrate_pr off": loop(rig.verbatim.execute, REGISTER, calls),
        },
        operations=calls,
        unit="us per command",
        per=1000.0,
        rounds=15,
    )
    bare.close()


@pytest.mark.parametrize(
    ("name", "command"), [("TEST UNIT READY", TEST_UNIT_READY), ("READ 4 KiB", READ_4K), ("WRITE 4 KiB", WRITE_4K)]
)
def test_commands_that_are_no_reservations(bench: Bench, rig: Rig, name: str, command: Command) -> None:
    """Following reservations must cost a data command nothing: on and off are one code path but for the lane."""
    calls = 20 if bench.quick else 500
    bench.compare(
        f"{name} with migrate_pr, floor: without",
        loop(rig.following.execute, command, calls),
        loop(rig.verbatim.execute, command, calls),
        others={"straight to the emulated unit": loop(rig.direct.execute, command, calls)},
        operations=calls,
        unit="us per command",
        per=1000.0,
        rounds=31,
    )

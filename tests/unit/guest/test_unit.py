"""A guest's commands on their lanes, to an emulated unit.

guest g, LUN 0 ── GuestUnit ── nexus (A, port 1) ──┐
                                                   ├── emulated unit
another host ────────────────── nexus (B, port 1) ─┘
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import Suspicion
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.unit.reservation.script import pr_in, pr_out

A, B = (SasTransportId(bytes.fromhex(f"500140500000000{number}")) for number in (1, 2))
LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
K, F = 0x1111, 0x9999

READY = Command(bytes(6))
INQUIRY = Command(bytes.fromhex("120000002400"), data_in=36)
RESERVE_6, RELEASE_6 = Command(bytes.fromhex("160000000000")), Command(bytes.fromhex("170000000000"))


def read(lba: int = 0) -> Command:
    return Command(bytes([0x28, 0, *lba.to_bytes(4), 0, 0, 1, 0]), data_in=512)


def write(fill: int, lba: int = 0) -> Command:
    return Command(bytes([0x2A, 0, *lba.to_bytes(4), 0, 0, 1, 0]), data_out=bytes([fill]) * 512)


class Recorder:
    """The device, with a note of what reached it; ``fails`` replaces the answer to an operation code."""

    def __init__(self, nexus: EmulatedNexus) -> None:
        self.nexus = nexus
        self.calls: list[list[Command]] = []
        self.fails: dict[int, Exception | Result] = {}

    @property
    def name(self) -> str:
        return self.nexus.name

    @property
    def opcodes(self) -> list[int]:
        return [command.cdb[0] for call in self.calls for command in call]

    def execute(self, command: Command) -> Result:
        return self._note([command])[0]

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        return self._note(list(commands))

    def _note(self, commands: list[Command]) -> list[Result]:
        self.calls.append(commands)
        outcomes: list[Result | TransportError] = []
        for command in commands:
            answer = self.fails.get(command.cdb[0])
            if isinstance(answer, TransportError):
                outcomes.append(answer)
            elif isinstance(answer, Exception):
                raise answer
            else:
                outcomes.append(answer or self.nexus.execute(command))
        error = next((one for one in outcomes if isinstance(one, TransportError)), None)
        if error is not None:
            raise TransportError(error.errno or 5, "batch", fate_unknown=True, outcomes=tuple(outcomes))
        return [one for one in outcomes if isinstance(one, Result)]

    def close(self) -> None:
        self.nexus.close()


class Bench:
    def __init__(self, store: SqliteStore, *, migrate_pr: bool = True, rawio: bool = False) -> None:
        self.unit = EmulatedUnit(1 << 20, serial="unit", power_on_attention=False)
        self.device = Recorder(self.unit.nexus(A))
        self.other = self.unit.nexus(B)
        self.snooper = Snooper("g", 0, LUN, store, migrate_pr=migrate_pr, initiator=A, rtpi=1)
        self.guest = GuestUnit("g", 0, self.device, self.snooper, rawio=rawio)
        self.guest.resync()
        self.device.calls.clear()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "state.db") as opened:
        yield opened


@pytest.fixture
def bench(store: SqliteStore) -> Iterator[Bench]:
    made = Bench(store)
    yield made
    made.unit.close()


def sense_of(result: Result) -> tuple[int, int, int]:
    sense = result.decoded_sense
    assert sense is not None
    return sense.code


def test_data_goes_straight_through(bench: Bench) -> None:
    assert bench.guest.execute(write(7, 3)).good
    assert bench.guest.execute(read(3)).data == b"\x07" * 512
    assert bench.device.opcodes == [0x2A, 0x28]


def test_guest_reserves_and_is_tracked(bench: Bench) -> None:
    for command in (pr_out(0, 0, K), pr_out(1, K, 0, 1)):
        assert bench.guest.execute(command).good
    assert (bench.guest.state.key, bench.guest.state.type) == (K, PrType(1))
    assert bench.other.execute(write(1)).conflict
    assert bench.guest.execute(write(1)).good


def test_guest_that_was_fenced_learns_it_and_is_tracked(bench: Bench) -> None:
    bench.guest.execute(pr_out(0, 0, K))
    bench.guest.execute(pr_out(1, K, 0, 1))
    bench.other.execute(pr_out(0, 0, F))
    bench.other.execute(pr_out(4, F, K, 1))
    assert sense_of(bench.guest.execute(write(1))) == (0x6, 0x2A, 0x05)
    assert bench.guest.state.suspect == (Suspicion.REGISTRATIONS_PREEMPTED,)
    assert bench.guest.execute(write(1)).conflict
    assert bench.guest.resync().registered is False
    assert bench.guest.state.fresh


def test_conflict_where_there_should_be_none_is_noticed_on_the_data_path(bench: Bench) -> None:
    bench.guest.execute(pr_out(0, 0, K))
    bench.guest.execute(pr_out(1, K, 0, 1))
    bench.device.fails[0x2A] = Result(0x18)
    assert bench.guest.execute(write(1)).conflict
    assert bench.guest.state.suspect == (Suspicion.MEDIUM_CONFLICT,)


def test_attention_our_read_ate_comes_on_the_guests_next_command(bench: Bench) -> None:
    bench.unit.reset()
    bench.guest.resync()
    bench.device.calls.clear()
    assert bench.guest.execute(INQUIRY).good
    assert sense_of(bench.guest.execute(write(1))) == (0x6, 0x29, 0x03)
    assert bench.device.opcodes == [0x12]
    assert bench.guest.execute(write(1)).good


def test_attention_our_read_ate_is_returned_by_request_sense(bench: Bench) -> None:
    bench.unit.reset()
    bench.guest.resync()
    result = bench.guest.execute(Command(bytes.fromhex("030000001200"), data_in=18))
    assert result.good
    assert result.data == bytes.fromhex("70 00 06 00 00 00 00 0a 00 00 00 00 29 03 00 00 00 00")
    assert bench.guest.execute(READY).good


def test_attention_comes_once_in_a_batch(bench: Bench) -> None:
    bench.unit.reset()
    bench.guest.resync()
    results = bench.guest.execute_batch([INQUIRY, write(1), read(), pr_in(0)])
    assert [result.status for result in results] == [0x00, 0x02, 0x00, 0x00]


def test_spc2_reservation_is_noticed(bench: Bench) -> None:
    assert bench.guest.execute(RESERVE_6).good
    assert bench.guest.state.spc2_reserved
    assert bench.guest.execute_batch([RELEASE_6, READY])[0].good
    assert not bench.guest.state.spc2_reserved


def test_spc2_reserve_of_unknown_fate_counts_as_held(bench: Bench) -> None:
    bench.device.fails[0x16] = TransportError(5, "no answer", fate_unknown=True)
    with pytest.raises(TransportError):
        bench.guest.execute(RESERVE_6)
    assert bench.guest.state.spc2_reserved


def test_refused_commands_do_not_reach_the_device(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        assert sense_of(bench.guest.execute(Command(bytes.fromhex("040000000000")))) == (0x5, 0x20, 0x00)
    assert sense_of(bench.guest.execute(Command(b"\x28\0"))) == (0x5, 0x24, 0x00)
    assert sense_of(bench.guest.execute(Command(b""))) == (0x5, 0x24, 0x00)
    assert bench.device.opcodes == []
    assert caplog.text.count("FORMAT UNIT") == 20
    assert "set rawio for this unit" in caplog.text


def test_refusals_are_in_the_format_the_device_uses(bench: Bench) -> None:
    bench.device.fails[0x28] = Result(0x02, bytes.fromhex("72 05 21 00 00 00 00 00"))
    bench.guest.execute(read(1))
    assert bench.guest.execute(Command(bytes.fromhex("040000000000"))).sense[:4] == bytes.fromhex("72052000")


def test_rawio_opens_the_policy(store: SqliteStore) -> None:
    bench = Bench(store, rawio=True)
    bench.guest.execute(Command(bytes.fromhex("c00000000000")))
    assert bench.device.opcodes == [0xC0]
    bench.unit.close()


def rsoc(options: int = 0, room: int = 4096, opcode: int = 0, action: int = 0) -> Command:
    cdb = bytes([0xA3, 0x0C, options, opcode]) + action.to_bytes(2) + room.to_bytes(4) + b"\0\0"
    return Command(cdb, data_in=room)


def test_register_and_move_is_not_listed(bench: Bench, store: SqliteStore) -> None:
    whole = bench.other.execute(rsoc()).data
    assert b"\x5f\x00\x00\x07" in whole
    masked = bench.guest.execute(rsoc()).data
    assert b"\x5f\x00\x00\x07" not in masked
    assert len(masked) == len(whole) - 8
    assert int.from_bytes(masked[:4]) == len(masked) - 4
    for room in (0, 3, 4, 12, 100):
        assert bench.guest.execute(rsoc(room=room)).data == masked[:room]
    assert bench.guest.execute_batch([rsoc(), READY])[0].data == masked
    buffers = [bytearray(10), bytearray(30)]
    result = bench.guest.execute(Command(rsoc(room=40).cdb, data_in=buffers))
    assert (bytes(buffers[0] + buffers[1]), result.data) == (masked[:40], b"")
    one = bench.guest.execute(rsoc(0b010, opcode=0x5F, action=7)).data
    assert one == bytes.fromhex("00010000")
    verbatim = Bench(store, migrate_pr=False)
    assert b"\x5f\x00\x00\x07" in verbatim.guest.execute(rsoc()).data
    verbatim.unit.close()


def test_huge_allocation_length_costs_no_memory(bench: Bench) -> None:
    cdb = rsoc(room=0xFFFFFFFF).cdb
    buffer = bytearray(64)
    assert bench.guest.execute(Command(cdb, data_in=[buffer])).good
    (asked,) = bench.device.calls[0]
    assert asked.data_in == 0xFFFF


def test_batch_is_submitted_together_and_reservations_follow(bench: Bench) -> None:
    results = bench.guest.execute_batch(
        [write(1, 1), pr_out(0, 0, K), write(2, 2), Command(b"\x04" + bytes(5)), read(1)]
    )
    assert [result.status for result in results] == [0, 0, 0, 0x02, 0]
    assert [command.cdb[0] for command in bench.device.calls[0]] == [0x2A, 0x2A, 0x28]
    assert bench.device.calls[1][0].cdb[0] == 0x5F
    assert bench.guest.execute_batch([]) == []


def test_transport_error_in_a_batch_carries_every_outcome(bench: Bench) -> None:
    bench.device.fails[0x2A] = TransportError(19, "gone", fate_unknown=True)
    with pytest.raises(TransportError, match="1 of 3") as caught:
        bench.guest.execute_batch([read(), write(1), pr_in(0)])
    first, second, third = caught.value.outcomes
    assert isinstance(first, Result)
    assert isinstance(second, TransportError)
    assert isinstance(third, Result)
    assert (first.good, third.good) == (True, True)
    assert caught.value.fate_unknown


def test_command_no_transport_can_carry_is_the_guests_mistake(bench: Bench) -> None:
    bench.device.fails[0x28] = ValueError("data in both directions")
    assert sense_of(bench.guest.execute(read())) == (0x5, 0x24, 0x00)
    results = bench.guest.execute_batch([read(), write(1)])
    assert sense_of(results[0]) == (0x5, 0x24, 0x00)
    assert results[1].good


def test_reservation_command_no_transport_can_carry_is_the_guests_mistake(bench: Bench, store: SqliteStore) -> None:
    for opcode in (0x5E, 0x5F):
        bench.device.fails[opcode] = ValueError("data in both directions")
    for command in (pr_out(0, 0, K), pr_in(0)):
        assert sense_of(bench.guest.execute(command)) == (0x5, 0x24, 0x00)
        first, second = bench.guest.execute_batch([command, write(1)])
        assert sense_of(first) == (0x5, 0x24, 0x00)
        assert second.good
    assert bench.guest.state.fresh
    assert not store.open_intents()


def test_data_does_not_wait_for_reservation_commands(bench: Bench) -> None:
    done = threading.Event()

    def writes() -> None:
        bench.guest.execute(write(1))
        bench.guest.execute_batch([write(1), read()])
        done.set()

    with bench.snooper.unit_lock:
        thread = threading.Thread(target=writes)
        thread.start()
        assert done.wait(10)
    thread.join()


def test_guest_sees_no_attention_of_the_takeover_that_was_taken_out(bench: Bench) -> None:
    bench.snooper.attentions.add(Sense(6, 0x2A, 0x05))
    bench.snooper.attentions.discard((6, 0x2A, 0x05))
    assert bench.guest.execute(READY).good

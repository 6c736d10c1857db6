"""Messages are lost, commands fail, the link is cut, a third node fences: once at every place where that can happen."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedNexus
from pyproxy.migration.messages import Request
from pyproxy.migration.phases import SourcePhase
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.sense import MODE_PARAMETERS_CHANGED
from tests.migration.test_crashes import Scenario, comes_back, moves
from tests.migration.test_moves import holds_at
from tests.migration.world import GUEST, K, Side, World, at_rest, registered

TEST_UNIT_READY = bytes(6)
FENCER = 0xFE7CE


class Nth:
    """True at the call of that number, counted from 0."""

    def __init__(self, which: int) -> None:
        self._left = which

    def __call__(self) -> bool:
        self._left -= 1
        return self._left == -1


Failure = Callable[[EmulatedNexus, Command], Result]


def busy(_nexus: EmulatedNexus, _command: Command) -> Result:
    return Result(int(Status.BUSY))


def not_sent(_nexus: EmulatedNexus, _command: Command) -> Result:
    raise TransportError(errno.EIO, "the path is down", fate_unknown=False)


def lost_before(_nexus: EmulatedNexus, _command: Command) -> Result:
    raise TransportError(errno.ETIMEDOUT, "timed out", fate_unknown=True)


def lost_after(nexus: EmulatedNexus, command: Command) -> Result:
    nexus.execute(command)
    raise TransportError(errno.ETIMEDOUT, "timed out", fate_unknown=True)


def attention(_nexus: EmulatedNexus, command: Command) -> Result:
    if command.cdb[0] == 0x12:
        return _nexus.execute(command)  # INQUIRY reports none
    return Result(int(Status.CHECK_CONDITION), MODE_PARAMETERS_CHANGED.encode())


def ends_well(world: World, where: str, kind: int | None, *, told: bool = False) -> None:
    """The guest has its claim where it runs; ``told``: it hears of a unit attention that was for it."""
    if world.s.phase is SourcePhase.ARMED:
        world.s.engine.cancel(GUEST)
        world.run()
    assert at_rest(world), where
    side = world.d if world.d.running else world.s
    assert side.open, where
    result = world.guest(side, 0, TEST_UNIT_READY)
    if told and not result.good:
        assert result.decoded_sense == MODE_PARAMETERS_CHANGED, where
    else:
        assert result.good, (where, result.decoded_sense)
    side.host.unit(GUEST, 0).resync()  # as the next poll does where a command failed
    holds_at(world, side, kind)


@pytest.mark.parametrize(("scenario", "kind"), [(moves, 5), (moves, 8), (comes_back, 5)])
@pytest.mark.parametrize("failure", [busy, not_sent, lost_before, lost_after, attention])
def test_each_command_fails_once(tmp_path: Path, scenario: Scenario, failure: Failure, kind: int) -> None:
    for which in count():
        failed: list[str] = []
        nth = Nth(which)

        def fails(
            side: Side,
            command: Command,
            nth: Nth = nth,
            failed: list[str] = failed,
        ) -> Failure | None:
            if not nth():
                return None
            failed.append(f"{side.name} {command.cdb.hex()}")
            return failure

        with World(tmp_path / str(which)) as world:
            world.claim(world.s, kind)
            world.failing = fails
            scenario(world)
            if not failed:
                break
            ends_well(world, f"command {which}, {failed[0]}", kind, told=failure is attention)
    assert which > 15


@pytest.mark.parametrize("kind", [5, 8])
@pytest.mark.parametrize("scenario", [moves, comes_back])
def test_each_answer_is_lost_once(tmp_path: Path, scenario: Scenario, kind: int) -> None:
    for which in count():
        lost: list[Request] = []
        nth = Nth(which)

        def loses(request: Request, nth: Nth = nth, lost: list[Request] = lost) -> bool:
            if not nth():
                return False
            lost.append(request)
            return True

        with World(tmp_path / str(which)) as world:
            world.claim(world.s, kind)
            world.lose = loses
            scenario(world)
            if not lost:
                break
            ends_well(world, f"answer {which} to {lost[0]}", kind)
    assert which > 10


@pytest.mark.parametrize("kind", [5, None])
@pytest.mark.parametrize("scenario", [moves, comes_back])
def test_the_link_is_cut_at_every_message_and_comes_back(tmp_path: Path, scenario: Scenario, kind: int | None) -> None:
    for which in count():
        with World(tmp_path / str(which)) as world:
            world.claim(world.s, kind)
            nth = Nth(which)

            def loses(_request: Request, nth: Nth = nth, world: World = world) -> bool:
                world.cut = nth() or world.cut
                return world.cut

            world.lose = loses
            scenario(world)
            was_cut, world.cut = world.cut, False
            if not was_cut:
                break
            assert not (world.s.open and world.d.open and world.d.running), "only one side serves in the meantime"
            world.lose = lambda _: False
            if not (world.s.running or world.d.running):
                (world.d if world.verified(world.s) else world.s).guest_starts()
            world.run()
            ends_well(world, f"message {which}", kind)
    assert which > 10


@pytest.mark.parametrize("kind", [5, 7, None])
@pytest.mark.parametrize("scenario", [moves, comes_back])
def test_a_guest_that_is_fenced_on_the_way_stays_fenced(tmp_path: Path, scenario: Scenario, kind: int | None) -> None:
    for which in count():
        fenced: list[str] = []
        nth = Nth(which)
        with World(tmp_path / str(which)) as world:
            world.claim(world.s, kind)
            fencer = world.fencer[0]
            world.join(fencer, FENCER)

            def fence(
                side: Side,
                command: Command,
                nth: Nth = nth,
                fencer: EmulatedNexus = fencer,
                fenced: list[str] = fenced,
            ) -> Failure | None:
                if nth():
                    preempt = Command(PrOut(4, 0, kind or 1, 24).encode(), ParameterList(FENCER, K).encode())
                    answer = fencer.execute(preempt)
                    fenced.append(f"before {command.cdb.hex()} at {side.name}: {answer.status:02x}")
                return None

            world.failing = fence
            scenario(world)
            if not fenced:
                break
            world.failing = lambda *_: None
            where = f"command {which}, fenced {fenced[0]}"
            if world.s.phase is SourcePhase.ARMED:
                world.s.engine.cancel(GUEST)
                world.run()
            assert at_rest(world), where
            side = world.d if world.d.running else world.s
            assert side.open, where
            assert registered(world.units[0]) == {str(fencer.initiator): FENCER}, where
            codes = []
            for _ in range(3):
                sense = world.guest(side, 0, TEST_UNIT_READY).decoded_sense
                codes += [] if sense is None else [sense.code[1:]]
            assert {(0x2A, 0x05), (0x2A, 0x03)} & set(codes), (where, codes)
            assert not side.host.unit(GUEST, 0).resync().registered, where
    assert which > 15

"""Gates of guests: all their ways in follow, whenever they are opened, and rings are heard of."""

from __future__ import annotations

import threading

import pytest

from pyproxy.daemon.failures import OperationError
from pyproxy.daemon.gates import Gates
from pyproxy.frontend.vhost_user.actions import StartRing, StopRing
from pyproxy.frontend.vhost_user.performer import Performer
from tests.unit.vhost_user.recording_plane import RecordedMemory, RecordingController


class Queues:
    def __init__(self) -> None:
        self.shut = False

    def shut_gate(self) -> None:
        self.shut = True

    def drain_gate(self, seconds: float) -> bool:
        return True

    def open_gate(self) -> None:
        self.shut = False


class Events:
    def __init__(self, gates: Gates) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self.gates = gates

    def stopped(self, guest: str) -> None:
        self.heard.append(("stopped", guest, self.gates.running(guest)))

    def started(self, guest: str) -> None:
        self.heard.append(("started", guest, self.gates.running(guest)))

    def left(self, guest: str) -> None:
        self.heard.append(("left", guest, self.gates.running(guest)))


def test_queues_follow_the_gate_and_begin_as_it_is() -> None:
    gates, early, late = Gates(), Queues(), Queues()
    gates.add_queues("web", early)
    gates.shut("web", "it migrates")
    gates.add_queues("web", late)
    assert (early.shut, late.shut, gates.why("web"), gates.why("db")) == (True, True, "it migrates", None)
    gates.open("web")
    assert (early.shut, late.shut, gates.why("web")) == (False, False, None)


def test_a_command_is_refused_or_waited_for() -> None:
    gates = Gates()
    with gates.entered("web"):
        gates.shut("web", "it migrates to host-b")
        assert not gates.drain("web", 0.01)
    assert gates.drain("web", 60)
    with pytest.raises(OperationError, match="guest web is not served on this host now: it migrates to host-b"):
        gates.entered("web").__enter__()
    waiting = threading.Timer(0.05, gates.open, ("web",))
    waiting.start()
    assert gates.gate("web").enter(60)
    waiting.join()


def test_nobody_waits_for_a_gate_when_the_daemon_stops() -> None:
    gates = Gates()
    gates.shut("web", "it migrates")
    gates.give_up()
    assert not gates.gate("web").enter(600)


def test_the_last_request_ring_is_heard_of_before_the_answer() -> None:
    gates, controller = Gates(), RecordingController(memory=RecordedMemory([]), features=0)
    events = Events(gates)
    gates.events = events
    performer = Performer(controller.plane(), gates.rings("web"))
    for index in (0, 2, 3):
        performer.perform([StartRing(index, 8, 0, 0, 0, None, 0, -1, -1, -1)])
    performer.perform([StopRing(2)])
    performer.perform([StopRing(0)])
    assert events.heard == [("started", "web", True)] * 2
    performer.perform([StopRing(3)])
    assert events.heard[2:] == [("stopped", "web", False)]
    performer.left()
    assert events.heard[3:] == [("left", "web", False)]

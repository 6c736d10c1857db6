"""How a lost session is told and made again: with pauses that grow, one word for one cause, and no end but close."""

from __future__ import annotations

import errno
import logging

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.iscsi_keeper import Keeper

CLOSED, SILENT, UNABORTED, FAILED = 1, 2, 3, 4


class Script:
    """A session whose losses are scripted: at which second it is lost, and from which second on connecting works."""

    def __init__(self, losses: dict[float, int], works: list[tuple[float, float]], until: float) -> None:
        self.now = 0.0
        self.connected = True
        self.losses = losses
        self.down = works
        self.until = until
        self.attempts: list[float] = []
        self.told: list[tuple[float, str]] = []
        self.last_words = "PDU  of\na kind"

    def clock(self) -> float:
        return self.now

    def tend(self, timeout_ms: int) -> tuple[bool, bool, int | None]:
        due = min((when for when in self.losses if self.now <= when <= self.now + timeout_ms / 1000), default=None)
        self.now = self.now + timeout_ms / 1000 if due is None else due
        if self.now >= self.until:
            return self.connected, True, None
        loss = None if due is None else self.losses.pop(due)
        if loss is not None:
            self.connected = False
        return self.connected, False, loss

    def connect(self) -> None:
        self.attempts.append(self.now)
        if any(start <= self.now < end for start, end in self.down):
            raise TransportError(errno.EHOSTUNREACH, "no connection to the portal")
        self.connected = True

    def run(self) -> None:
        Keeper(self, "unit", self.connect, lambda why: self.told.append((self.now, why)), clock=self.clock).run()


def test_nothing_happens_while_nothing_is_lost() -> None:
    script = Script({}, [], 100)
    script.run()
    assert (script.attempts, script.told) == ([], [])


def test_connected_again_at_once() -> None:
    script = Script({5.5: CLOSED}, [], 100)
    script.run()
    assert script.attempts == [5.5]
    assert [when for when, _ in script.told] == [5.5]


def test_pauses_grow_to_half_a_minute() -> None:
    script = Script({10.0: CLOSED}, [(10, 120)], 200)
    script.run()
    assert [round(when - 10, 3) for when in script.attempts] == [0, 1, 3, 7, 15, 31, 61, 91, 121]


def test_pauses_begin_anew_with_the_next_loss() -> None:
    script = Script({10.0: CLOSED, 50.0: SILENT}, [(10, 12), (50, 52)], 200)
    script.run()
    assert script.attempts == [10, 11, 13, 50, 51, 53]
    assert [when for when, _ in script.told] == [10, 50]


def test_same_cause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script = Script({10.0: CLOSED}, [(10, 120)], 200)
    script.run()
    assert caplog.text.count("no connection to the portal") == 1
    assert caplog.text.count("logged in again, 121.0 s after the loss") == 1


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (CLOSED, "the connection was closed;"),
        (SILENT, "the target was silent;"),
        (UNABORTED, "a command did not end in time and could not be aborted;"),
        (FAILED, "the session failed (PDU of a kind);"),
    ],
)
def test_sentence(loss: int, says: str) -> None:
    script = Script({1.0: loss}, [], 10)
    script.run()
    ((_, sentence),) = script.told
    assert sentence.startswith(f"unit: the I_T nexus was lost: {says}")
    assert sentence.endswith("registrations may be gone")


def test_close_during_the_pauses_ends_it() -> None:
    script = Script({10.0: CLOSED}, [(10, 1000)], 40)
    script.run()
    assert script.now == 40


def test_sessions_that_evict_each_other_calm_down(caplog: pytest.LogCaptureFixture) -> None:
    """Ten losses, each half a second after the login: five are mended at once, later ones ever more slowly."""
    script = Script({}, [], 200)
    script.losses[20.0] = CLOSED
    connect = script.connect

    def and_lost_again() -> None:
        connect()
        if len(script.attempts) < 10:
            script.losses[script.now + 0.5] = CLOSED

    script.connect = and_lost_again  # type: ignore[method-assign]
    script.run()
    waits = [
        round(after - before - 0.5, 3) for before, after in zip(script.attempts, script.attempts[1:], strict=False)
    ]
    assert waits == [0, 0, 0, 0, 0, 2, 4, 8, 16]
    assert "Look whether another initiator uses the same name and ISID" in caplog.text

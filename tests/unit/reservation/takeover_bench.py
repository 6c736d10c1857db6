"""One target, two nexuses and a journal in memory, for tests of takeover plans."""

from __future__ import annotations

from dataclasses import replace

from pyproxy.reservation.classify import Source
from pyproxy.reservation.executor import Executor
from pyproxy.reservation.facts import Facts, Nexus
from pyproxy.reservation.history import History, decode_events
from pyproxy.reservation.outcome import Outcome
from pyproxy.reservation.plans import takeover
from pyproxy.scsi.constants import PrType
from tests.unit.reservation.targets import Port, Target

K, N, M, OTHER = 0x1122334455667788, 0xA1, 0xB2, 0x0BAD

REGISTER, PREEMPT, PREEMPT_AND_ABORT = 0x00, 0x04, 0x05


class Rows:
    """A journal in memory; reading it back is what a restarted process does."""

    def __init__(self) -> None:
        self.rows: list[list[bytes]] = []

    def issue(self, events: bytes) -> int:
        self.rows.append([events])
        return len(self.rows) - 1

    def answer(self, row: int, events: bytes) -> None:
        self.rows[row].append(events)

    def history(self) -> History:
        return History(event for row in self.rows for data in row for event in decode_events(data))


class Bench:
    """One target, the two nexuses, and the facts of a checkpoint made before anything else happens."""

    def __init__(self, target: Target, *, alive: bool, held: int | None = None) -> None:
        self.target = target
        self.s: Port = target.port("s")
        self.d: Port = target.port("d")
        self.rows = Rows()
        self.sent_before = len(target.sent)
        self.facts = Facts(
            guest="web1",
            unit="naa.6000000000000001",
            key=K,
            type=None if held is None else PrType(held),
            generation=target.generation,
            keys=tuple(target.regs.values()),
            reservation_key=0 if target.holder is None or target.kind in (7, 8) else target.regs[target.holder],
            reservation_type=None if target.kind is None else PrType(target.kind),
            aptpl=target.aptpl,
            source=Source.ALIVE if alive else Source.DEAD,
            source_nexus=Nexus(target.transport_id("s"), 1),
            destination_nexus=Nexus(target.transport_id("d"), 1),
            vendor=target.vendor,
        )

    def run(self, **changed: object) -> Outcome:
        self.facts = replace(self.facts, **changed)  # type: ignore[arg-type]
        history = self.rows.history()
        source = self.s if self.facts.source is Source.ALIVE else None
        executor = Executor(self.d, source, history, self.rows, pause=lambda _seconds: None)
        keys = iter((N, M))
        outcome = executor.run(takeover(self.facts, history, lambda _taken: next(keys)))
        self.commands = executor.sent
        return outcome

    @property
    def sent(self) -> list[tuple[str, int, int, int]]:
        """(nexus, service action, RESERVATION KEY, SERVICE ACTION RESERVATION KEY), without the probes."""
        return [one[:4] for one in self.target.sent[self.sent_before :] if one[2] != one[3]]


def holding(target: Target, kind: int | None, *, aptpl: bool = False, holder: str = "s") -> Target:
    target.regs = {"o": OTHER, "s": K}
    target.kind, target.holder, target.aptpl = kind, holder if kind is not None else None, aptpl
    return target

"""Models of what real targets do where they leave the standard, as far as a takeover can meet it.

Each is a logical unit with named nexuses. Commands that no takeover may ever send fail the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.transport_id import TransportId

GOOD = Result(0x00)
CONFLICT = Result(0x18)
AR = (7, 8)


def check(key: int, asc: int, ascq: int, *, deferred: bool = False) -> Result:
    return Result(0x02, bytes([0x70 + deferred, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]))


INVALID_FIELD_IN_CDB = check(5, 0x24, 0)


@dataclass
class Target:
    """The standard's behaviour; subclasses change what the named target does otherwise."""

    aptpl: bool = False
    full_status: bool = True
    preempt_and_abort: bool = True
    vendor = "STANDARD"
    loser_attention = (6, 0x2A, 0x05)
    regs: dict[str, int] = field(default_factory=dict)
    kind: int | None = None
    holder: str | None = None
    generation: int = 100
    attentions: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    sent: list[tuple[str, int, int, int, int, bool]] = field(default_factory=list)

    def port(self, name: str) -> Port:
        return Port(self, name)

    def transport_id(self, name: str) -> TransportId:
        return TransportId.parse(f"naa.5{name.encode().hex().zfill(15)[-15:]}")

    def execute(self, name: str, command: Command) -> Result:
        cdb = command.cdb
        if self.attentions.get(name):
            return check(*self.attentions[name].pop(0))
        if cdb[0] == 0x00:
            return GOOD
        if cdb[0] == 0x5E:
            return self.pr_in(cdb[1], int.from_bytes(cdb[7:9]))
        assert cdb[0] == 0x5F, cdb.hex()
        data = bytes(command.data_out)  # type: ignore[arg-type]
        assert len(data) == 24 == int.from_bytes(cdb[5:9]), "the parameter list is 24 bytes on every target"
        assert bytes([*data[16:20], data[20] & 0xFE, *data[21:]]) == bytes(8), data.hex()
        key, sa_key = int.from_bytes(data[:8]), int.from_bytes(data[8:16])
        self.sent.append((name, cdb[1], key, sa_key, cdb[2], bool(data[20] & 1)))
        if cdb[1] == 0x00:
            return self.register(name, key, sa_key, aptpl=bool(data[20] & 1))
        assert cdb[1] in (0x04, 0x05), f"service action {cdb[1]:#x} is never part of a takeover"
        assert cdb[2] in (1, 3, 5, 6, 7, 8), "TYPE must be valid even where it is ignored"
        assert data[20] == 0, "tgt refuses a PREEMPT with APTPL"
        assert sa_key not in (key, 0), "a PREEMPT of the own key or of 0 destroys registrations on some targets"
        if cdb[1] == 0x05 and not self.preempt_and_abort:
            return INVALID_FIELD_IN_CDB
        return self.preempt(name, key, sa_key, cdb[2])

    def pr_in(self, action: int, allocation: int) -> Result:
        head = self.generation.to_bytes(4)
        if action == 0x00:
            body = b"".join(key.to_bytes(8) for key in self.regs.values())
        elif action == 0x01:
            key = 0 if self.kind in AR or self.holder is None else self.regs[self.holder]
            body = key.to_bytes(8) + bytes(5) + bytes([self.kind, 0, 0]) if self.kind is not None else b""
        elif action == 0x02:
            return Result(0, data=bytes([0, 8, 0x11, 0x80 | self.aptpl, 0xEA, 0x01, 0, 0])[:allocation])
        elif action == 0x03 and self.full_status:
            body = b"".join(self.descriptor(name) for name in self.regs)
        else:
            return INVALID_FIELD_IN_CDB
        return Result(0, data=(head + len(body).to_bytes(4) + body)[:allocation])

    def descriptor(self, name: str) -> bytes:
        holds = self.kind in AR or self.holder == name
        kind = self.kind if holds and self.kind is not None else 0
        tid = self.transport_id(name).encode()
        head = self.regs[name].to_bytes(8) + bytes(4) + bytes([holds, kind]) + bytes(4) + (1).to_bytes(2)
        return head + len(tid).to_bytes(4) + tid

    def register(self, name: str, key: int, sa_key: int, *, aptpl: bool) -> Result:
        if self.regs.get(name, 0) != key:
            return CONFLICT
        self.aptpl = aptpl
        self.generation += self.counts_register(name, sa_key)
        if sa_key:
            self.regs[name] = sa_key
        else:
            self.remove([name])
        return GOOD

    def counts_register(self, name: str, sa_key: int) -> int:
        return 1

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.regs.pop(name, None)
            if self.holder == name and self.kind not in AR:
                self.kind = self.holder = None
        if not self.regs:
            self.kind = self.holder = None

    def preempt(self, name: str, key: int, sa_key: int, kind: int) -> Result:
        if self.regs.get(name) != key:
            return CONFLICT
        losers = [one for one, registered in self.regs.items() if registered == sa_key]
        if not losers:
            return self.preempt_of_nobody()
        replaces = self.kind is not None and self.kind not in AR and self.holder in losers
        if replaces:
            self.kind, self.holder = kind, name
        self.generation += self.counts_preempt(len(losers))
        self.remove(losers)
        self.attend(losers)
        return GOOD

    def preempt_of_nobody(self) -> Result:
        return CONFLICT

    def counts_preempt(self, losers: int) -> int:
        return 1

    def attend(self, losers: Iterable[str]) -> None:
        for loser in losers:
            self.attentions.setdefault(loser, []).append(self.loser_attention)

    def clear(self) -> None:
        """Another initiator's CLEAR."""
        losers = list(self.regs)
        self.regs.clear()
        self.kind = self.holder = None
        self.generation += 1
        self.attend(losers)


class Lio(Target):
    """Does not count an unregistration; sometimes lists nothing in READ FULL STATUS."""

    vendor = "LIO-ORG"
    lists_nothing = False

    def descriptor(self, name: str) -> bytes:
        return b"" if self.lists_nothing else super().descriptor(name)

    def counts_register(self, name: str, sa_key: int) -> int:
        return 1 if sa_key else 0


class LioWithoutNames(Lio):
    lists_nothing = True


class Scst(Target):
    vendor = "SCST_BIO"


@dataclass
class Tgt(Target):
    """No READ FULL STATUS, no PREEMPT AND ABORT, 2A/03 to losers; a PREEMPT under AR leaves a dangling holder."""

    full_status: bool = False
    preempt_and_abort: bool = False
    vendor = "IET"
    loser_attention = (6, 0x2A, 0x03)

    def counts_register(self, name: str, sa_key: int) -> int:
        return 2 if not sa_key and self.holder == name and self.kind is not None else 1

    def preempt(self, name: str, key: int, sa_key: int, kind: int) -> Result:
        assert self.kind not in AR, "this would leave the target with a dangling holder"
        return super().preempt(name, key, sa_key, kind)


@dataclass
class Spdk(Target):
    """No PREEMPT AND ABORT, no unit attentions, GOOD for a PREEMPT of a key that nobody has."""

    preempt_and_abort: bool = False
    vendor = "INTEL"

    def counts_preempt(self, losers: int) -> int:
        return 1 + losers

    def preempt_of_nobody(self) -> Result:
        self.generation += 1
        return GOOD

    def attend(self, losers: Iterable[str]) -> None:
        pass


TARGETS: tuple[type[Target], ...] = (Target, Lio, LioWithoutNames, Scst, Tgt, Spdk)


class Port:
    """One nexus of a target. ``fault`` may answer, or act, in place of the unit: it gets the command first."""

    def __init__(self, target: Target, name: str) -> None:
        self.target = target
        self.name = name
        self.fault: Callable[[Command], Result | None] = lambda _command: None

    def execute(self, command: Command) -> Result:
        answer = self.fault(command)
        return self.target.execute(self.name, command) if answer is None else answer

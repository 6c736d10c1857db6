"""What a host keeps of one migration, durable before anything is done about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from pyproxy.migration.messages import LONGEST_TEXT, MAXIMUM_UNITS, MigrationId, PathFacts
from pyproxy.migration.phases import OVER, SERVED_HERE, UNDONE, Phase, Role, phase_of
from pyproxy.migration.repair import Repair
from pyproxy.store.base import MigrationRow, Store

VERSION: Final = 1
_TRAIL: Final = 64
"""How many changes of phase a record remembers, for people."""

_Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
_Sense = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}){8,252}$")]


class RecordError(ValueError):
    """A record in the store cannot be read; the message says which and why."""


class UnitRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of the guest's units.

    ``claim`` is the checkpoint document that moves from source to destination; ``moved`` the claim as the destination
    has it since, which a source takes back. ``decision`` and ``sentence`` say how the last takeover ended here.
    ``other`` is the other host's path to the unit, ``repair`` what was begun to make up for its death.
    ``heard`` is the sense data of unit attentions that a takeover which failed has received, and which are the guest's.
    """

    lun: int
    unit: str
    other: PathFacts | None = None
    same_nexus: bool = False
    claim: str | None = None
    moved: str | None = None
    decision: str = ""
    sentence: _Text = ""
    repair: Repair | None = None
    heard: tuple[_Sense, ...] = ()


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a phase began (RFC 3339, UTC), and why."""

    phase: str
    at: str
    why: _Text


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One migration on one side.

    ``peer`` is the other daemon's name. ``attempt`` counts the takeovers begun here, each of which numbers the commands
    it sends through the other's nexus from its own start. ``peer_dead`` is the operator's statement. ``told``: the
    other side knows how it ended. ``text`` is what the operator is to know now.
    """

    version: int = VERSION
    migration: MigrationId
    role: Role
    guest: str
    peer: str
    epoch: int
    phase: str
    started: str
    attempt: int = 0
    peer_dead: bool = False
    fence_ruled_out: bool = False
    told: bool = False
    text: _Text = ""
    units: Annotated[tuple[UnitRecord, ...], msgspec.Meta(max_length=MAXIMUM_UNITS)] = ()
    trail: tuple[Change, ...] = ()

    @property
    def at(self) -> Phase:
        """The phase, typed."""
        return phase_of(self.role, self.phase)

    def unit(self, lun: int) -> UnitRecord | None:
        """Return the unit of that LUN."""
        return next((one for one in self.units if one.lun == lun), None)

    @classmethod
    def begun(
        cls,
        phase: Phase,
        now: float,
        why: str,
        *,
        migration: str,
        role: Role,
        guest: str,
        peer: str,
        epoch: int,
        units: tuple[UnitRecord, ...],
    ) -> Record:
        """Return the record of a migration that begins ``now`` (seconds since 1970) in a phase."""
        at = rfc3339(now)
        return cls(
            migration=migration,
            role=role,
            guest=guest,
            peer=peer,
            epoch=epoch,
            phase=str(phase),
            started=at,
            units=units,
            trail=(Change(str(phase), at, why),),
        )

    def moved_to(self, phase: Phase, now: float, why: str) -> Record:
        """Return the record in another phase from ``now`` (seconds since 1970) on."""
        trail = (*self.trail, Change(str(phase), rfc3339(now), why[:LONGEST_TEXT]))[-_TRAIL:]
        return msgspec.structs.replace(self, phase=str(phase), trail=trail)

    def bounded(self) -> Record:
        """Return the record with its texts cut to what is read back."""
        units = tuple(
            msgspec.structs.replace(one, sentence=one.sentence[:LONGEST_TEXT])
            if len(one.sentence) > LONGEST_TEXT
            else one
            for one in self.units
        )
        return msgspec.structs.replace(self, text=self.text[:LONGEST_TEXT], units=units)


_DECODER: Final = msgspec.json.Decoder(Record)


def rfc3339(now: float) -> str:
    """Write a time in seconds since 1970 in UTC, with milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(at: str) -> float:
    """Return a time that ``rfc3339`` wrote, in seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()


def encode_record(record: Record) -> MigrationRow:
    """Return the row that is kept of a record."""
    over = record.at in OVER and record.told
    return MigrationRow(record.migration, record.role, record.guest, msgspec.json.encode(record), over)


def decode_record(row: MigrationRow) -> Record:
    """Read a row; raises RecordError."""
    try:
        record = _DECODER.decode(row.document)
        _ = record.at
    except (msgspec.MsgspecError, ValueError) as error:
        raise RecordError(
            f"guest {row.guest}: the record of migration {row.migration} cannot be read ({error}); it was written by "
            "another version of pyproxy, start that one"
        ) from None
    if record.version != VERSION:
        raise RecordError(
            f"guest {row.guest}: the record of migration {row.migration} has version {record.version}, this pyproxy "
            f"knows {VERSION}: start the version that wrote it"
        )
    return record


def load_records(store: Store) -> list[Record]:
    """Return every migration the store knows, oldest first; raises StoreError, RecordError."""
    return [decode_record(row) for row in store.migrations()]


def why_shut(records: list[Record], guest: str) -> str | None:
    """Say why a guest may not be served here, from all that is known of its migrations; None where it may."""
    for record in reversed(records):
        if record.guest != guest or record.at in UNDONE:
            continue
        if record.at in SERVED_HERE:
            return None
        return f"migration {record.migration} {_TOWARDS[record.role]} {record.peer} is {record.phase}"
    return None


_TOWARDS: Final = {Role.SOURCE: "to", Role.DESTINATION: "from"}

"""What two daemons say to each other while a guest's claim moves between them, as typed JSON.

Every request names the migration and, once the source has given it one, its epoch, so that a repeated, late or
foreign one is recognised; each may be sent again, and is then answered without being done twice. The source asks:
``Prepare``, ``Offer``, ``Ask``, ``Abort``, ``Close``; the destination, whose hypervisor is the first to know in
libvirt's migrations, ``Invite`` and ``Withdraw``. Whoever brings the claim to its own nexus (the destination, or a
source that takes it back) lets the other side send commands through the other nexus: ``Execute``.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from pyproxy.migration.checkpoint import Unit

VERSION: Final = 1
"""Of these messages; a peer with another one is refused before anything changes."""

MAXIMUM_UNITS: Final = 1024
MAXIMUM_ATTENTIONS: Final = 16
"""Of one unit, that a takeover has received and gives back."""
LONGEST_TEXT: Final = 4096
"""Characters of what is said for people."""
LARGEST_MESSAGE: Final = 64 << 20
"""Bytes; checkpoints of very many units with very many registrations."""

_LARGEST_DATA: Final = 2 << 16
_LONGEST_CDB: Final = 2 << 5

MigrationId: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="chosen at random by who begins")]
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
_Lun = Annotated[int, Meta(ge=0, le=16383)]
_Epoch = Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
_Sequence = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
_Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$", max_length=2 * _LARGEST_DATA, description="bytes, hexadecimal")]
_Cdb = Annotated[str, Meta(pattern="^([0-9a-f]{2}){6,32}$", max_length=_LONGEST_CDB)]
_Sense = Annotated[str, Meta(pattern="^([0-9a-f]{2}){8,252}$", max_length=504, description="sense data, hexadecimal")]
_Document = Annotated[str, Meta(max_length=1 << 20, description="a checkpoint document (docs/checkpoint.md)")]


class _Message(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="message"):
    pass


class _Request(_Message, frozen=True, kw_only=True):
    """``epoch`` is the number this takeover of the guest will have: one more than the highest of its units'."""

    version: int = VERSION
    migration: MigrationId
    guest: _Name
    epoch: _Epoch


class PathFacts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One unit of the guest as one host reaches it.

    ``initiator`` and ``rtpi`` name the I_T nexus where they are known; ``address`` is the kernel's H:C:T:L where it has
    one.
    """

    lun: _Lun
    unit: Unit
    initiator: _Text | None = None
    rtpi: Annotated[int, Meta(ge=0, le=0xFFFF)] | None = None
    address: _Text | None = None


class Invite(_Message, frozen=True, kw_only=True, tag="invite"):
    """The guest's hypervisor has begun to receive it here: prepare and arm a migration of that number to here."""

    version: int = VERSION
    migration: MigrationId
    guest: _Name


class Withdraw(_Request, frozen=True, kw_only=True, tag="withdraw"):
    """The guest's hypervisor does not receive it here any more: call the migration off where that can still be done.

    As the operator's cancelling at the source; an answer in another phase says that it cannot.
    """


class Prepare(_Request, frozen=True, kw_only=True, tag="prepare"):
    """Before anything changes: can you take this guest? ``boot_id`` tells whether both run on one kernel."""

    boot_id: _Text
    units: Annotated[list[PathFacts], Meta(min_length=1, max_length=MAXIMUM_UNITS)]


class Offer(_Request, frozen=True, kw_only=True, tag="offer"):
    """The guest has stopped here and its commands have ended; these are its claims, one document for each unit."""

    checkpoints: Annotated[list[_Document], Meta(min_length=1, max_length=MAXIMUM_UNITS)]


class Ask(_Request, frozen=True, kw_only=True, tag="ask"):
    """How far are you? Answered when the phase is no longer ``seen``, at the latest after ``wait_ms``."""

    seen: _Text = ""
    wait_ms: Annotated[int, Meta(ge=0, le=20_000)] = 0


class Abort(_Request, frozen=True, kw_only=True, tag="abort"):
    """The guest goes on at the source (or nowhere): never start to serve it for this migration.

    Refused, by the phase in the answer, where the guest runs at the destination already.
    """


class Close(_Request, frozen=True, kw_only=True, tag="close"):
    """The migration is over: ``committed`` (the claim is the destination's) or not (it is the source's)."""

    committed: bool


class Execute(_Request, frozen=True, kw_only=True, tag="execute"):
    """Send one command through your nexus to the guest's unit ``lun``.

    Only what a takeover needs is accepted (``migration.lent``). ``sequence`` counts the commands of this unit in this
    migration: one that has been answered before gets the same answer again.
    """

    lun: _Lun
    sequence: _Sequence
    cdb: _Cdb
    data_out: _Hex = ""
    data_in: Annotated[int, Meta(ge=0, le=_LARGEST_DATA)] = 0
    timeout_ms: Annotated[int, Meta(ge=1, le=600_000)] = 30_000


class UnitProgress(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How it stands with one unit: the takeover's decision ("" while there is none) and its sentence.

    ``checkpoint`` is the claim as the destination has it now, where it has taken it over. Where it could not, ``heard``
    are the unit attentions (sense data) that were received for that, and are the guest's.
    """

    lun: _Lun
    decision: _Text = ""
    sentence: _Text = ""
    checkpoint: _Document | None = None
    heard: Annotated[list[_Sense], Meta(max_length=MAXIMUM_ATTENTIONS)] = []


class Progress(_Message, frozen=True, kw_only=True, tag="progress"):
    """Where the answering side is: its phase, what it waits for or refuses in a sentence, and each unit.

    ``paths`` answer a ``Prepare``: how the destination reaches the units.
    """

    phase: _Text
    text: _Text = ""
    problems: Annotated[list[_Text], Meta(max_length=MAXIMUM_UNITS)] = []
    paths: Annotated[list[PathFacts], Meta(max_length=MAXIMUM_UNITS)] = []
    same_nexus: Annotated[list[_Lun], Meta(max_length=MAXIMUM_UNITS)] = []
    units: Annotated[list[UnitProgress], Meta(max_length=MAXIMUM_UNITS)] = []


class Executed(_Message, frozen=True, kw_only=True, tag="executed"):
    """What became of a command; ``error`` is the transport's, with which ``status`` and the data mean nothing."""

    status: Annotated[int, Meta(ge=0, le=0xFF)] = 0
    sense: _Hex = ""
    data: _Hex = ""
    residual: Annotated[int, Meta(ge=0, le=_LARGEST_DATA)] = 0
    host_status: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0
    error: _Text | None = None
    fate_unknown: bool = True


Numbered: TypeAlias = Withdraw | Prepare | Offer | Ask | Abort | Close | Execute
"""Requests about a migration that both sides know."""
Request: TypeAlias = Invite | Numbered
Reply: TypeAlias = Progress | Executed

"""The checkpoint document: what one guest has registered and reserved on one logical unit, as a file.

JSON with a version, and a SHA-256 digest over its canonical form, so that a damaged or edited file is refused. It is a
hint: on restore the device is the truth. docs/checkpoint.md explains each field; docs/checkpoint.schema.json is made
from the structs here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import msgspec

from pyproxy.reservation.facts import Nexus
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.pr_in import ReadReservation
from pyproxy.scsi.sense import Sense, decode_sense
from pyproxy.scsi.transport_id import TransportId
from pyproxy.scsi.vpd import Designator

FORMAT: Final = "pyproxy-checkpoint"
VERSION: Final = 1
LARGEST_DOCUMENT: Final = 1 << 20
"""Bytes; a unit with the most registrations that READ KEYS can list needs about 180 KiB."""

_MAXIMUM_KEYS: Final = 8190
_MAXIMUM_ATTENTIONS: Final = 16
_DIGEST_PREFIX: Final = "sha256:"


class CheckpointFailure(StrEnum):
    """What is wrong with a checkpoint document."""

    TOO_LARGE = "too-large"
    NOT_JSON = "not-json"
    TRUNCATED = "truncated"
    NOT_A_CHECKPOINT = "not-a-checkpoint"
    NEWER_VERSION = "newer-version"
    WRONG_DIGEST = "wrong-digest"
    INVALID = "invalid"
    INCONSISTENT = "inconsistent"


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message names the file, what is wrong and what to do."""

    def __init__(self, reason: CheckpointFailure, message: str) -> None:
        super().__init__(message)
        self.reason = reason


ReservationType: TypeAlias = Literal[1, 3, 5, 6, 7, 8]

_Key = Annotated[
    str, msgspec.Meta(pattern="^0x[0-9a-f]{16}$", description="64-bit reservation key: 0x and 16 hexadecimal digits")
]
_Hex = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2})*$", max_length=2048, description="bytes in hexadecimal")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
_U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
_Epoch = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
_Time = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$", description="RFC 3339 time"
    ),
]


class UnitDesignator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One designation descriptor of VPD page 83h (SPC-4 7.8.6.1)."""

    association: Annotated[int, msgspec.Meta(ge=0, le=3)]
    type: Annotated[int, msgspec.Meta(ge=0, le=0xF)]
    code_set: Annotated[int, msgspec.Meta(ge=0, le=0xF)]
    protocol: Annotated[int, msgspec.Meta(ge=0, le=0xF)] | None
    value: _Hex


class Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which logical unit: its best name, for people, and all designators, for the comparison."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    designators: Annotated[list[UnitDesignator], msgspec.Meta(max_length=64)]

    @classmethod
    def of(cls, identity: LogicalUnitIdentity) -> Self:
        """Write an identity down."""
        return cls(
            name=identity.name,
            designators=[
                UnitDesignator(
                    association=one.association,
                    type=one.type,
                    code_set=one.code_set,
                    protocol=one.protocol,
                    value=one.value.hex(),
                )
                for one in identity.designators
            ],
        )

    @property
    def identity(self) -> LogicalUnitIdentity:
        """The unit's designators as one comparable value."""
        return LogicalUnitIdentity(
            tuple(
                Designator(one.association, one.type, one.code_set, bytes.fromhex(one.value), one.protocol)
                for one in self.designators
            )
        )


class GuestNexus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the guest's I_T nexus had.

    ``key`` 0 is "not registered"; ``type`` the type of the reservation it held, by number, or null. ``aptpl`` is the
    last APTPL value seen, null when never. ``transport_id`` and ``rtpi`` name the nexus as READ FULL STATUS
    does, null where not known.
    """

    key: _Key
    type: ReservationType | None
    aptpl: bool | None
    all_tg_pt: bool
    transport_id: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None
    rtpi: _U16 | None


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the device showed: PRGENERATION, one key per registered nexus, and the READ RESERVATION data."""

    generation: _U32
    keys: Annotated[list[_Key], msgspec.Meta(max_length=_MAXIMUM_KEYS)]
    reservation: _Hex


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest on one logical unit. Build with ``take_checkpoint`` or ``decode_checkpoint``, which check it whole.

    ``epoch`` counts the takeovers of this guest's claim. ``attentions`` are the unit attentions the guest has still to
    be told, as sense data. ``descriptor_sense``: the guest is told in descriptor format (D_SENSE).
    """

    format: Literal["pyproxy-checkpoint"]
    version: Literal[1]
    created_at: _Time
    guest: _Name
    lun: Annotated[int, msgspec.Meta(ge=0, le=16383)]
    epoch: _Epoch
    unit: Unit
    nexus: GuestNexus
    shown: Shown
    attentions: Annotated[list[_Hex], msgspec.Meta(max_length=_MAXIMUM_ATTENTIONS)]
    descriptor_sense: bool

    @property
    def identity(self) -> LogicalUnitIdentity:
        """The unit's designators as one comparable value."""
        return self.unit.identity

    @property
    def key(self) -> int:
        """The guest's key, 0 when it was not registered."""
        return int(self.nexus.key, 16)

    @property
    def held(self) -> PrType | None:
        """The type of the reservation the guest held."""
        return None if self.nexus.type is None else PrType(self.nexus.type)

    @property
    def nexus_name(self) -> Nexus | None:
        """How READ FULL STATUS names the source's nexus, where known."""
        name = self.nexus.transport_id
        return None if name is None else Nexus(TransportId.parse(name), self.nexus.rtpi)

    @property
    def keys(self) -> tuple[int, ...]:
        """The registered keys, one per nexus."""
        return tuple(int(key, 16) for key in self.shown.keys)

    @property
    def reservation(self) -> ReadReservation:
        """The READ RESERVATION data."""
        return ReadReservation.decode(bytes.fromhex(self.shown.reservation))

    @property
    def pending(self) -> tuple[Sense, ...]:
        """The unit attentions the guest has still to be told, oldest first."""
        decoded = (decode_sense(bytes.fromhex(one)) for one in self.attentions)
        return tuple(sense for sense in decoded if sense is not None)

    @property
    def digest(self) -> str:
        """``sha256:`` and the hexadecimal digest over the canonical form."""
        return _digest(msgspec.to_builtins(self))


msgspec.json.Decoder(Checkpoint)
# msgspec prepares a type when it is first used, and dies where two threads do that at the same time: it is used here.


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the document: indented JSON with its digest, ending with a newline."""
    fields: dict[str, Any] = msgspec.to_builtins(checkpoint)
    document = {"format": fields.pop("format"), "version": fields.pop("version"), "digest": checkpoint.digest} | fields
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode_checkpoint(data: bytes, name: str = "checkpoint") -> Checkpoint:
    """Read and check a document; ``name`` is what error messages call it. Raises CheckpointError, one reason each."""

    def fail(reason: CheckpointFailure, text: str) -> CheckpointError:
        return CheckpointError(reason, f"{name}: {text}")

    if len(data) > LARGEST_DOCUMENT:
        raise fail(
            CheckpointFailure.TOO_LARGE,
            f"{len(data)} bytes are more than a checkpoint can have ({LARGEST_DOCUMENT}); this is another file",
        )
    raw = _parse(data, fail)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise fail(CheckpointFailure.NOT_A_CHECKPOINT, f"this JSON is not a checkpoint ('format' is not {FORMAT!r})")
    version = raw.get("version")
    if type(version) is int and version > VERSION:
        raise fail(
            CheckpointFailure.NEWER_VERSION,
            f"version {version} was written by a newer pyproxy; this one reads up to version {VERSION}: upgrade it",
        )
    digest = raw.pop("digest", None)
    if not isinstance(digest, str):
        raise fail(CheckpointFailure.INVALID, "field 'digest' is missing or not a text; make a new checkpoint")
    try:
        matches = digest == _digest(raw)
    except RecursionError:
        matches = False
    if not matches:
        raise fail(
            CheckpointFailure.WRONG_DIGEST,
            "the digest does not match the content: the file was damaged or edited; copy it again or make a new one",
        )
    try:
        checkpoint = msgspec.convert(raw, Checkpoint)
    except msgspec.ValidationError as error:
        raise fail(CheckpointFailure.INVALID, f"{_plain(str(error))}; make a new checkpoint") from None
    _check(checkpoint, fail)
    return checkpoint


def checkpoint_schema() -> bytes:
    """Return the JSON schema of the document, as docs/checkpoint.schema.json has it."""
    schema = msgspec.json.schema(Checkpoint)
    body = schema["$defs"]["Checkpoint"]
    body["properties"] = {
        "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$", "description": "over the canonical form"}
    } | body["properties"]
    body["required"] = ["digest", *body["required"]]
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pyproxy checkpoint"} | schema
    return json.dumps(document, indent=2).encode() + b"\n"


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a person wants to know about a checkpoint: labels and values, in the order to show them."""
    held = checkpoint.held
    reservation = checkpoint.reservation
    aptpl = {None: "not known", True: "yes", False: "no"}[checkpoint.nexus.aptpl]
    kind = reservation.type
    if kind is None:
        shown = "none"
    else:
        shown = _type_name(kind) + ("" if _for_everyone(kind) else f", key {reservation.key:#018x}")
    counts = {key: checkpoint.keys.count(key) for key in checkpoint.keys}
    return {
        "guest": checkpoint.guest,
        "LUN": str(checkpoint.lun),
        "logical unit": checkpoint.unit.name,
        "made": checkpoint.created_at,
        "takeovers so far": str(checkpoint.epoch),
        "registered": f"key {checkpoint.key:#018x}" if checkpoint.key else "no",
        "holds": "nothing" if held is None else _type_name(held),
        "survives power loss (APTPL)": aptpl,
        "source nexus": _nexus_text(checkpoint),
        "reservation on the unit": shown,
        "registered keys": ", ".join(
            f"{key:#018x}" + (f" ({count} times)" if count > 1 else "") for key, count in counts.items()
        )
        or "none",
        "PRGENERATION": str(checkpoint.shown.generation),
        "unit attentions to deliver": ", ".join(map(str, checkpoint.pending)) or "none",
        "digest": checkpoint.digest,
    }


def _nexus_text(checkpoint: Checkpoint) -> str:
    nexus = checkpoint.nexus
    if nexus.transport_id is None:
        return "not known"
    return nexus.transport_id + ("" if nexus.rtpi is None else f", target port {nexus.rtpi}")


def _type_name(kind: int) -> str:
    known = next((value for value in PrType if value == kind), None)
    return f"unknown type {kind:#x}" if known is None else known.name.replace("_", " ").title()


def _for_everyone(kind: int) -> bool:
    return any(value == kind and value.all_registrants for value in PrType)


def _parse(data: bytes, fail: Any) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if "truncated" in str(error) and data.lstrip()[:1] == b"{":
            raise fail(
                CheckpointFailure.TRUNCATED,
                f"the file ends after {len(data)} bytes, inside the document; copy it again",
            ) from None
        raise fail(
            CheckpointFailure.NOT_JSON, f"this is not JSON ({_plain(str(error))}), so not a checkpoint"
        ) from None


def _digest(fields: Mapping[str, object]) -> str:
    """Digest of the canonical form: keys sorted, no spaces, ASCII."""
    canonical = _CANONICAL.encode(fields)
    if _PLAIN.fullmatch(canonical) is None:
        # Escapes are where encoders differ; these are those of Python's.
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    return _DIGEST_PREFIX + hashlib.sha256(canonical).hexdigest()


_CANONICAL: Final = msgspec.json.Encoder(order="sorted")
_PLAIN: Final = re.compile(rb"[ -\[\]-~]*")


def _check(checkpoint: Checkpoint, fail: Any) -> None:
    """Require that the fields agree with each other."""

    def inconsistent(text: str) -> CheckpointError:
        error: CheckpointError = fail(CheckpointFailure.INCONSISTENT, f"{text}; make a new checkpoint")
        return error

    try:
        reservation = checkpoint.reservation
    except DecodeError as error:
        raise inconsistent(f"'shown.reservation' is not READ RESERVATION data: {error}") from None
    try:
        _ = checkpoint.nexus_name
    except ValueError as error:
        raise inconsistent(f"'nexus.transport_id' cannot be read: {error}") from None
    if reservation.generation != checkpoint.shown.generation:
        raise inconsistent("'shown.reservation' has another PRGENERATION than 'shown.generation'")
    if len(checkpoint.pending) != len(checkpoint.attentions):
        raise inconsistent("'attentions' has an entry that is not sense data")
    if checkpoint.key == 0 and checkpoint.held is not None:
        raise inconsistent("the guest holds a reservation but has no key")
    if 0 in checkpoint.keys:
        raise inconsistent("'shown.keys' has the key 0, which cannot be registered")
    if checkpoint.key and checkpoint.key not in checkpoint.keys:
        raise inconsistent("the guest's key is not among 'shown.keys'")
    if checkpoint.held is not None and (
        reservation.type != checkpoint.held
        or (not checkpoint.held.all_registrants and reservation.key != checkpoint.key)
    ):
        raise inconsistent("the guest holds a reservation that 'shown.reservation' does not show")
    if not checkpoint.identity.unique:
        raise inconsistent("'unit.designators' has no world-wide unique name of the logical unit")


def _plain(text: str) -> str:
    """Take msgspec's path notation out of a message."""
    return re.sub(r" - at `\$\.?([^`]*)`", lambda match: f" (at '{match[1]}')" if match[1] else "", text)

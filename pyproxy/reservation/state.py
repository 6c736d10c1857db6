"""What one guest's I_T nexus has registered and reserved on one logical unit, as an immutable value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from pyproxy.scsi.constants import PrType
from pyproxy.scsi.transport_id import TransportId

DOCUMENT_FORMAT: Final = 1
_KEY_LIMIT: Final = 1 << 64


class Suspicion(StrEnum):
    """Why tracked state may differ from the device's; the text is what logs, reports and tests show."""

    RESTART = "restart"
    DEVICE_REPLACED = "device-replaced"
    NEXUS_LOST = "nexus-lost"
    RESERVATIONS_PREEMPTED = "unit-attention-2a-03"
    RESERVATIONS_RELEASED = "unit-attention-2a-04"
    REGISTRATIONS_PREEMPTED = "unit-attention-2a-05"
    ACCESS_STATE_CHANGED = "unit-attention-2a-06"
    RESET = "unit-attention-29"
    PREVIOUS_CONFLICT = "unit-attention-2c-09"
    COMMANDS_CLEARED = "unit-attention-2f-00"
    LUNS_CHANGED = "unit-attention-3f-0e"
    OTHER_ATTENTION = "unit-attention-other"
    INFORMATION_LOST = "reservation-information-lost"
    MEDIUM_CONFLICT = "unexpected-conflict-on-medium"
    PR_OUT_CONFLICT = "unexpected-conflict-on-pr-out"
    PR_OUT_ERROR = "check-condition-with-unknown-effect"
    UNEXPECTED_GOOD = "good-that-contradicts-tracked-state"
    PREEMPT_OUTCOME = "preempt-outcome-not-read"
    OTHER_NEXUSES = "registrations-of-other-nexuses"
    FATE_UNKNOWN = "fate-unknown"
    EVENTS_LOST = "inspect-events-lost"
    STORE_FAILED = "store-failed"
    RESYNC_FAILED = "resync-failed"
    POLL_MISMATCH = "poll-mismatch"
    AMBIGUOUS_HOLDER = "ambiguous-holder"
    AMBIGUOUS_KEY = "ambiguous-key"
    UNKNOWN_TYPE = "unknown-reservation-type"


class StateDocumentError(ValueError):
    """A stored nexus state cannot be read; the message says what was got and what was expected."""


@dataclass(frozen=True, slots=True)
class NexusState:
    """Registration and reservation of one I_T nexus on one logical unit.

    ``key`` is the registered reservation key, 0 for none. ``type`` is the type of the reservation this nexus
    holds, or None. ``aptpl`` is the last APTPL value known, None when never seen. ``all_tg_pt`` tells that the
    registration was made with ALL_TG_PT. ``generation`` is the last PRGENERATION read. ``epoch`` counts
    takeovers. ``suspect`` are the reasons (Suspicion) why this may not be what the device has; empty means fresh.
    ``spc2_reserved`` tells that the guest holds an SPC-2 RESERVE, which PREEMPT cannot move. ``transport_id`` and
    ``rtpi`` name the nexus as the device shows it, where known.
    """

    key: int = 0
    type: PrType | None = None
    aptpl: bool | None = None
    all_tg_pt: bool = False
    generation: int | None = None
    epoch: int = 0
    suspect: tuple[str, ...] = ()
    spc2_reserved: bool = False
    transport_id: TransportId | None = None
    rtpi: int | None = None

    @property
    def registered(self) -> bool:
        """Whether the nexus has a registration."""
        return self.key != 0

    @property
    def holds(self) -> bool:
        """Whether the nexus is a reservation holder (with all-registrants types every registrant is)."""
        return self.type is not None

    @property
    def fresh(self) -> bool:
        """Whether nothing is known that speaks against this state."""
        return not self.suspect

    def suspected(self, *reasons: str) -> NexusState:
        """Return this state with ``reasons`` added to what it is suspected for, each once."""
        return replace(self, suspect=merge_reasons(self.suspect, reasons))

    def cleared(self) -> NexusState:
        """Return this state as fresh."""
        return replace(self, suspect=())

    def __str__(self) -> str:
        if not self.registered:
            text = "not registered"
        else:
            text = f"registered with key {self.key:#018x}, " + (
                f"holds {self.type.name.replace('_', ' ')}" if self.type is not None else "holds no reservation"
            )
        if self.spc2_reserved:
            text += ", holds an SPC-2 RESERVE"
        return f"{text}, suspect: {', '.join(self.suspect)}" if self.suspect else text


def merge_reasons(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Return the reasons of both in order, each once."""
    return tuple(dict.fromkeys(str(reason) for reason in (*first, *second)))


def encode_state(state: NexusState) -> bytes:
    """Return the JSON document that the store keeps; keys are 16 hex digits so that no reader rounds them."""
    return json.dumps(
        {
            "format": DOCUMENT_FORMAT,
            "key": f"{state.key:016x}",
            "type": None if state.type is None else int(state.type),
            "aptpl": state.aptpl,
            "all_tg_pt": state.all_tg_pt,
            "generation": state.generation,
            "epoch": state.epoch,
            "suspect": list(state.suspect),
            "spc2_reserved": state.spc2_reserved,
            "transport_id": None if state.transport_id is None else str(state.transport_id),
            "rtpi": state.rtpi,
        },
        separators=(",", ":"),
    ).encode()


def decode_state(document: bytes) -> NexusState:
    """Read what ``encode_state`` wrote; raises StateDocumentError. Unknown members are ignored."""
    try:
        raw = json.loads(document)
    except ValueError as error:
        raise StateDocumentError(f"stored nexus state is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise StateDocumentError(f"stored nexus state is a JSON {type(raw).__name__}, expected an object")
    if raw.get("format") != DOCUMENT_FORMAT:
        raise StateDocumentError(
            f"stored nexus state has format {raw.get('format')!r}, this version reads {DOCUMENT_FORMAT}; "
            "use the pyproxy that wrote it"
        )
    try:
        return NexusState(
            key=_key(raw["key"]),
            type=None if raw["type"] is None else PrType(raw["type"]),
            aptpl=_optional(raw, "aptpl", bool),
            all_tg_pt=_required(raw, "all_tg_pt", bool),
            generation=_optional(raw, "generation", int),
            epoch=_required(raw, "epoch", int),
            suspect=tuple(_texts(raw["suspect"])),
            spc2_reserved=_required(raw, "spc2_reserved", bool),
            transport_id=None if raw["transport_id"] is None else TransportId.parse(raw["transport_id"]),
            rtpi=_optional(raw, "rtpi", int),
        )
    except KeyError as error:
        raise StateDocumentError(f"stored nexus state lacks {error.args[0]!r}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise StateDocumentError(f"stored nexus state cannot be read: {error}") from None


def _key(value: object) -> int:
    if not isinstance(value, str):
        raise TypeError(f"key is {value!r}, expected 16 hex digits")
    key = int(value, 16)
    if not 0 <= key < _KEY_LIMIT:
        raise ValueError(f"key is {value!r}, expected 16 hex digits")
    return key


def _required(raw: dict[str, Any], name: str, kind: type) -> Any:
    value = raw[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


def _optional(raw: dict[str, Any], name: str, kind: type) -> Any:
    return None if raw[name] is None else _required(raw, name, kind)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"suspect is {value!r}, expected a list of texts")
    return value

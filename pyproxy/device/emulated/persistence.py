"""The file beside a unit's medium that outlives a power loss: serial number and persistent reservations."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pyproxy.device.emulated.outcome import EmulatedUnitError
from pyproxy.device.emulated.reservations import Nexus, Registration, Reservation, ReservationState
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.transport_id import decode_reported_transport_id

FORMAT: Final = 1
_SIZE_LIMIT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class SavedUnit:
    """What the state file says: the unit's serial number and what of its reservations survives a power loss."""

    serial: str
    reservations: ReservationState


class StateFile:
    """Reads and durably replaces the state file; a reader finds the old content or the new, never a mixture."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + ".new")

    def load(self) -> SavedUnit | None:
        """Return the content, None where there is no file; raises EmulatedUnitError when it is damaged."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(_SIZE_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EmulatedUnitError(
                error.errno, f"cannot read {self.path}: {error.strerror}; make it readable"
            ) from error
        try:
            return _decode(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EmulatedUnitError(
                f"{self.path} is damaged ({error}): the unit's persistent reservations cannot be known; restore the "
                "file from a backup, or remove it to start with a new serial number and no reservations"
            ) from error

    def save(self, unit: SavedUnit) -> None:
        """Replace the content; on return it is on stable storage. Raises OSError, the old content then stands."""
        raw = _encode(unit)
        try:
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                written = 0
                while written < len(raw):
                    written += os.write(descriptor, raw[written:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            with suppress(OSError):
                self._temporary.unlink()
            raise
        self._temporary.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _encode(unit: SavedUnit) -> bytes:
    state = unit.reservations
    held = state.reservation
    content = {
        "format": FORMAT,
        "serial": unit.serial,
        "aptpl": state.aptpl,
        "registrations": [
            {**_nexus(nexus), "key": f"{one.key:016x}", "all_tg_pt": one.all_tg_pt}
            for nexus, one in state.registrations.items()
        ],
        "reservation": None
        if held is None
        else {"type": int(held.type), "holder": None if held.holder is None else _nexus(held.holder)},
    }
    return (json.dumps({"unit": content, "sha256": _digest(content)}, indent=1) + "\n").encode()


def _decode(raw: bytes) -> SavedUnit:
    if len(raw) > _SIZE_LIMIT:
        raise ValueError(f"over {_SIZE_LIMIT} bytes long")
    document = json.loads(raw)
    content = document["unit"]
    if document["sha256"] != _digest(content):
        raise ValueError("its digest does not match its content")
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}, this program reads format {FORMAT}")
    registrations = {
        _read_nexus(one): Registration(int(one["key"], 16), bool(one["all_tg_pt"])) for one in content["registrations"]
    }
    held = content["reservation"]
    reservation = None
    if held is not None:
        holder = None if held["holder"] is None else _read_nexus(held["holder"])
        reservation = Reservation(PrType(held["type"]), holder)
        if (holder is None) != reservation.type.all_registrants or (holder is not None and holder not in registrations):
            raise ValueError("its reservation has no registered holder")
    state = ReservationState(0, MappingProxyType(registrations), reservation, bool(content["aptpl"]))
    return SavedUnit(str(content["serial"]), state)


def _nexus(nexus: Nexus) -> dict[str, Any]:
    # The text is for people; the bytes are what is read back, whatever protocol they are of.
    return {"initiator": str(nexus.initiator), "transport_id": nexus.initiator.encode().hex(), "rtpi": nexus.rtpi}


def _read_nexus(saved: dict[str, Any]) -> Nexus:
    initiator = decode_reported_transport_id(bytes.fromhex(saved["transport_id"]))
    if initiator is None:
        raise ValueError("a registration names no initiator port")
    return Nexus(initiator, int(saved["rtpi"]))


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

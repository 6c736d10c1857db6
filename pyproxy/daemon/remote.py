"""The operations of a host, asked of the daemon that runs there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import msgspec

from pyproxy.daemon.documents import (
    AdoptDocument,
    CapabilitiesDocument,
    FullStatusDocument,
    KeysDocument,
    MigrationDocument,
    MigrationsDocument,
    ReservationDocument,
    RestoreDocument,
    StatusDocument,
)
from pyproxy.daemon.live import LiveDocument
from pyproxy.daemon.operations import AdoptRequest, MigrateRequest, RestoreRequest
from pyproxy.frontend.api import Client

D = TypeVar("D", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class RemoteOperations:
    """Operations through the control API."""

    client: Client

    def status(self) -> StatusDocument:
        """Return every guest and unit with its tracked state."""
        return msgspec.json.decode(self.client.request("GET", "/status"), type=StatusDocument)

    def live(self) -> LiveDocument:
        """Return what passes now."""
        return msgspec.json.decode(self.client.request("GET", "/live"), type=LiveDocument)

    def checkpoint(self, guest: str, lun: int | None) -> bytes:
        """Return the checkpoint document of a guest."""
        path = f"/guests/{quote(guest, safe='')}/checkpoint"
        return self.client.request("POST", path) if lun is None else self.client.request("POST", path, lun=str(lun))

    def adopt(self, guest: str, lun: int, request: AdoptRequest) -> AdoptDocument:
        """Take a registration made without pyproxy into the tracked state."""
        path = f"/guests/{quote(guest, safe='')}/units/{lun}/adopt"
        return msgspec.json.decode(self.client.request("POST", path, msgspec.json.encode(request)), type=AdoptDocument)

    def restore(self, request: RestoreRequest) -> RestoreDocument:
        """Take the guest of a checkpoint over."""
        answer = self.client.request("POST", "/restore", msgspec.json.encode(request))
        return msgspec.json.decode(answer, type=RestoreDocument)

    def migrate(self, guest: str, request: MigrateRequest) -> MigrationDocument:
        """Begin, go on with or cancel a migration."""
        path = f"/guests/{quote(guest, safe='')}/migration"
        answer = self.client.request("POST", path, msgspec.json.encode(request))
        return msgspec.json.decode(answer, type=MigrationDocument)

    def migrations(self) -> MigrationsDocument:
        """Return what is known of all migrations."""
        return msgspec.json.decode(self.client.request("GET", "/migrations"), type=MigrationsDocument)

    def pr_keys(self, target: str) -> KeysDocument:
        """READ KEYS."""
        return self._read("keys", target, KeysDocument)

    def pr_reservation(self, target: str) -> ReservationDocument:
        """READ RESERVATION."""
        return self._read("reservation", target, ReservationDocument)

    def pr_status(self, target: str) -> FullStatusDocument:
        """Read keys, reservation and full status."""
        return self._read("status", target, FullStatusDocument)

    def pr_capabilities(self, target: str) -> CapabilitiesDocument:
        """REPORT CAPABILITIES."""
        return self._read("capabilities", target, CapabilitiesDocument)

    def _read(self, what: str, target: str, document: type[D]) -> D:
        return msgspec.json.decode(self.client.request("GET", f"/pr/{what}", target=target), type=document)

"""What can be asked of a host, the same whether a running daemon answers or the command does it itself."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

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


class RestoreRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A takeover: the checkpoint ``document`` as written, and which nodes to use.

    ``device`` is the destination's node where the checkpoint's unit is not configured here; ``source`` a node that
    reaches the source's nexus. ``source_dead`` is the operator's statement that the source has stopped for good,
    ``fence_ruled_out`` that no node fenced the guest while an earlier restore was interrupted.
    """

    document: bytes
    device: str | None = None
    source: str | None = None
    source_dead: bool = False
    fence_ruled_out: bool = False


class AdoptRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An adoption; ``key`` ("0x" and 1 to 16 hex digits) is the only one to try, None tries every registered one."""

    key: Annotated[str, Meta(pattern=r"^0x[0-9A-Fa-f]{1,16}$")] | None = None

    @property
    def number(self) -> int | None:
        """The key as a number."""
        return None if self.key is None else int(self.key, 16)


class MigrateRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to happen with a guest's migration.

    ``arm``: prepare one to the peer ``to``, which begins when the guest stops. ``invite``: have the peer ``source``,
    or whichever peer serves the guest, prepare one to here; ``withdraw``: the guest does not come here after all.
    ``hand-over``: the guest has stopped. ``cancel``: the guest stays here, or is not expected here any more.
    ``source-dead``: take its claims over without the source. ``peer_dead`` is the operator's statement that the
    destination does not run the guest and never will, ``fence_ruled_out`` that no node fenced the guest meanwhile.
    """

    action: Literal["arm", "invite", "withdraw", "hand-over", "cancel", "source-dead"]
    to: str | None = None
    source: str | None = None
    peer_dead: bool = False
    fence_ruled_out: bool = False


class Operations(Protocol):
    """A host's operations. All raise what ``daemon.failures.sentence`` knows."""

    def status(self) -> StatusDocument:
        """Return every guest and unit with its tracked state."""

    def live(self) -> LiveDocument:
        """Return what passes now; only a running daemon knows."""

    def checkpoint(self, guest: str, lun: int | None) -> bytes:
        """Return the checkpoint document of a guest, of one of its units when ``lun`` is given."""

    def adopt(self, guest: str, lun: int, request: AdoptRequest) -> AdoptDocument:
        """Take a registration made without pyproxy into the tracked state; ambiguity is in the document."""

    def restore(self, request: RestoreRequest) -> RestoreDocument:
        """Take the guest of a checkpoint over; what the device decides is in the document, not an exception."""

    def migrate(self, guest: str, request: MigrateRequest) -> MigrationDocument:
        """Begin, go on with or cancel a migration; only a running daemon does that."""

    def migrations(self) -> MigrationsDocument:
        """Return what is known of all migrations."""

    def pr_keys(self, target: str) -> KeysDocument:
        """READ KEYS; ``target`` is a device node's path or GUEST/LUN."""

    def pr_reservation(self, target: str) -> ReservationDocument:
        """READ RESERVATION."""

    def pr_status(self, target: str) -> FullStatusDocument:
        """READ KEYS, READ RESERVATION and, where the device has it, READ FULL STATUS."""

    def pr_capabilities(self, target: str) -> CapabilitiesDocument:
        """REPORT CAPABILITIES."""

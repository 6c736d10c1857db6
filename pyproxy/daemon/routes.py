"""The operations of the control API as a table: its handlers and its OpenAPI document are both made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from msgspec import Struct

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
    VersionDocument,
)
from pyproxy.daemon.live import LiveDocument
from pyproxy.daemon.operations import AdoptRequest, MigrateRequest, RestoreRequest
from pyproxy.frontend.messages import ExecuteReply, ExecuteRequest


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the path or the query: ``number`` is 0 to 16383, else it is text."""

    name: str
    meaning: str
    number: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: ``path`` begins after the version, ``name`` is the handler's.

    ``body`` is what is sent, None for nothing. ``answer`` is what comes back, None for a JSON document that is not
    described here, which ``summary`` names.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    answer: type[Struct] | None
    body: type[Struct] | None = None
    query: tuple[Parameter, ...] = ()


PATH_PARAMETERS: Final = {
    "guest": Parameter("guest", "Name of a guest, as configured."),
    "lun": Parameter("lun", "Logical unit number in the guest.", number=True),
}
LUN: Final = Parameter("lun", "Which logical unit, where the guest has several.", number=True, required=False)
TARGET: Final = Parameter("target", "Path of a device node, or GUEST/LUN.")
_UNIT = "/guests/{guest}/units/{lun}"

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/version", "version", "Version, host name, process.", VersionDocument),
    Route("GET", "/openapi.json", "openapi", "This API as an OpenAPI document.", None),
    Route("GET", "/status", "status", "Every guest and unit with its tracked state.", StatusDocument),
    Route(
        "GET", "/live", "live", "What passes now, and who holds what; counters to take differences of.", LiveDocument
    ),
    Route("POST", f"{_UNIT}/execute", "execute", "Run one command as the guest's.", ExecuteReply, ExecuteRequest),
    Route(
        "POST",
        f"{_UNIT}/adopt",
        "adopt",
        "Take a registration made elsewhere into the tracked state.",
        AdoptDocument,
        AdoptRequest,
    ),
    Route(
        "POST",
        "/guests/{guest}/checkpoint",
        "checkpoint",
        "The checkpoint document (docs/checkpoint.schema.json).",
        None,
        query=(LUN,),
    ),
    Route("POST", "/restore", "restore", "Take the guest of a checkpoint over.", RestoreDocument, RestoreRequest),
    Route(
        "POST",
        "/guests/{guest}/migration",
        "migrate",
        "Begin, go on with or cancel the guest's migration.",
        MigrationDocument,
        MigrateRequest,
    ),
    Route("GET", "/migrations", "migrating", "Every migration that is known, latest last.", MigrationsDocument),
    Route("GET", "/pr/keys", "pr_keys", "READ KEYS.", KeysDocument, query=(TARGET,)),
    Route("GET", "/pr/reservation", "pr_reservation", "READ RESERVATION.", ReservationDocument, query=(TARGET,)),
    Route(
        "GET",
        "/pr/status",
        "pr_status",
        "Keys, reservation and, where the device has it, READ FULL STATUS.",
        FullStatusDocument,
        query=(TARGET,),
    ),
    Route("GET", "/pr/capabilities", "pr_capabilities", "REPORT CAPABILITIES.", CapabilitiesDocument, query=(TARGET,)),
)

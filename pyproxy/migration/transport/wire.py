"""Messages as JSON, and how a refusal looks on the wire."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from pyproxy.migration.messages import VERSION, Reply, Request
from pyproxy.migration.peer import PeerRefusedError

PATH: Final = f"/migration/v{VERSION}"
NAME_HEADER: Final = "Pyproxy-Peer"
"""Who asks, on a Unix socket; over TLS the certificate tells."""
CONTENT_TYPE: Final = "application/json"
REFUSED: Final = 409

_Short = Annotated[str, msgspec.Meta(max_length=64)]
_Text = Annotated[str, msgspec.Meta(max_length=1 << 16)]
_REQUESTS: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_REPLIES: Final[msgspec.json.Decoder[Reply]] = msgspec.json.Decoder(Reply)


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an answer that is not a reply."""

    reason: _Short
    message: _Text


_REFUSALS: Final = msgspec.json.Decoder(Refusal)
_ENCODER: Final = msgspec.json.Encoder()


def encode(message: Request | Reply | Refusal) -> bytes:
    """Write a message."""
    return _ENCODER.encode(message)


class _Versioned(msgspec.Struct, frozen=True):
    version: int = VERSION


_VERSIONED: Final = msgspec.json.Decoder(_Versioned)


def decode_request(body: bytes) -> Request:
    """Read a request; raises PeerRefusedError. One of another version is refused whatever else it says."""
    try:
        version = _VERSIONED.decode(body).version
        if version != VERSION:
            raise PeerRefusedError(
                f"this host speaks version {VERSION} of these messages, the request is of version {version}: use the "
                "same pyproxy on both",
                "version",
            )
        return _REQUESTS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerRefusedError(f"this is no request that pyproxy knows: {error}", "malformed") from None


def decode_reply(body: bytes) -> Reply:
    """Read a reply; raises ValueError."""
    try:
        return _REPLIES.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"its answer cannot be read: {error}") from None


def decode_refusal(body: bytes) -> Refusal | None:
    """Read why a request was refused; None for anything else than pyproxy's own refusal."""
    try:
        return _REFUSALS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
